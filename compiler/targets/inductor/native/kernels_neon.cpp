// NEON, which every aarch64 CPU has.
#include "kernels.h"

#if defined(__aarch64__)
#include "vectors_neon.h"

namespace products {
namespace {

#include "tiles.h"

}  // namespace

const Kernels kNeon = all();

}  // namespace products
#endif

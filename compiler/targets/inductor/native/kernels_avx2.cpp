// AVX2 with FMA and F16C: compiled for these whatever the package's march, called only if the CPU supports them.
#include "kernels.h"

#if defined(__x86_64__)
#include "vectors_avx2.h"

namespace products {
namespace {

inline Integers add(Integers sum, Integers w, Integers x) { return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x)); }

#include "tiles.h"
#include "panels.h"

}  // namespace

const Kernels kAvx2 = with_panels(all());

}  // namespace products
#endif

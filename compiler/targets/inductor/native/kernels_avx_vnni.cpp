// AVX2 with AVX-VNNI: the kernels of integers of kernels_avx2.cpp, with products of pairs and their sum in one
// instruction. The others are those of AVX2.
#include "kernels.h"

#if defined(__x86_64__)
#include "vectors_avx2.h"

namespace products {
namespace {

inline Integers add(Integers sum, Integers w, Integers x) { return _mm256_dpwssd_avx_epi32(sum, w, x); }

#include "tiles.h"
#include "panels.h"

}  // namespace

const Kernels kAvxVnni = with_panels(integers());

}  // namespace products
#endif

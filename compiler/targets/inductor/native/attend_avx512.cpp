// AVX512: compiled for it whatever the package's march, called only if the CPU supports it. Instantiates nothing of the
// standard library: the linker could use this file's copy for all files.
#include "attend.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#define UNROLLED _Pragma("GCC unroll 8")

namespace attention {
namespace {

constexpr int kLanes = 16, kHeads = 4, kAtOnce = 4, kColumns = 4;

#include "attend_vectors.h"

// Compilers do not widen bytes to all lanes by themselves.
inline Bits wide(Halves row) { return reinterpret_cast<Bits>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(row))); }
inline Bits wide(Bytes row) { return reinterpret_cast<Bits>(_mm512_cvtepu8_epi32(reinterpret_cast<__m128i>(row))); }
inline Integers wide(SignedBytes row) {
  return reinterpret_cast<Integers>(_mm512_cvtepi8_epi32(reinterpret_cast<__m128i>(row)));
}

inline void totals(const Vector* four, float* to) {
  const __m512 a = reinterpret_cast<__m512>(four[0]), b = reinterpret_cast<__m512>(four[1]);
  const __m512 c = reinterpret_cast<__m512>(four[2]), d = reinterpret_cast<__m512>(four[3]);
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

#include "attend_block.h"

}  // namespace

const Blocks kAvx512 = kAll;

}  // namespace attention
#endif

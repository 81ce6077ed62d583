// AVX512 without VNNI: F, BW, DQ and VL. Compiled for these whatever the package's march, called only if the CPU supports
// them.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "tokens.h"

namespace products {
namespace {

using Floats = __m512;
using Integers = __m512i;
constexpr int kLanes = 16, kMostTokens = 4;
constexpr int rows_of(int) { return 4; }  // 16 of the 32 registers are sums: of more, compilers keep none in registers

inline __m512i bits(const void* from) { return _mm512_loadu_si512(from); }
inline __m256i half_bits(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Integers load(const int16_t* from) { return bits(from); }
inline void store(float* to, Floats values) { _mm512_storeu_ps(to, values); }
ALWAYS_INLINE void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

inline Floats even(const uint16_t* w) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits(w), 16)); }
inline Floats odd(const uint16_t* w) {
  return _mm512_castsi512_ps(_mm512_and_si512(bits(w), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline Floats half(const uint16_t* w) { return _mm512_cvtph_ps(half_bits(w)); }
inline Integers bytes(const int8_t* w) { return _mm512_cvtepi8_epi16(half_bits(w)); }
inline Integers nibbles(const uint8_t* w, int part) {
  return _mm512_srai_epi16(_mm512_slli_epi16(bits(w), static_cast<unsigned>(12 - 4 * part)), 12);
}

// Shifted into a float16's bits, float8 is 2^8 times too small.
inline Floats float8(const uint8_t* w) {
  const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
  const __m256i kept = _mm256_set1_epi16(static_cast<int16_t>(0xbf80));  // the sign is in two bits: keep one
  return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(words, 7), kept)), _mm512_set1_ps(256));
}

inline Floats add(Floats sum, Floats w, Floats x) { return _mm512_fmadd_ps(w, x, sum); }
inline Integers add(Integers sum, Integers w, Integers x) { return _mm512_add_epi32(sum, _mm512_madd_epi16(w, x)); }
inline Floats converted(Integers integers) { return _mm512_cvtepi32_ps(integers); }
inline Floats spread(float value) { return _mm512_set1_ps(value); }

#include "sum4_avx512.h"
#include "tiles.h"

}  // namespace

const Kernels kAvx512 = all();

}  // namespace products
#endif

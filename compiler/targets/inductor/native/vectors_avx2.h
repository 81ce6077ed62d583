// Vectors of 256 bits for tiles.h.
#pragma once

#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels.h"
#include "tokens.h"

namespace products {
namespace {

using Floats = __m256;
using Integers = __m256i;
constexpr int kLanes = 8, kMostTokens = 6;
constexpr int rows_of(int tokens) { return tokens <= 3 ? 4 : 2; }  // 12 of the 16 registers are sums

inline __m256i bits(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline __m128i half_bits(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

inline Floats load(const float* from) {
  Floats values = _mm256_loadu_ps(from);
  asm("" : "+x"(values));  // loaded once for all rows of a tile, not by each product
  return values;
}
inline Integers load(const int16_t* from) { return bits(from); }
inline void store(float* to, Floats values) { _mm256_storeu_ps(to, values); }
ALWAYS_INLINE void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T1); }

inline Floats even(const uint16_t* w) { return _mm256_castsi256_ps(_mm256_slli_epi32(bits(w), 16)); }
inline Floats odd(const uint16_t* w) {
  return _mm256_castsi256_ps(_mm256_and_si256(bits(w), _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
inline Floats half(const uint16_t* w) { return _mm256_cvtph_ps(half_bits(w)); }
inline Integers bytes(const int8_t* w) { return _mm256_cvtepi8_epi16(half_bits(w)); }
inline Integers nibbles(const uint8_t* w, int part) {
  return _mm256_srai_epi16(_mm256_slli_epi16(bits(w), 12 - 4 * part), 12);
}

// Shifted into a float16's bits, float8 is 2^8 times too small.
inline Floats float8(const uint8_t* w) {
  const __m128i words = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(w)));
  const __m128i kept = _mm_set1_epi16(static_cast<int16_t>(0xbf80));  // the sign is in two bits: keep one
  return _mm256_mul_ps(_mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(words, 7), kept)), _mm256_set1_ps(256));
}

inline Floats add(Floats sum, Floats w, Floats x) { return _mm256_fmadd_ps(w, x, sum); }
inline Floats converted(Integers integers) { return _mm256_cvtepi32_ps(integers); }
inline Floats spread(float value) { return _mm256_set1_ps(value); }

inline Floats every(const float* unit) { return _mm256_broadcast_ss(unit); }
inline Integers every(const int16_t* unit) {
  return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(unit)));
}
// Keeps products in the order of the code: of more at once the results do not fit the registers.
template <class Vector>
ALWAYS_INLINE void keep(Vector& sum) {
  asm volatile("" : "+x"(sum));
}
inline Floats units(Floats values) { return values; }
inline Floats units(Integers values) { return _mm256_castsi256_ps(values); }

// Eight rows of eight units.
inline void transpose(Floats* v) {
  Floats pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int half = 0; half < 2; ++half) {
      fours[i + 2 * half] = _mm256_shuffle_ps(pairs[i + half], pairs[i + half + 2], 0x44);
      fours[i + 2 * half + 1] = _mm256_shuffle_ps(pairs[i + half], pairs[i + half + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

inline void sum4(const Floats* v, float* to) {
  const __m256 all = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
inline void sum4(const Integers* v, int32_t* to) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
  const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums);
}

}  // namespace
}  // namespace products

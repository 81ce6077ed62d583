// Widening of weights to bfloat16 with AVX512: a part of dots_avx512.cpp.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace products {
namespace {

// Table of the 128 magnitudes of float8 as bfloat16, in two bytes.
struct Magnitudes {
  alignas(64) uint8_t lower[128] = {}, upper[128] = {};
  alignas(64) uint16_t smallest[32] = {};  // the smallest magnitudes

  constexpr Magnitudes() {
    for (int code = 1; code < 128; ++code) {
      int exponent = code >> 3, fraction = code & 7;
      if (exponent == 0)  // a multiple of 2^-9
        for (exponent = 1; fraction < 8; --exponent) fraction *= 2;
      const int bits = (exponent + 120) << 7 | (fraction & 7) << 4;
      lower[code] = static_cast<uint8_t>(bits & 255);
      upper[code] = static_cast<uint8_t>(bits >> 8);
      if (code < 32) smallest[code] = static_cast<uint16_t>(bits);
    }
  }
};
constexpr Magnitudes kMagnitudes;

inline __m512i counting() {  // 0 ... 31
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return _mm512_or_si512(even, _mm512_slli_epi32(_mm512_add_epi32(even, _mm512_set1_epi32(1)), 16));
}

inline __mmask64 columns(int64_t left) { return left < 64 ? (__mmask64{1} << left) - 1 : ~__mmask64{0}; }

void widen_int8(const int8_t* from, int64_t count, uint16_t* to) {
  const auto wide = [](__m128i bytes) { return _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))); };
  const __m512i upper = _mm512_add_epi16(_mm512_slli_epi16(counting(), 1), _mm512_set1_epi16(1));  // halves of floats
  for (int64_t at = 0; at < count; at += 32) {
    const __mmask32 mask = static_cast<__mmask32>(columns(count - at));
    const __m256i bytes = _mm256_maskz_loadu_epi8(mask, from + at);
    const __m512i first = wide(_mm256_castsi256_si128(bytes)), second = wide(_mm256_extracti128_si256(bytes, 1));
    _mm512_mask_storeu_epi16(to + at, mask, _mm512_permutex2var_epi16(first, upper, second));
  }
}

// A group has 16 different values: a table that nibbles index, two neighbors in 32 bits.
void widen_int4(const uint8_t* from, const float* scales, int64_t count, uint16_t* to) {
  const __m512i signed_nibbles = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m512 integers = _mm512_cvtepi32_ps(signed_nibbles);
  for (int64_t group = 0; group < count / kGroup; ++group) {
    const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(integers, _mm512_set1_ps(scales[group])));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));  // ties to even
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    const __m512i table = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const int64_t at = group * kGroup / 2 + 16 * part;
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
      const __m512i both = _mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12));
      const __m512i nibbles = _mm512_and_si512(both, _mm512_set1_epi16(15));
      _mm512_storeu_si512(to + 2 * at, _mm512_permutexvar_epi16(nibbles, table));
    }
  }
}

// Exponents are 120 apart, except for multiples of 2^-9.
void widen_fp8(const uint8_t* from, int64_t count, uint16_t* to) {
  const __m512i smallest = _mm512_load_si512(kMagnitudes.smallest);
  for (int64_t at = 0; at < count; at += 32) {
    const __mmask32 mask = static_cast<__mmask32>(columns(count - at));
    const __m512i words = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, from + at));
    const __m512i code = _mm512_and_si512(words, _mm512_set1_epi16(0x7f));
    const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(code, 4), _mm512_set1_epi16(120 << 7));
    const __mmask32 small = _mm512_cmplt_epu16_mask(code, _mm512_set1_epi16(8));
    const __m512i magnitude = _mm512_mask_permutexvar_epi16(normal, small, code, smallest);
    const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(words, _mm512_set1_epi16(0x80)), 8);
    _mm512_mask_storeu_epi16(to + at, mask, _mm512_or_si512(magnitude, sign));
  }
}

}  // namespace
}  // namespace products

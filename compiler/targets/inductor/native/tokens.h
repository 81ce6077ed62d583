// Token rows quantized to integers or float8, for products with quantized weights.
//
//   8 bits     integer = round(x * 127 / largest |x| of the row)            as defined in compiler/decoder/quantized.py
//   16 bits    integer = round(x * 32512 / largest |x| of the row)          32512 = 127 * 256, so that two 8-bit digits
//                                                                          hold it: 256 * high + low
//   float8     e4m3 = round(x * 448 / largest |x| of the row)               also defined there; stored as bfloat16,
//                                                                          which represents e4m3 exactly
//
// With an `input_scale`, 8-bit integers and float8 are round(x / input_scale), clipped at 127 or 448.
// In 16 bits the error of a product is below the rounding of its result to bfloat16: at most 1/65024 of the largest |x|
// for every column, and the largest |x| is at most sqrt(columns) times the root mean square.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dots.h"

namespace products {

template <class T>
struct Buffer {  // 64-byte aligned, not initialized
  explicit Buffer(int64_t count);
  Buffer(Buffer&& other) noexcept : data(other.data) { other.data = nullptr; }
  ~Buffer();
  T* data;
};

// One digit: rows[t]. Two digits: rows[2 t] has the high one, rows[2 t + 1] the low one.
struct Tokens {
  Buffer<int8_t> values;
  std::vector<Integers> rows;
  std::vector<float> worth;  // scale of each token
};

struct GroupedTokens {
  Buffer<int8_t> values;
  Buffer<int32_t> eights;
  std::vector<WideIntegers> rows;
  std::vector<float> worth;
};

struct Fp8Tokens {
  Buffer<uint16_t> values;            // bfloat16, padded with zeros to a multiple of kChunk
  std::vector<const uint16_t*> rows;  // rows of `values`
  std::vector<float> worth;           // scale of each token
};

// x [count, k] in a dtype of floats.h. `input_scale`: null, or a scale for one digit.
template <class Float, int kDigits>
Tokens integers(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale = nullptr);

template <class Float>
Fp8Tokens fp8(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale);

template <class Float>
GroupedTokens grouped_integers(const typename Float::Stored* x, int64_t count, int64_t k);

}  // namespace products

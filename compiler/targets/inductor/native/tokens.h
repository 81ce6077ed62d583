// Token rows as integers or float8, which is how products with quantised weights read them.
//
//   8 bits     integer = round(x * 127 / largest |x| of the row)            as compiler/decoder/quantized.py defines it
//   16 bits    integer = round(x * 32512 / largest |x| of the row)          32512 = 127 * 256, so that two 8-bit digits
//                                                                          hold it: 256 * high + low
//   float8     e4m3 = round(x * 448 / largest |x| of the row)               defined there too; kept as bfloat16, which
//                                                                          has all its numbers
//
// With an `input_scale` 8-bit integers and float8 are round(x / input_scale), and no larger than 127 or 448.
// In 16 bits the error of a product is below the rounding of its result to bfloat16: at most 1/65024 of the largest |x|
// for every column, and the largest |x| is at most sqrt(columns) times the root mean square.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "dots.h"

namespace products {

template <class T>
struct Buffer {  // 64-byte aligned, not initialised
  explicit Buffer(int64_t count);
  Buffer(Buffer&& other) noexcept : data(other.data) { other.data = nullptr; }
  ~Buffer();
  T* data;
};

// One digit: rows[t]. Two: rows[2 t] has the high one, rows[2 t + 1] the low one.
struct Tokens {
  Buffer<int8_t> values;
  std::vector<Integers> rows;
  std::vector<float> worth;  // of an integer, by token
};

struct GroupedTokens {
  Buffer<int8_t> values;
  Buffer<int32_t> eights;
  std::vector<WideIntegers> rows;
  std::vector<float> worth;
};

struct Fp8Tokens {
  Buffer<uint16_t> values;            // bfloat16, padded with zeros to a multiple of kChunk
  std::vector<const uint16_t*> rows;  // of them
  std::vector<float> worth;           // of 1, by token
};

// x [count, k] of a dtype of floats.h. `input_scale`: null, or of one digit.
template <class Float, int kDigits>
Tokens integers(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale = nullptr);

template <class Float>
Fp8Tokens fp8(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale);

template <class Float>
GroupedTokens grouped_integers(const typename Float::Stored* x, int64_t count, int64_t k);

}  // namespace products

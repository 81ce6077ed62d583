// Token rows as integers, which is how products with integer weights read them.
//
//   8 bits     integer = round(x * 127 / largest |x| of the row)            as compiler/decoder/quantised.py defines it
//   16 bits    integer = round(x * 32512 / largest |x| of the row)          32512 = 127 * 256, so that two 8-bit digits
//                                                                          hold it: 256 * high + low
//
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

// x [count, k] of a dtype of floats.h.
template <class Float, int kDigits>
Tokens integers(const typename Float::Stored* x, int64_t count, int64_t k);

template <class Float>
GroupedTokens grouped_integers(const typename Float::Stored* x, int64_t count, int64_t k);

}  // namespace products

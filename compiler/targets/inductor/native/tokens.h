// Rows of x quantized to integers or float8, or widened to float32, for all kernels.
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
//
// Functions that quantize return the row's scale. A row with NaN or infinity has no integers: its scale is NaN or infinite.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "kernels.h"

namespace products {

template <class T>
class Buffer {  // 64-byte aligned, not initialized
 public:
  explicit Buffer(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    data = static_cast<T*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64));
    if (!data) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data); }
  T* data;
};

float eight_bits(const Row& x, int8_t* to);
float eight_bits(const Row& x, int16_t* to);
float two_digits(const Row& x, int8_t* high, int8_t* low);
float sixteen_bits(const Row& x, int16_t* to);
float float8(const Row& x, uint16_t* to);  // as bfloat16
float float8(const Row& x, float* to);
float float32(const Row& x, float* to);  // not quantized: the scale is 1

}  // namespace products

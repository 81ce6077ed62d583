// Dot products of rows of a weight with token rows: all that depends on the instruction set.
//
// A function takes `rows` rows of a weight as they follow each other in memory, and `tokens` rows of x; it gives
// sums [tokens][rows]. It reads the weight once, from front to back: with few tokens that is the work, and memory is
// fastest that way. Neither the other tokens nor the number of rows change the sum of a row and a token.
#pragma once

#include <cstdint>

namespace products {

constexpr int64_t kChunk = 64;   // integers of x are padded with zeros to a multiple of so many
constexpr int64_t kGroup = 128;  // columns of int4 that share a scale: 64 bytes of a row

// A row of x as 8-bit integers.
struct Integers {
  const int8_t* values;
  int32_t sum;  // of them
};

// A row of x as 16-bit integers, 256 * high + low. Of every group the even columns come first, then the odd ones, as
// the halves of int4's bytes have them.
struct WideIntegers {
  const int8_t* high;
  const int8_t* low;
  const int32_t* eights;  // 16 numbers a group: -8 times the sum of columns 8 l ... 8 l + 7
};

struct Dots {
  // w int8 [rows, k]. Exact.
  void (*int8)(const int8_t* w, int64_t rows, const Integers* x, int64_t tokens, int64_t k, int32_t* sums);
  // w [rows, k / 2], two's complement nibbles, byte i: column 2 i in the lower half; scales [rows, k / kGroup]. Exact
  // within a group, float32 over groups. k is a multiple of kGroup.
  void (*int4)(const uint8_t* w, const float* scales, int64_t rows, const WideIntegers* x, int64_t tokens, int64_t k,
               float* sums);
  // w [rows, k] and x, both bfloat16 or both float16, as their bits. Summed in float32.
  using Floats = void (*)(const uint16_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k,
                          float* sums);
  Floats bfloat16, float16;
  // Weights [count] -> bfloat16, which has all numbers of int8, and all of float8 e4m3 but NaN. int4: times the scale of
  // its group, the nearest.
  void (*widen_int8)(const int8_t* from, int64_t count, uint16_t* to);
  void (*widen_fp8)(const uint8_t* from, int64_t count, uint16_t* to);
  void (*widen_int4)(const uint8_t* from, const float* scales, int64_t count, uint16_t* to);
  // `bfloat16` with w float8, bit for bit the same, and faster with few tokens; null where it is not. Zeros follow x up
  // to a multiple of kChunk.
  void (*fp8)(const uint8_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k, float* sums);
};

extern const Dots kPortable;
#if defined(__x86_64__)
extern const Dots kAvx512;      // F, BW, DQ, VL, VNNI
extern const Dots kAvx512Bf16;  // and BF16, VBMI
#endif

// The fastest of them that this CPU has.
const Dots& best_dots();

}  // namespace products

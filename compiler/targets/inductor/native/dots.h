// Dot products of rows of a weight with token rows: the code that depends on the instruction set.
//
// A function computes sums [tokens][rows] from `rows` consecutive rows of a weight and `tokens` rows of x. It reads the
// weight once and sequentially: with few tokens, memory bandwidth is the limit. The sum of a row and a token depends
// neither on the other tokens nor on the number of rows.
#pragma once

#include <cstdint>

namespace products {

constexpr int64_t kChunk = 64;   // integers of x are padded with zeros to a multiple of this many
constexpr int64_t kGroup = 128;  // columns of int4 that share a scale: 64 bytes of a row

// A row of x quantized to 8-bit integers.
struct Integers {
  const int8_t* values;
  int32_t sum;  // sum of the integers
};

// A row of x quantized to 16-bit integers, 256 * high + low. Every group has its even columns first, then its odd ones,
// in the order of the halves of int4's bytes.
struct WideIntegers {
  const int8_t* high;
  const int8_t* low;
  const int32_t* eights;  // 16 integers per group: -8 times the sum of columns 8 l ... 8 l + 7
};

struct Dots {
  // w int8 [rows, k]. Exact.
  void (*int8)(const int8_t* w, int64_t rows, const Integers* x, int64_t tokens, int64_t k, int32_t* sums);
  // w [rows, k / 2], two's complement nibbles, byte i: column 2 i in the lower half; scales [rows, k / kGroup]. Exact
  // within a group, float32 over groups. k is a multiple of kGroup.
  void (*int4)(const uint8_t* w, const float* scales, int64_t rows, const WideIntegers* x, int64_t tokens, int64_t k,
               float* sums);
  // w [rows, k] and x as bits, both bfloat16 or both float16. Summed in float32.
  using Floats = void (*)(const uint16_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k,
                          float* sums);
  Floats bfloat16, float16;
  // Weights [count] -> bfloat16, exact for int8 and for float8 e4m3 except NaN. int4: times the scale of its group,
  // rounded to nearest.
  void (*widen_int8)(const int8_t* from, int64_t count, uint16_t* to);
  void (*widen_fp8)(const uint8_t* from, int64_t count, uint16_t* to);
  void (*widen_int4)(const uint8_t* from, const float* scales, int64_t count, uint16_t* to);
  // `bfloat16` with w float8: the same bits, and faster with few tokens; null if it is not. x is padded with zeros to a
  // multiple of kChunk.
  void (*fp8)(const uint8_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k, float* sums);
};

extern const Dots kPortable;
#if defined(__x86_64__)
extern const Dots kAvx512;      // F, BW, DQ, VL, VNNI
extern const Dots kAvx512Bf16;  // and BF16, VBMI
#endif

// Fastest implementation that this CPU supports.
const Dots& best_dots();

}  // namespace products

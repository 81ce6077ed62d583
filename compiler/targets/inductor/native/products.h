// y = x W^T, for weights in several formats, over all threads.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "levels.h"

namespace products {

enum class Format {
  kFloats,    // w [experts, out, in] in the dtype of x, which has 16 bits
  kInt8,      // w int8 [experts, out, in], scales [experts, out]; x as 16-bit integers
  kInt8Int8,  // the same; x as 8-bit integers
  kInt4,      // w nibbles [experts, out, in / 2], scales [experts, out, in / 128]; x as 16-bit integers
  kFp8,       // w float8 e4m3 [experts, out, in], scales [experts, out]; x as float8
  kInt8Many,    // as kInt8, for many tokens of bfloat16
  kInt4Many,    // as kInt4, for many tokens of bfloat16
  kFloatsMany,  // as kFloats, for many tokens
};

struct Weight {
  Format format;
  const void* data;
  const float* scales;       // null for kFloats
  const float* input_scale;  // scale of x for kInt8Int8 and kFp8; null: every token has its own
  int64_t experts, out, in;
};

struct Activations {
  Dtype dtype;            // dtype of x, bias and y
  const void* x;          // [tokens, in]
  const void* bias;       // [out], or null
  void* y;                // [tokens * choices, out]
  int64_t tokens;
  const int64_t* chosen;  // [tokens, choices]: expert of each row of y; null: expert 0
  int64_t choices;
};

void run(const Weight& weight, const Activations& activations, const Kernels& kernels);

// y before rounding: sums [tokens, out] of expert 0, with the scales `worth` [tokens]; `scales` [out], or null.
void round_sums(const Activations& activations, int64_t out, const float* sums, const float* worth,
                const float* scales);

constexpr int64_t kMostColumns = 65536;  // more could overflow the 32-bit sums of integers

}  // namespace products

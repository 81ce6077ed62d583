// y = x W^T, for weights in several formats, over all threads.
#pragma once

#include <cstdint>

#include "dots.h"

namespace products {

enum class Format {
  kBfloat16,  // w bfloat16 [experts, out, in]; x is bfloat16
  kInt8,      // w int8 [experts, out, in], scales [experts, out]; x as 16-bit integers
  kInt8Int8,  // the same; x as 8-bit integers
  kInt4,      // w nibbles [experts, out, in / 2], scales [experts, out, in / 128]; x as 16-bit integers
};

struct Weight {
  Format format;
  const void* data;
  const float* scales;  // null for kBfloat16
  int64_t experts, out, in;
};

template <class Stored>
struct Activations {
  const Stored* x;        // [tokens, in]
  const Stored* bias;     // [out], or null
  Stored* y;              // [tokens * choices, out]
  int64_t tokens;
  const int64_t* chosen;  // [tokens, choices], the expert of each row of y; null: expert 0
  int64_t choices;
};

void run(const Weight& weight, const Activations<float>& activations, const Dots& dots = best_dots());
// x, bias and y in bfloat16:
void run(const Weight& weight, const Activations<uint16_t>& activations, const Dots& dots = best_dots());

constexpr int64_t kMostColumns = 65536;  // more could overflow the 32-bit sums of integers

}  // namespace products

// Products of many tokens through torch's library, at levels where it is faster: it has kernels for tiles (AMX) and for
// pairs of bfloat16. Few tokens are limited by memory bandwidth, where our own kernels are as fast.
#pragma once

#include "products.h"

namespace products {

// kInt8Int8 with one expert: the same as `run`, bit for bit.
void run_int8_in_library(const Weight& weight, const Activations& activations);

// kFloats with one expert, all bfloat16: sums in float32, in the library's order.
void run_floats_in_library(const Weight& weight, const Activations& activations);

}  // namespace products

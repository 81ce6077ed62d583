// 8-bit products of many tokens through torch's library, on CPUs where that is faster: it has kernels for AMX tiles and
// for CPUs without VNNI. Few tokens are limited by memory bandwidth, where our own kernels are as fast on all CPUs.
#pragma once

#include "products.h"

namespace products {

// Whether torch's library is faster for a product of kInt8Int8 with one expert.
bool library_is_faster(int64_t tokens);

// Computes the same as `run`, bit for bit.
void run_in_library(const Weight& weight, const Activations& activations);

}  // namespace products

// 8-bit products of many tokens through torch's library, on CPUs where that is faster: it has kernels for tiles (AMX)
// and for CPUs without VNNI. Few tokens are bound by memory, where our own reading is as fast everywhere.
#pragma once

#include "products.h"

namespace products {

// Of kInt8Int8 with one expert.
bool library_is_faster(int64_t tokens);

// What `run` computes, bit for bit.
void run_in_library(const Weight& weight, const Activations& activations);

}  // namespace products

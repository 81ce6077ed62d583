// Rows of x as 8-bit digits, for aarch64: x in 16 bits is a row of high digits and one of low ones, 256 * high + low.
#pragma once

#include <cstring>

#include "tokens.h"

namespace products {
namespace {

// Bytes of a row of digits: it is padded with zeros.
ALWAYS_INLINE int64_t digit_bytes(int64_t k) { return padded(k, 64); }
int64_t two_digit_bytes(int64_t k) { return 2 * digit_bytes(k); }

float prepare_two_digits(const Row& x, void* to) {
  const int64_t width = digit_bytes(x.k);
  auto* const high = static_cast<int8_t*>(to);
  std::memset(high, 0, static_cast<size_t>(2 * width));
  return two_digits(x, high, high + width);
}

}  // namespace
}  // namespace products

// The two dtypes of activations, each as its bits in memory and as a float.
#pragma once

#include <cstdint>
#include <cstring>

namespace products {

struct Float32 {
  using Stored = float;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};

struct Bfloat16 {  // the upper half of a float32
  using Stored = uint16_t;

  static float load(uint16_t stored) {
    const uint32_t bits = static_cast<uint32_t>(stored) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

  static uint16_t store(float value) {  // the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;  // rounding up could make an infinity of a NaN
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

}  // namespace products

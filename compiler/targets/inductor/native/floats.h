// Conversions between bits in memory and float, for the dtypes of activations and for float8.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace products {

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Float32 {
  using Stored = float;
  static float load(float value) { return value; }
  static float store(float value) { return value; }
};

// Tag types: bfloat16 and float16 both have 16 bits.
struct Bfloat16 {  // the upper half of a float32
  using Stored = uint16_t;

  static float load(uint16_t stored) {
    return as_float(static_cast<uint32_t>(stored) << 16);
  }

  static uint16_t store(float value) {  // nearest, ties to even
    const uint32_t bits = as_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;  // rounding could turn a NaN into infinity
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

struct Float16 {  // 5 bits of exponent, 10 of mantissa
  using Stored = uint16_t;

  static float load(uint16_t stored) {
    const uint32_t sign = static_cast<uint32_t>(stored & 0x8000) << 16, rest = stored & 0x7fff;
    if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | rest << 13);  // infinity or NaN
    return as_float(sign | as_bits(as_float(rest << 13) * 0x1p112f));     // exponent bias 112 below float32's
  }

  static uint16_t store(float value) {  // nearest, ties to even
    const uint32_t bits = as_bits(value) & 0x7fffffff;
    const uint16_t sign = static_cast<uint16_t>(as_bits(value) >> 16 & 0x8000);
    if (bits > 0x7f800000) return 0x7e00;
    if (bits >= as_bits(65520.0f)) return sign | 0x7c00;
    if (bits < as_bits(0x1p-14f)) return sign | static_cast<uint16_t>(std::rint(as_float(bits) * 0x1p24f));
    return sign | static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13);
  }
};

struct Fp8 {  // e4m3: 4 bits of exponent, 3 of mantissa; only for weights, which have no NaN
  using Stored = uint8_t;

  static float load(uint8_t stored) {
    const uint32_t sign = static_cast<uint32_t>(stored & 0x80) << 24, rest = stored & 0x7f;
    return as_float(sign | as_bits(as_float(rest << 20) * 0x1p120f));  // exponent bias 120 below float32's
  }
};

}  // namespace products

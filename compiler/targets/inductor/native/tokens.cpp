#include "tokens.h"

#include <cmath>
#include <limits>

#include "floats.h"

namespace products {
namespace {

constexpr float kFloor = 1e-8f;  // lower bound of a row's largest magnitude, so that a row of zeros has a scale
constexpr float kLargestFp8 = 448, kLeastFp8 = 1.0f / (448 * 512);  // largest magnitude, smallest scale

// Calls f(type of floats.h, values) for the dtype of a row.
template <class F>
auto typed(const Row& x, const F& f) {
  switch (x.dtype) {
    case Dtype::kBfloat16: return f(Bfloat16(), static_cast<const uint16_t*>(x.values));
    case Dtype::kFloat16: return f(Float16(), static_cast<const uint16_t*>(x.values));
    case Dtype::kFloat32: break;
  }
  return f(Float32(), static_cast<const float*>(x.values));
}

// Bits of magnitudes are ordered like integers, with NaN above all numbers, so that a NaN is kept.
template <class Float>
float largest(const typename Float::Stored* x, int64_t k) {
  uint32_t most = 0;
  for (int64_t i = 0; i < k; ++i) {
    const uint32_t bits = as_bits(Float::load(x[i])) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  return as_float(most);
}

// Quantization of a row: x * steps is rounded, and a unit of the result has the value `worth`.
struct Steps {
  float steps, worth;
};

Steps fixed(float input_scale, float found) {
  return {1.0f / input_scale, found <= std::numeric_limits<float>::max() ? input_scale : std::nanf("")};
}

// Calls put(i, integer) for each column; returns the row's scale.
template <class Put>
float quantize(const Row& x, float most, const float* input_scale, const Put& put) {
  return typed(x, [&](auto type, const auto* values) {
    using Float = decltype(type);
    const float found = largest<Float>(values, x.k), own = most / (found < kFloor ? kFloor : found);
    const auto [steps, worth] = input_scale ? fixed(*input_scale, found) : Steps{own, 1.0f / own};
    for (int64_t i = 0; i < x.k; ++i) {
      float value = std::rint(Float::load(values[i]) * steps);
      value = value > most ? most : value < -most ? -most : value;
      put(i, static_cast<int32_t>(value));
    }
    return worth;
  });
}

// Nearest number of e4m3, ties to even: three bits after the leading one, or multiples of 2^-9.
float nearest_fp8(float value) {
  const uint32_t bits = as_bits(value);
  const float rounded = as_float((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000);
  return (bits & 0x7fffffff) < as_bits(0x1p-6f) ? std::rint(value * 0x1p9f) * 0x1p-9f : rounded;
}

// Calls put(i, number of e4m3) for each column; returns the row's scale.
template <class Put>
float round_to_fp8(const Row& x, const Put& put) {
  return typed(x, [&](auto type, const auto* values) {
    using Float = decltype(type);
    const float found = largest<Float>(values, x.k), of_row = found / kLargestFp8;
    const float own = of_row < kLeastFp8 ? kLeastFp8 : of_row;
    const auto [steps, worth] = x.input_scale ? fixed(*x.input_scale, found) : Steps{1.0f / own, own};
    for (int64_t i = 0; i < x.k; ++i) {
      float value = Float::load(values[i]) * steps;
      value = value > kLargestFp8 ? kLargestFp8 : value < -kLargestFp8 ? -kLargestFp8 : value;
      put(i, nearest_fp8(value));
    }
    return worth;
  });
}

}  // namespace

float eight_bits(const Row& x, int8_t* to) {
  return quantize(x, 127, x.input_scale, [&](int64_t i, int32_t value) { to[i] = static_cast<int8_t>(value); });
}

float eight_bits(const Row& x, int16_t* to) {
  return quantize(x, 127, x.input_scale, [&](int64_t i, int32_t value) { to[i] = static_cast<int16_t>(value); });
}

float two_digits(const Row& x, int8_t* high, int8_t* low) {
  return quantize(x, 127 * 256, nullptr, [&](int64_t i, int32_t value) {
    const int32_t upper = (value + 128) >> 8;
    high[i] = static_cast<int8_t>(upper);
    low[i] = static_cast<int8_t>(value - 256 * upper);
  });
}

float sixteen_bits(const Row& x, int16_t* to) {
  return quantize(x, 127 * 256, nullptr, [&](int64_t i, int32_t value) { to[i] = static_cast<int16_t>(value); });
}

float float8(const Row& x, uint16_t* to) {
  return round_to_fp8(x, [&](int64_t i, float value) { to[i] = static_cast<uint16_t>(as_bits(value) >> 16); });
}

float float8(const Row& x, float* to) {
  return round_to_fp8(x, [&](int64_t i, float value) { to[i] = value; });
}

float float32(const Row& x, float* to) {
  return typed(x, [&](auto type, const auto* values) {
    for (int64_t i = 0; i < x.k; ++i) to[i] = decltype(type)::load(values[i]);
    return 1.0f;
  });
}

}  // namespace products

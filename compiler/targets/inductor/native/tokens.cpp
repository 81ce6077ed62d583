#include "tokens.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "floats.h"

namespace products {
namespace {

constexpr float kFloor = 1e-8f;  // lower bound of a row's largest magnitude, so that a row of zeros has a scale
constexpr float kLargestFp8 = 448, kLeastFp8 = 1.0f / (448 * 512);  // largest magnitude, smallest scale

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

// Quantization of all rows. NaN and infinity have no quantized value, so they make the row's scale NaN or infinite.
Steps fixed(float input_scale, float found) {
  return {1.0f / input_scale, found <= std::numeric_limits<float>::max() ? input_scale : std::nanf("")};
}

// Quantizes a row and returns its scale. `low`: only for two digits.
template <class Float, int kDigits>
float quantize(const typename Float::Stored* x, int64_t k, const float* input_scale, int8_t* high, int8_t* low) {
  constexpr float kLargest = kDigits == 2 ? 127 * 256 : 127;
  const float found = largest<Float>(x, k), own = kLargest / (found < kFloor ? kFloor : found);
  const auto [steps, worth] = input_scale ? fixed(*input_scale, found) : Steps{own, 1.0f / own};
  for (int64_t i = 0; i < k; ++i) {
    float value = std::rint(Float::load(x[i]) * steps);
    value = value > kLargest ? kLargest : value < -kLargest ? -kLargest : value;
    const int32_t integer = static_cast<int32_t>(value);
    if (kDigits == 2) {
      const int32_t upper = (integer + 128) >> 8;
      high[i] = static_cast<int8_t>(upper);
      low[i] = static_cast<int8_t>(integer - 256 * upper);
    } else {
      high[i] = static_cast<int8_t>(integer);
    }
  }
  return worth;
}

// Nearest number of e4m3, ties to even: three bits after the leading one, or multiples of 2^-9.
float nearest_fp8(float value) {
  const uint32_t bits = as_bits(value);
  const float rounded = as_float((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000);
  return (bits & 0x7fffffff) < as_bits(0x1p-6f) ? std::rint(value * 0x1p9f) * 0x1p-9f : rounded;
}

// Quantizes a row and returns its scale.
template <class Float>
float round_to_fp8(const typename Float::Stored* x, int64_t k, const float* input_scale, uint16_t* values) {
  const float found = largest<Float>(x, k), of_row = found / kLargestFp8, own = of_row < kLeastFp8 ? kLeastFp8 : of_row;
  const auto [steps, worth] = input_scale ? fixed(*input_scale, found) : Steps{1.0f / own, own};
  for (int64_t i = 0; i < k; ++i) {
    float value = Float::load(x[i]) * steps;
    value = value > kLargestFp8 ? kLargestFp8 : value < -kLargestFp8 ? -kLargestFp8 : value;
    values[i] = static_cast<uint16_t>(as_bits(nearest_fp8(value)) >> 16);
  }
  return worth;
}

// One digit of a row, padded, and its sum.
Integers padded(int8_t* values, int64_t k, int64_t width) {
  std::memset(values + k, 0, static_cast<size_t>(width - k));
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += values[i];
  return {values, sum};
}

// Columns of every group, the even ones first.
void part(int8_t* values, int64_t k) {
  for (int64_t at = 0; at < k; at += kGroup) {
    int8_t group[kGroup];
    std::memcpy(group, values + at, kGroup);
    for (int64_t i = 0; i < kGroup / 2; ++i) {
      values[at + i] = group[2 * i];
      values[at + kGroup / 2 + i] = group[2 * i + 1];
    }
  }
}

}  // namespace

template <class T>
Buffer<T>::Buffer(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  data = static_cast<T*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64));
  if (!data) throw std::bad_alloc();
}

template <class T>
Buffer<T>::~Buffer() {
  std::free(data);
}

template struct Buffer<int8_t>;
template struct Buffer<uint16_t>;
template struct Buffer<int32_t>;
template struct Buffer<float>;

template <class Float, int kDigits>
Tokens integers(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale) {
  const int64_t width = (k + kChunk - 1) / kChunk * kChunk;
  Tokens made{Buffer<int8_t>(count * kDigits * width), {}, {}};
  made.rows.resize(static_cast<size_t>(count * kDigits));
  made.worth.resize(static_cast<size_t>(count));
#pragma omp parallel for if (count > 1)
  for (int64_t t = 0; t < count; ++t) {
    int8_t *high = made.values.data + t * kDigits * width, *low = high + (kDigits - 1) * width;
    made.worth[static_cast<size_t>(t)] = quantize<Float, kDigits>(x + t * k, k, input_scale, high, low);
    made.rows[static_cast<size_t>(t * kDigits)] = padded(high, k, width);
    if (kDigits == 2) made.rows[static_cast<size_t>(t * kDigits + 1)] = padded(low, k, width);
  }
  return made;
}

template <class Float>
GroupedTokens grouped_integers(const typename Float::Stored* x, int64_t count, int64_t k) {
  constexpr int64_t kLanes = 16, kEach = kGroup / kLanes;
  const int64_t lanes = k / kGroup * kLanes;
  GroupedTokens made{Buffer<int8_t>(2 * count * k), Buffer<int32_t>(count * lanes), {}, {}};
  made.rows.resize(static_cast<size_t>(count));
  made.worth.resize(static_cast<size_t>(count));
#pragma omp parallel for if (count > 1)
  for (int64_t t = 0; t < count; ++t) {
    int8_t *high = made.values.data + 2 * t * k, *low = high + k;
    int32_t* eights = made.eights.data + t * lanes;
    made.worth[static_cast<size_t>(t)] = quantize<Float, 2>(x + t * k, k, nullptr, high, low);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      int32_t sum = 0;
      for (int64_t i = lane * kEach; i < (lane + 1) * kEach; ++i) sum += 256 * high[i] + low[i];
      eights[lane] = -8 * sum;
    }
    part(high, k);
    part(low, k);
    made.rows[static_cast<size_t>(t)] = {high, low, eights};
  }
  return made;
}

template <class Float>
Fp8Tokens fp8(const typename Float::Stored* x, int64_t count, int64_t k, const float* input_scale) {
  const int64_t width = (k + kChunk - 1) / kChunk * kChunk;
  Fp8Tokens made{Buffer<uint16_t>(count * width), {}, {}};
  made.rows.resize(static_cast<size_t>(count));
  made.worth.resize(static_cast<size_t>(count));
#pragma omp parallel for if (count > 1)
  for (int64_t t = 0; t < count; ++t) {
    uint16_t* const values = made.values.data + t * width;
    made.worth[static_cast<size_t>(t)] = round_to_fp8<Float>(x + t * k, k, input_scale, values);
    std::memset(values + k, 0, static_cast<size_t>(width - k) * sizeof *values);
    made.rows[static_cast<size_t>(t)] = values;
  }
  return made;
}

template Tokens integers<Float32, 1>(const float*, int64_t, int64_t, const float*);
template Tokens integers<Float32, 2>(const float*, int64_t, int64_t, const float*);
template Tokens integers<Bfloat16, 1>(const uint16_t*, int64_t, int64_t, const float*);
template Tokens integers<Bfloat16, 2>(const uint16_t*, int64_t, int64_t, const float*);
template Tokens integers<Float16, 1>(const uint16_t*, int64_t, int64_t, const float*);
template Tokens integers<Float16, 2>(const uint16_t*, int64_t, int64_t, const float*);
template Fp8Tokens fp8<Float32>(const float*, int64_t, int64_t, const float*);
template Fp8Tokens fp8<Bfloat16>(const uint16_t*, int64_t, int64_t, const float*);
template Fp8Tokens fp8<Float16>(const uint16_t*, int64_t, int64_t, const float*);
template GroupedTokens grouped_integers<Float32>(const float*, int64_t, int64_t);
template GroupedTokens grouped_integers<Bfloat16>(const uint16_t*, int64_t, int64_t);
template GroupedTokens grouped_integers<Float16>(const uint16_t*, int64_t, int64_t);

}  // namespace products

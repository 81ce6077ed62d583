#include "tokens.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "floats.h"

namespace products {
namespace {

constexpr float kFloor = 1e-8f;  // of the largest magnitude, so that a row of zeros has a scale

// As bits, magnitudes have the order of integers, and a NaN is larger than all of them: it is found, and stays one.
template <class Float>
float largest(const typename Float::Stored* x, int64_t k) {
  uint32_t most = 0;
  for (int64_t i = 0; i < k; ++i) {
    const uint32_t bits = as_bits(Float::load(x[i])) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  return as_float(most);
}

// Gives what an integer is worth. `low` only with two digits.
template <class Float, int kDigits>
float quantise(const typename Float::Stored* x, int64_t k, int8_t* high, int8_t* low) {
  constexpr float kLargest = kDigits == 2 ? 127 * 256 : 127;
  const float found = largest<Float>(x, k), steps = kLargest / (found < kFloor ? kFloor : found);
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
  return 1.0f / steps;
}

// A row's digit, padded, and the sum of it.
Integers padded(int8_t* values, int64_t k, int64_t width) {
  std::memset(values + k, 0, static_cast<size_t>(width - k));
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += values[i];
  return {values, sum};
}

// The columns of every group: even ones first.
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
template struct Buffer<int32_t>;
template struct Buffer<float>;

template <class Float, int kDigits>
Tokens integers(const typename Float::Stored* x, int64_t count, int64_t k) {
  const int64_t width = (k + kChunk - 1) / kChunk * kChunk;
  Tokens made{Buffer<int8_t>(count * kDigits * width), {}, {}};
  made.rows.resize(static_cast<size_t>(count * kDigits));
  made.worth.resize(static_cast<size_t>(count));
#pragma omp parallel for if (count > 1)
  for (int64_t t = 0; t < count; ++t) {
    int8_t *high = made.values.data + t * kDigits * width, *low = high + (kDigits - 1) * width;
    made.worth[static_cast<size_t>(t)] = quantise<Float, kDigits>(x + t * k, k, high, low);
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
    made.worth[static_cast<size_t>(t)] = quantise<Float, 2>(x + t * k, k, high, low);
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

template Tokens integers<Float32, 1>(const float*, int64_t, int64_t);
template Tokens integers<Float32, 2>(const float*, int64_t, int64_t);
template Tokens integers<Bfloat16, 1>(const uint16_t*, int64_t, int64_t);
template Tokens integers<Bfloat16, 2>(const uint16_t*, int64_t, int64_t);
template Tokens integers<Float16, 1>(const uint16_t*, int64_t, int64_t);
template Tokens integers<Float16, 2>(const uint16_t*, int64_t, int64_t);
template GroupedTokens grouped_integers<Float32>(const float*, int64_t, int64_t);
template GroupedTokens grouped_integers<Bfloat16>(const uint16_t*, int64_t, int64_t);
template GroupedTokens grouped_integers<Float16>(const uint16_t*, int64_t, int64_t);

}  // namespace products

// Loops that the compiler vectorizes, for the package's march.
#include "dots.h"

#include <cstring>

#include "floats.h"

namespace products {
namespace {

void int8(const int8_t* w, int64_t rows, const Integers* x, int64_t tokens, int64_t k, int32_t* sums) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = 0; t < tokens; ++t) {
      const int8_t* weights = w + row * k;
      const int8_t* values = x[t].values;
      int32_t sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<int16_t>(weights[i]) * static_cast<int16_t>(values[i]);
      sums[t * rows + row] = sum;
    }
}

void int4(const uint8_t* w, const float* scales, int64_t rows, const WideIntegers* x, int64_t tokens, int64_t k,
          float* sums) {
  constexpr int64_t kHalf = kGroup / 2;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = 0; t < tokens; ++t) {
      float sum = 0;
      for (int64_t group = 0; group < k / kGroup; ++group) {
        const uint8_t* both = w + row * k / 2 + group * kHalf;
        const int8_t *high = x[t].high + group * kGroup, *low = x[t].low + group * kGroup;
        int32_t upper = 0, under = 0;
        for (int64_t i = 0; i < kHalf; ++i) {
          const int16_t even = static_cast<int16_t>(((both[i] & 15) ^ 8) - 8);
          const int16_t odd = static_cast<int16_t>(((both[i] >> 4) ^ 8) - 8);
          upper += even * static_cast<int16_t>(high[i]) + odd * static_cast<int16_t>(high[kHalf + i]);
          under += even * static_cast<int16_t>(low[i]) + odd * static_cast<int16_t>(low[kHalf + i]);
        }
        sum += static_cast<float>(256 * upper + under) * scales[row * (k / kGroup) + group];
      }
      sums[t * rows + row] = sum;
    }
}

// Compilers do not reorder sums of floats, so vectors are explicit. Two sums per token hide the latency of one.
using Vector = float __attribute__((vector_size(32)));
using Bits = uint32_t __attribute__((vector_size(32)));
using Stored = uint16_t __attribute__((vector_size(16)));
constexpr int64_t kLanes = 8;

inline Vector widened(Bits bits, Bfloat16) { return reinterpret_cast<Vector>(bits << 16); }

inline Vector widened(Bits bits, Float16) {  // as Float16::load
  const Bits sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
  const Bits finite = reinterpret_cast<Bits>(reinterpret_cast<Vector>(rest << 13) * 0x1p112f);
  const Bits others = reinterpret_cast<Bits>(rest >= 0x7c00);
  return reinterpret_cast<Vector>(sign | (others & (0x7f800000 | rest << 13)) | (~others & finite));
}

template <class Float>
inline Vector load(const uint16_t* from) {
  Stored stored;
  std::memcpy(&stored, from, sizeof stored);
  return widened(__builtin_convertvector(stored, Bits), Float());
}

// `apart`: floats from the sums of one token to those of the next.
template <class Float, int T>
void row_times(const uint16_t* w, const uint16_t* const* x, int64_t k, float* sums, int64_t apart) {
  Vector sum[T][2] = {};
  int64_t at = 0;
  for (; at + 2 * kLanes <= k; at += 2 * kLanes)
    for (int half = 0; half < 2; ++half) {
      const Vector weights = load<Float>(w + at + half * kLanes);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[t][half] += weights * load<Float>(x[t] + at + half * kLanes);
    }
  for (int t = 0; t < T; ++t) {
    const Vector both = sum[t][0] + sum[t][1];
    float whole = 0;
    for (int lane = 0; lane < kLanes; ++lane) whole += both[lane];
    for (int64_t i = at; i < k; ++i) whole += Float::load(w[i]) * Float::load(x[t][i]);
    sums[t * apart] = whole;
  }
}

template <class Float>
void floats(const uint16_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k, float* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    int64_t t = 0;
    for (; t + 4 <= tokens; t += 4) row_times<Float, 4>(w + row * k, x + t, k, sums + t * rows + row, rows);
    for (; t < tokens; ++t) row_times<Float, 1>(w + row * k, x + t, k, sums + t * rows + row, rows);
  }
}

void widen_int8(const int8_t* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint16_t>(as_bits(static_cast<float>(from[i])) >> 16);
}

void widen_int4(const uint8_t* from, const float* scales, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count / 2; ++i) {
    const float scale = scales[2 * i / kGroup];
    to[2 * i] = Bfloat16::store(static_cast<float>(((from[i] & 15) ^ 8) - 8) * scale);
    to[2 * i + 1] = Bfloat16::store(static_cast<float>(((from[i] >> 4) ^ 8) - 8) * scale);
  }
}

void widen_fp8(const uint8_t* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint16_t>(as_bits(Fp8::load(from[i])) >> 16);
}

}  // namespace

const Dots kPortable = {int8,       int4,      floats<Bfloat16>, floats<Float16>,
                        widen_int8, widen_fp8, widen_int4,       nullptr};

}  // namespace products

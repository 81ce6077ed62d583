// Loops for any CPU, which the compiler vectorizes for the package's march: what the other kernels are compared with.
#include "kernels.h"

#include <cstring>

#include "floats.h"
#include "tokens.h"

namespace products {
namespace {

constexpr int64_t kColumns = 512;  // of 16 bits times 8 bits: their sum does not overflow 32 bits

template <class Total>
void int8(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  for (int64_t row = 0; row < w.rows; ++row)
    for (int64_t t = 0; t < tokens; ++t) {
      const auto* const weights = static_cast<const int8_t*>(w.weights) + row * w.k;
      const auto* const values = static_cast<const int16_t*>(x[t]);
      Total total = 0;
      for (int64_t from = 0; from < w.k; from += kColumns) {
        int32_t sum = 0;
        const int64_t to = from + kColumns < w.k ? from + kColumns : w.k;
        for (int64_t i = from; i < to; ++i) sum += static_cast<int16_t>(weights[i]) * values[i];
        total += static_cast<Total>(sum);
      }
      sums[t * w.rows + row] = static_cast<float>(total);
    }
}

void int4(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  for (int64_t row = 0; row < w.rows; ++row)
    for (int64_t t = 0; t < tokens; ++t) {
      float total = 0;
      for (int64_t group = 0; group < w.k / kGroup; ++group) {
        const auto* const both = static_cast<const uint8_t*>(w.weights) + (row * w.k + group * kGroup) / 2;
        const auto* const even = static_cast<const int16_t*>(x[t]) + group * kGroup;
        const auto* const odd = even + kGroup / 2;
        int32_t sum = 0;
        for (int64_t i = 0; i < kGroup / 2; ++i) {
          sum += static_cast<int16_t>(((both[i] & 15) ^ 8) - 8) * even[i];
          sum += static_cast<int16_t>(((both[i] >> 4) ^ 8) - 8) * odd[i];
        }
        total += static_cast<float>(sum) * w.scales[row * (w.k / kGroup) + group];
      }
      sums[t * w.rows + row] = total;
    }
}

// Compilers do not reorder sums of floats, so their order is that of lanes.
constexpr int64_t kLanes = 16;

template <class Float>
void floats(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  for (int64_t row = 0; row < w.rows; ++row)
    for (int64_t t = 0; t < tokens; ++t) {
      const auto* const weights = static_cast<const typename Float::Stored*>(w.weights) + row * w.k;
      const auto* const values = static_cast<const float*>(x[t]);
      float sum[kLanes] = {}, total = 0;
      int64_t at = 0;
      for (; at + kLanes <= w.k; at += kLanes) {
        float wide[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) wide[lane] = Float::load(weights[at + lane]);
        for (int lane = 0; lane < kLanes; ++lane) sum[lane] += wide[lane] * values[at + lane];
      }
      for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
      for (; at < w.k; ++at) total += Float::load(weights[at]) * values[at];
      sums[t * w.rows + row] = total;
    }
}

template <class X>
int64_t row_bytes(int64_t k) {
  return padded(k * static_cast<int64_t>(sizeof(X)), 64);
}

template <class X, float (*kFill)(const Row&, X*)>
float prepare(const Row& x, void* to) {
  return kFill(x, static_cast<X*>(to));
}

// The even columns of every group first.
float prepare_groups(const Row& x, void* to) {
  auto* const row = static_cast<int16_t*>(to);
  const float worth = sixteen_bits(x, row);
  for (int64_t at = 0; at < x.k; at += kGroup) {
    int16_t group[kGroup];
    std::memcpy(group, row + at, sizeof group);
    for (int64_t i = 0; i < kGroup; ++i) row[at + i % 2 * (kGroup / 2) + i / 2] = group[i];
  }
  return worth;
}

template <class Float>
constexpr Kernel kFloats = {row_bytes<float>, prepare<float, float32>, floats<Float>, nullptr};
constexpr Kernel kInt8 = {row_bytes<int16_t>, prepare<int16_t, sixteen_bits>, int8<float>, nullptr};
constexpr Kernel kInt8Int8 = {row_bytes<int16_t>, prepare<int16_t, eight_bits>, int8<int32_t>, nullptr};
constexpr Kernel kInt4 = {row_bytes<int16_t>, prepare_groups, int4, nullptr};
constexpr Kernel kFloat8 = {row_bytes<float>, prepare<float, float8>, floats<Fp8>, nullptr};

}  // namespace

const Kernels kPortable = {kFloats<Bfloat16>, kFloats<Float16>, kInt8, kInt8Int8, kInt4, kFloat8, {}, {}, {}, {}};

}  // namespace products

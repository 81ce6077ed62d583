#include "products.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "floats.h"
#include "tokens.h"

namespace products {
namespace {

constexpr int64_t kFewRows = 16;     // rows of a block with few tokens: threads get parts of equal size
constexpr int64_t kManyRows = 64;    // with many, more rows share what is read of x
constexpr int64_t kManyTokens = 32;
constexpr int64_t kLeast = 1 << 16;  // elements of a weight above which starting threads pays off

const Kernel& kernel_of(const Weight& w, Dtype dtype, const Kernels& kernels) {
  const auto many = [](const Kernel& own, const Kernel& few) -> const Kernel& { return own.dot ? own : few; };
  const bool bfloat16 = dtype == Dtype::kBfloat16;
  switch (w.format) {
    case Format::kFloats: return bfloat16 ? kernels.bfloat16 : kernels.float16;
    case Format::kInt8: return kernels.int8;
    case Format::kInt8Int8: return kernels.int8_int8;
    case Format::kInt4: return kernels.int4;
    case Format::kFp8: return kernels.fp8;
    case Format::kInt8Many: return many(kernels.int8_many, kernels.int8);
    case Format::kInt4Many: return many(kernels.int4_many, kernels.int4);
    case Format::kFloatsMany: break;
  }
  return bfloat16 ? many(kernels.bfloat16_many, kernels.bfloat16) : many(kernels.float16_many, kernels.float16);
}

// Bits of a weight, and whether its scales are those of groups.
struct Layout {
  int64_t bits;
  bool groups;
};

Layout layout_of(Format format) {
  switch (format) {
    case Format::kFloats:
    case Format::kFloatsMany: return {16, false};
    case Format::kInt4:
    case Format::kInt4Many: return {4, true};
    default: return {8, false};
  }
}

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

// Prepared rows of x, with their scales.
struct Prepared {
  Buffer<char> values;
  std::vector<const void*> rows;
  std::vector<float> worth;

  Prepared(const Kernel& kernel, const Weight& w, const Activations& a)
      : values(kernel.prepare ? a.tokens * kernel.row_bytes(w.in) : 0),
        rows(static_cast<size_t>(a.tokens)),
        worth(static_cast<size_t>(a.tokens), 1.0f) {
    const auto* const x = static_cast<const char*>(a.x);
    const int64_t bytes = w.in * bytes_of(a.dtype);
#pragma omp parallel for if (kernel.prepare && a.tokens > 1)
    for (int64_t t = 0; t < a.tokens; ++t) {
      const auto at = static_cast<size_t>(t);
      rows[at] = x + t * bytes;
      if (!kernel.prepare) continue;
      char* const to = values.data + t * kernel.row_bytes(w.in);
      worth[at] = kernel.prepare({rows[at], a.dtype, w.in, w.input_scale}, to);
      rows[at] = to;
    }
  }
};

// Rows of y that one expert computes, and their rows of x.
struct Part {
  std::vector<int64_t> y;
  std::vector<const void*> x;
};

std::vector<Part> parts_of(const Weight& w, const Activations& a, const Prepared& prepared) {
  std::vector<Part> found(static_cast<size_t>(w.experts));
  for (int64_t row = 0; row < a.tokens * a.choices; ++row) {
    Part& part = found[static_cast<size_t>(a.chosen ? a.chosen[row] : 0)];
    part.y.push_back(row);
    part.x.push_back(prepared.rows[static_cast<size_t>(row / a.choices)]);
  }
  return found;
}

// A row of y: sums times the scales of token and rows, plus bias, rounded.
template <class Float>
void round_row(const Activations& a, int64_t first, int64_t count, const float* sums, float worth, const float* scales,
               typename Float::Stored* y) {
  const auto* const bias = static_cast<const typename Float::Stored*>(a.bias);
  float values[kManyRows];
  for (int64_t r = 0; r < count; ++r) values[r] = sums[r] * worth;
  if (scales)
    for (int64_t r = 0; r < count; ++r) values[r] = values[r] * scales[r];
  if (bias)
    for (int64_t r = 0; r < count; ++r) values[r] = values[r] + Float::load(bias[first + r]);
  for (int64_t r = 0; r < count; ++r) y[r] = Float::store(values[r]);
}

template <class Float>
void run_as(const Weight& w, const Activations& a, const Kernels& kernels) {
  const Kernel& kernel = kernel_of(w, a.dtype, kernels);
  const Layout layout = layout_of(w.format);
  const Prepared prepared(kernel, w, a);
  const auto parts = parts_of(w, a, prepared);
  size_t widest = 0;
  for (const Part& part : parts) widest = std::max(widest, part.x.size());
  const int64_t most = static_cast<int64_t>(widest), threads = omp_get_max_threads();
  const bool many = most >= kManyTokens && w.out >= 4 * kManyRows * threads;
  const int64_t size = many ? kManyRows : kFewRows, blocks = (w.out + size - 1) / size;
  const Buffer<float> sums(most * size * threads);
  const int64_t room = kernel.room ? padded(kernel.room(size, w.in), 64) : 0;
  const Buffer<char> rooms(room * threads);
#pragma omp parallel if (w.out * w.in >= kLeast)
  for (int64_t expert = 0; expert < w.experts; ++expert) {
    const Part& part = parts[static_cast<size_t>(expert)];
    if (part.x.empty()) continue;
    float* const own = sums.data + most * size * omp_get_thread_num();
    // Sums are a thread's own, so experts need no barrier. Threads read memory at different rates: the last, small parts
    // go to the one that is done first.
#pragma omp for schedule(guided) nowait
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * size, count = std::min(size, w.out - first), row = expert * w.out + first;
      const auto* const data = static_cast<const char*>(w.data) + row * w.in * layout.bits / 8;
      kernel.dot({data, layout.groups ? w.scales + row * (w.in / kGroup) : nullptr, count, w.in,
                  rooms.data + room * omp_get_thread_num()},
                 part.x.data(), static_cast<int64_t>(part.x.size()), own);
      for (size_t i = 0; i < part.y.size(); ++i)
        round_row<Float>(a, first, count, own + static_cast<int64_t>(i) * count,
                         prepared.worth[static_cast<size_t>(part.y[i] / a.choices)],
                         w.scales && !layout.groups ? w.scales + row : nullptr,
                         static_cast<typename Float::Stored*>(a.y) + part.y[i] * w.out + first);
    }
  }
}

template <class Float>
void round_as(const Activations& a, int64_t out, const float* sums, const float* worth, const float* scales) {
  auto* const y = static_cast<typename Float::Stored*>(a.y);
#pragma omp parallel for
  for (int64_t t = 0; t < a.tokens; ++t)
    for (int64_t first = 0; first < out; first += kManyRows)
      round_row<Float>(a, first, std::min(kManyRows, out - first), sums + t * out + first, worth[t],
                       scales ? scales + first : nullptr, y + t * out + first);
}

}  // namespace

void run(const Weight& weight, const Activations& activations, const Kernels& kernels) {
  switch (activations.dtype) {
    case Dtype::kFloat32: return run_as<Float32>(weight, activations, kernels);
    case Dtype::kBfloat16: return run_as<Bfloat16>(weight, activations, kernels);
    case Dtype::kFloat16: return run_as<Float16>(weight, activations, kernels);
  }
}

void round_sums(const Activations& activations, int64_t out, const float* sums, const float* worth,
                const float* scales) {
  switch (activations.dtype) {
    case Dtype::kFloat32: return round_as<Float32>(activations, out, sums, worth, scales);
    case Dtype::kBfloat16: return round_as<Bfloat16>(activations, out, sums, worth, scales);
    case Dtype::kFloat16: return round_as<Float16>(activations, out, sums, worth, scales);
  }
}

}  // namespace products

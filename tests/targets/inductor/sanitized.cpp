// Products and attention of odd sizes at the levels of the command line, for sanitizers: operands end with their
// allocations, so that a read or write behind them is found.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "attend.h"
#include "products.h"

using namespace products;

namespace {

uint32_t state = 1;
uint8_t random_byte() {
  state = state * 1664525 + 1013904223;
  return static_cast<uint8_t>(state >> 24);
}

// Allocation of exactly that size, with small numbers in every format.
struct Memory {
  explicit Memory(int64_t bytes, uint8_t mask = 0x3f) : data(static_cast<uint8_t*>(std::malloc(bytes ? bytes : 1))) {
    for (int64_t i = 0; i < bytes; ++i) data[i] = random_byte() & mask;
  }
  Memory(const Memory&) = delete;
  ~Memory() { std::free(data); }
  uint8_t* data;
};

std::vector<float> floats(int64_t count) { return std::vector<float>(static_cast<size_t>(count), 0.01f); }

int64_t bits_of(Format format) {
  switch (format) {
    case Format::kFloats:
    case Format::kFloatsMany: return 16;
    case Format::kInt4:
    case Format::kInt4Many: return 4;
    default: return 8;
  }
}

void product(const Kernels& kernels, Format format, Dtype dtype, int64_t tokens, int64_t out, int64_t in) {
  const int64_t wide = dtype == Dtype::kFloat32 ? 4 : 2, bits = bits_of(format);
  const Memory weight(out * in * bits / 8), x(tokens * in * wide), y(tokens * out * wide), bias(out * wide);
  const auto scales = floats(bits == 4 ? out * in / kGroup : out);
  run({format, weight.data, bits == 16 ? nullptr : scales.data(), nullptr, 1, out, in},
      {dtype, x.data, bias.data, y.data, tokens, nullptr, 1}, kernels);
}

void products_of(const Kernels& kernels) {
  for (const int64_t in : {1, 31, 63, 65, 130, 511, 513, 1100})
    for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 13, 33})
      for (const int64_t out : {1, 3, 17, 53}) {
        for (const Dtype dtype : {Dtype::kBfloat16, Dtype::kFloat16})
          for (const Format format :
               {Format::kFloats, Format::kFloatsMany, Format::kInt8, Format::kInt8Int8, Format::kFp8})
            product(kernels, format, dtype, tokens, out, in);
        product(kernels, Format::kInt8Int8, Dtype::kFloat32, tokens, out, in);
        product(kernels, Format::kFp8, Dtype::kFloat32, tokens, out, in);
        product(kernels, Format::kInt8Many, Dtype::kBfloat16, tokens, out, in);
        const int64_t groups = (in % 20 + 1) * kGroup;
        product(kernels, Format::kInt4, Dtype::kBfloat16, tokens, out, groups);
        product(kernels, Format::kInt4Many, Dtype::kBfloat16, tokens, out, groups);
      }
}

void attention_of(const attention::Blocks& blocks) {
  using namespace attention;
  const int64_t heads = 6, kv_heads = 2;
  for (const auto stored : {Stored::kFloat32, Stored::kBfloat16, Stored::kFloat16, Stored::kInt8, Stored::kFloat8})
    for (const int64_t dim : {1, 20, 64, 70})
      for (const int64_t length : {1, 5, 128, 300}) {
        const int64_t bytes = stored == Stored::kFloat32 ? 4 : stored >= Stored::kInt8 ? 1 : 2;
        const Memory k(length * kv_heads * dim * bytes), v(length * kv_heads * dim * bytes);
        const Memory q(heads * dim * 2), y(heads * dim * 2);
        const auto scales = floats(kv_heads), slopes = floats(heads);
        const int64_t position = length - 1;
        const int64_t window = length % 3 ? 0 : 40;
        attend({stored, k.data, v.data, scales.data(), scales.data(), length, kv_heads, dim},
               {attention::Dtype::kBfloat16, q.data, &position, slopes.data(), window, 0.1f, 0, 1, 1, heads, y.data},
               blocks);
      }
}

}  // namespace

int main(int count, char** names) {
  for (int i = 1; i < count; ++i) {
    products_of(kernels(level_named(names[i])));
    std::printf("%s: products\n", names[i]);
    std::fflush(stdout);
  }
  attention_of(attention::kPortable);
  attention_of(attention::best_blocks());
  std::puts("attention");
}

// Products for another process: requests on the standard input, each with its operands, and y on the standard output.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "products.h"

using namespace products;

namespace {

bool filled(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

struct Request {
  char level[16];
  int64_t format, experts, out, in, dtype, tokens, choices;
  int64_t weight_bytes, scale_bytes, input_scale_bytes, x_bytes, bias_bytes, chosen_bytes, y_bytes;
};

// Operand of that size, at the end of its allocation; null for none.
struct Operand {
  explicit Operand(int64_t bytes) : size(bytes), data(bytes ? std::malloc(static_cast<size_t>(bytes)) : nullptr) {
    if (bytes && !filled(data, static_cast<size_t>(bytes))) std::exit(1);
  }
  Operand(const Operand&) = delete;
  ~Operand() { std::free(data); }
  int64_t size;
  void* data;
};

}  // namespace

int main() {
  for (Request r; filled(&r, sizeof r);) {
    const Operand weight(r.weight_bytes), scales(r.scale_bytes), input_scale(r.input_scale_bytes), x(r.x_bytes),
        bias(r.bias_bytes), chosen(r.chosen_bytes);
    std::vector<char> y(static_cast<size_t>(r.y_bytes));
    run({static_cast<Format>(r.format), weight.data, static_cast<float*>(scales.data),
         static_cast<float*>(input_scale.data), r.experts, r.out, r.in},
        {static_cast<Dtype>(r.dtype), x.data, bias.data, y.data(), r.tokens, static_cast<int64_t*>(chosen.data),
         r.choices},
        kernels(level_named(r.level)));
    std::fwrite(y.data(), 1, y.size(), stdout);
    std::fflush(stdout);
  }
}

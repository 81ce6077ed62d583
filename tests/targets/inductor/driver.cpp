// The library of products behind one C function, for tests to call at the level that they want.
#include <stdexcept>

#include "products.h"

using namespace products;

// Number of a level, of this process for no name; -1 for one that is refused.
extern "C" __attribute__((visibility("default"))) int number_of_level(const char* name) try {
  return static_cast<int>(name ? level_named(name) : level());
} catch (const std::exception&) {
  return -1;
}

extern "C" __attribute__((visibility("default"))) void run_product(
    const char* level, int format, const void* weight, const float* scales, const float* input_scale, int64_t experts,
    int64_t out, int64_t in, int dtype, const void* x, const void* bias, int64_t tokens, const int64_t* chosen,
    int64_t choices, void* y) {
  run({static_cast<Format>(format), weight, scales, input_scale, experts, out, in},
      {static_cast<Dtype>(dtype), x, bias, y, tokens, chosen, choices}, kernels(level_named(level)));
}

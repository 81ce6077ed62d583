// The library of products behind one C function, for tests to call with the instruction set that they want.
#include "products.h"

using namespace products;

static const Dots& with(int instructions) {
#if defined(__x86_64__)
  if (instructions == 1) return kAvx512;
  if (instructions == 2) return kAvx512Bf16;
#endif
  return kPortable;
}

extern "C" __attribute__((visibility("default"))) void run_product(
    int instructions, int format, const void* weight, const float* scales, const float* input_scale, int64_t experts,
    int64_t out, int64_t in, int dtype, const void* x, const void* bias, int64_t tokens, const int64_t* chosen,
    int64_t choices, void* y) {
  run({static_cast<Format>(format), weight, scales, input_scale, experts, out, in},
      {static_cast<Dtype>(dtype), x, bias, y, tokens, chosen, choices}, with(instructions));
}

// Attention of the library behind one C function, for tests to call with the instruction set that they want.
#include "attend.h"

using namespace attention;

static const Blocks& with(int instructions) {
#if defined(__x86_64__)
  if (instructions == 1) return kAvx512;
#endif
  return kPortable;
}

extern "C" __attribute__((visibility("default"))) void run_attention(
    int instructions, int stored, const void* k, const void* v, const float* k_scale, const float* v_scale,
    int64_t length, int64_t kv_heads, int64_t dim, int dtype, const void* q, const int64_t* positions,
    const float* slopes, int64_t window, float scale, float softcap, int64_t rows, int64_t tokens, int64_t heads, void* y) {
  attend({static_cast<Stored>(stored), k, v, k_scale, v_scale, length, kv_heads, dim},
         {static_cast<Dtype>(dtype), q, positions, slopes, window, scale, softcap, rows, tokens, heads, y}, with(instructions));
}

// Attention of few queries over a cache, which is read once, in its own dtype, for all heads that share it.
//
//   scores   cap(q . k * scale) - slope * distance             for the positions that a query attends to;
//                                                              cap(x) = softcap * tanh(x / softcap), or x
//   output   sum of softmax(scores) * v * scale                all in float32
//
// Threads share blocks of kBlock positions, and the blocks of a query are combined in order. So the result of a query
// depends neither on other queries nor on the number of threads.
#pragma once

#include <cstdint>

namespace attention {

enum class Stored { kFloat32, kBfloat16, kFloat16, kInt8, kFloat8 };

constexpr int64_t kBlock = 128;
constexpr int64_t kWidth = 16;  // heads are padded to a multiple of this many elements

// Keys and values of one kv head at some positions, and the query heads that share it.
struct Block {
  const void *k, *v;               // at the first position; `stride` elements to the next
  int64_t stride, positions, dim;  // at most kBlock positions
  const float* q;                  // [heads][width], zeros behind `dim`; times scale
  int64_t heads, width;
  const float* slopes;             // [heads], or null
  float distance;                  // from the query to the first position, at most 0
  float softcap;                   // 0: none
  float* scores;                   // [heads][kBlock]: exp(score - largest)
  float* largest;                  // [heads]: largest score
  float* sum;                      // [heads]: sum of `scores`
  float* out;                      // [heads][width]: sum of `scores` times v
};

// Functions that compute scores, largest, sum and out of a block, by the cache's dtype.
struct Blocks {
  using Run = void (*)(const Block&);
  Run float32, bfloat16, float16, int8, float8;
};

extern const Blocks kPortable;
#if defined(__x86_64__)
extern const Blocks kAvx512;  // F, BW, DQ, VL
#endif

// Fastest implementation that this CPU supports.
const Blocks& best_blocks();

struct Cache {
  Stored stored;
  const void *k, *v;               // [rows, length, kv_heads, dim]
  const float *k_scale, *v_scale;  // [kv_heads], or null: 1
  int64_t length, kv_heads, dim;
};

enum class Dtype { kFloat32, kBfloat16, kFloat16 };

struct Queries {
  Dtype dtype;               // dtype of q and y
  const void* q;             // [rows, tokens, heads, dim]
  const int64_t* positions;  // [rows, tokens]: a query attends to cached positions up to its own
  const float* slopes;       // [heads], or null
  int64_t window;            // number of positions that a query attends to, the last ones; 0: all
  float scale, softcap;      // of scores; softcap 0: none
  int64_t rows, tokens, heads;
  void* y;                   // [rows, tokens, heads, dim]
};

void attend(const Cache& cache, const Queries& queries, const Blocks& blocks = best_blocks());

}  // namespace attention

// Attention over a cache, for few queries: what a query sees of the cache is read once, as it lies, for all heads that
// share it.
//
//   scores   q . k * scale / sqrt(dim) - slope * distance      of the positions that a query sees
//   output   sum of softmax(scores) * v * scale                everything in float32
//
// Positions come in blocks of kBlock, which threads share; the blocks of a query are put together in their order. So a
// query has its result whatever stands beside it, and however many threads there are.
#pragma once

#include <cstdint>

namespace attention {

enum class Stored { kFloat32, kBfloat16, kFloat16, kInt8, kFloat8 };

constexpr int64_t kBlock = 128;
constexpr int64_t kWidth = 16;  // heads are padded to a multiple of so many numbers

// What a kv head keeps of some positions, for the query heads that it serves.
struct Block {
  const void *k, *v;               // of the first position; those of the next are `stride` numbers further
  int64_t stride, positions, dim;  // at most kBlock positions
  const float* q;                  // [heads][width], zeros behind `dim`; times scale / sqrt(dim)
  int64_t heads, width;
  const float* slopes;             // [heads], or null
  float distance;                  // from the query to the first position: none, or negative
  float* scores;                   // [heads][kBlock]: exp(score - largest)
  float* largest;                  // [heads], of the scores
  float* sum;                      // [heads], of `scores`
  float* out;                      // [heads][width]: sum of `scores` times v
};

// Gives scores, largest, sum and out of a block.
struct Blocks {
  using Run = void (*)(const Block&);
  Run float32, bfloat16, float16, int8, float8;
};

extern const Blocks kPortable;
#if defined(__x86_64__)
extern const Blocks kAvx512;  // F, BW, DQ, VL
#endif

// The fastest of them that this CPU has.
const Blocks& best_blocks();

struct Cache {
  Stored stored;
  const void *k, *v;               // [rows, length, kv_heads, dim]
  const float *k_scale, *v_scale;  // [kv_heads], or null: 1
  int64_t length, kv_heads, dim;
};

enum class Dtype { kFloat32, kBfloat16, kFloat16 };

struct Queries {
  Dtype dtype;               // of q and y
  const void* q;             // [rows, tokens, heads, dim]
  const int64_t* positions;  // [rows, tokens]: a query sees those up to its own, which are in the cache
  const float* slopes;       // [heads], or null
  int64_t window;            // how many of them, the last ones; 0: all
  int64_t rows, tokens, heads;
  void* y;                   // [rows, tokens, heads, dim]
};

void attend(const Cache& cache, const Queries& queries, const Blocks& blocks = best_blocks());

}  // namespace attention

// Products of rows of a weight with rows of x: the code that depends on the instruction set.
//
// A kernel prepares each row of x once: it quantizes or widens it, and puts it into the order that its loops want. Then
// it computes the sums of a block of consecutive rows of a weight with any number of prepared rows. The sum of a row and
// a token depends neither on the other tokens nor on the other rows.
#pragma once

#include <cstdint>

#define ALWAYS __attribute__((always_inline))
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace products {

constexpr int64_t kGroup = 128;  // columns of int4 that share a scale: 64 bytes of a row

static inline int64_t padded(int64_t k, int64_t multiple) { return (k + multiple - 1) / multiple * multiple; }

enum class Dtype { kFloat32, kBfloat16, kFloat16 };

struct Row {  // a row of x
  const void* values;
  Dtype dtype;
  int64_t k;
  const float* input_scale;  // null: the row has its own scale
};

struct Block {          // consecutive rows of a weight
  const void* weights;  // [rows, k], row-major, in the kernel's format
  const float* scales;  // int4: [rows, k / kGroup]
  int64_t rows, k;
  void* room;           // scratch of Kernel::room(rows, k) bytes, at a multiple of 64
};

struct Kernel {
  int64_t (*row_bytes)(int64_t k);            // size of a prepared row, a multiple of 64; null: rows of x are used as
                                              // they are
  float (*prepare)(const Row& x, void* to);   // prepares a row at a multiple of 64; returns its scale
  void (*dot)(const Block& w, const void* const* x, int64_t tokens, float* sums);  // sums [tokens][w.rows]
  int64_t (*room)(int64_t rows, int64_t k);   // null: `dot` needs none
};

// Kernels of a level, by what the weight is:
//
//   bfloat16, float16  [rows, k] in the dtype of x; sums in float32
//   int8               int8 [rows, k]; x as 16-bit integers
//   int8_int8          int8 [rows, k]; x as 8-bit integers; exact
//   int4               [rows, k / 2], two's complement nibbles, byte i: column 2 i in the lower half; x as 16-bit
//                      integers; exact within a group, float32 over groups; k is a multiple of kGroup
//   fp8                float8 e4m3 [rows, k], without NaN; x as float8; sums in float32
//
// Those for many tokens, which may sum in another order, are null where those for few are fast:
//
//   bfloat16_many, float16_many        as bfloat16, float16
//   int8_many, int4_many               as int8, int4; x bfloat16
struct Kernels {
  Kernel bfloat16, float16, int8, int8_int8, int4, fp8;
  Kernel bfloat16_many, float16_many, int8_many, int4_many;
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvxVnni;  // those of integers only
extern const Kernels kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16;
#elif defined(__aarch64__)
extern const Kernels kDotprod;  // those of int8 only
extern const Kernels kI8mm;     // those of bfloat16, int8 and int4
extern const Kernels kNeon;
#endif

}  // namespace products

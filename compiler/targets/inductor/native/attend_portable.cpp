// Vectors of eight floats, compiled for the package's march.
#include <cstring>

#include "attend.h"

#define UNROLLED _Pragma("GCC unroll 4")

namespace attention {
namespace {

constexpr int kLanes = 8, kHeads = 2, kAtOnce = 4, kColumns = 4;

#include "attend_vectors.h"

using Shorts = int16_t __attribute__((vector_size(2 * kLanes)));

inline Bits wide(Halves row) { return __builtin_convertvector(row, Bits); }
inline Bits wide(Bytes row) { return __builtin_convertvector(__builtin_convertvector(row, Halves), Bits); }
inline Integers wide(SignedBytes row) {
  return __builtin_convertvector(__builtin_convertvector(row, Shorts), Integers);
}

inline void totals(const Vector* four, float* to) {
  for (int i = 0; i < 4; ++i) {
    const Vector& v = four[i];
    to[i] = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
  }
}

#include "attend_block.h"

}  // namespace

const Blocks kPortable = kAll;

}  // namespace attention

// NEON with dot products of 8 bits (Armv8.2 DotProd: Graviton 2 and later): the kernels of int8. The others are those of
// NEON.
#include "kernels.h"

#if defined(__aarch64__)
#include "digits_neon.h"
#include "vectors_neon.h"

namespace products {
namespace {

struct Bytes {
  int8x16_t values;
};

ALWAYS_INLINE Bytes load(const int8_t* from) { return {vld1q_s8(from)}; }
ALWAYS_INLINE Integers add(Integers sum, Bytes w, Bytes x) { return vdotq_s32(sum, w.values, x.values); }

#include "tiles.h"

struct DotForm : Int8Int8Form {  // 512 products of 8 bits do not overflow 32 bits
  using X = int8_t;
  static constexpr int kStep = 16, kApart = 16;
  static Bytes part(const Stored* w, int) { return load(w); }
};

constexpr int64_t kTogether = 2;  // tokens whose digits fill a tile

int64_t digit_room(int64_t rows, int64_t) { return 2 * kTogether * rows * static_cast<int64_t>(sizeof(float)); }

void dot_digits(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  auto* const found = static_cast<float*>(w.room);
  const int64_t width = digit_bytes(w.k);
  for (int64_t t = 0; t < tokens; t += kTogether) {
    const int64_t count = tokens - t < kTogether ? tokens - t : kTogether;
    const void* digits[2 * kTogether];
    for (int64_t i = 0; i < count; ++i) {
      digits[2 * i] = x[t + i];
      digits[2 * i + 1] = static_cast<const int8_t*>(x[t + i]) + width;
    }
    dot<DotForm>(w, digits, 2 * count, found);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t row = 0; row < w.rows; ++row)
        sums[(t + i) * w.rows + row] = 256 * found[2 * i * w.rows + row] + found[(2 * i + 1) * w.rows + row];
  }
}

constexpr Kernel kDigits = {two_digit_bytes, prepare_two_digits, dot_digits, digit_room};

}  // namespace

const Kernels kDotprod = {
    {}, {}, kDigits, {row_bytes<int8_t>, prepare<int8_t, eight_bits>, dot<DotForm>, nullptr}, {}, {}, {}, {}, {}, {}};

}  // namespace products
#endif

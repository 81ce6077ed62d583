// NEON with products of pairs of rows (Armv8.6 I8MM and BF16: Graviton 3 and later): the kernels of bfloat16, int8 and
// int4. One instruction adds the products of 8 bytes of two rows of the weight with 8 bytes of two rows of x to four sums,
// none of which depends on the others: a row without a partner is paired with itself, and its sums are the same.
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "digits_neon.h"

namespace products {
namespace {

constexpr int kRowPairs = 4, kTokenPairs = 3;  // 12 of the 32 registers are sums
constexpr int kRowPairs4 = 2, kTokens4 = 4;    // int4: 8 are integers of a group, 8 their sums in float32
constexpr int kVector = 16;                    // bytes

struct Pair {  // of rows: bytes [0, 8) of both, and bytes [8, 16)
  uint64x2_t halves[2];
};

ALWAYS_INLINE uint8x16_t bytes(const void* from) { return vld1q_u8(static_cast<const uint8_t*>(from)); }

ALWAYS_INLINE Pair pair_of(uint8x16_t first, uint8x16_t second) {
  const uint64x2_t a = vreinterpretq_u64_u8(first), b = vreinterpretq_u64_u8(second);
  return {{vzip1q_u64(a, b), vzip2q_u64(a, b)}};
}

ALWAYS_INLINE int32x4_t multiply(int32x4_t sum, uint64x2_t w, uint64x2_t x) {
  return vmmlaq_s32(sum, vreinterpretq_s8_u64(w), vreinterpretq_s8_u64(x));
}
ALWAYS_INLINE float32x4_t multiply(float32x4_t sum, uint64x2_t w, uint64x2_t x) {
  return vbfmmlaq_f32(sum, vreinterpretq_bf16_u64(w), vreinterpretq_bf16_u64(x));
}

// Lanes: first row and first token, first row and second token, second row and first token, second row and second token.
template <class Vector>
ALWAYS_INLINE Vector add(Vector sum, const Pair& w, const Pair& x) {
  return multiply(multiply(sum, w.halves[0], x.halves[0]), w.halves[1], x.halves[1]);
}

ALWAYS_INLINE void store(float* to, float32x4_t sum) { vst1q_f32(to, sum); }
ALWAYS_INLINE void store(int32_t* to, int32x4_t sum) { vst1q_s32(to, sum); }

struct Bfloat16Form {
  using Vector = float32x4_t;
  using Number = float;
  using Total = float;
  static constexpr int kTokens = 2;  // of a pair
  static constexpr int64_t kColumnBytes = 2, kChunk = 1024;
  static int64_t apart(int64_t) { return 0; }
};

struct Int8Int8Form {
  using Vector = int32x4_t;
  using Number = int32_t;
  using Total = int32_t;
  static constexpr int kTokens = 2;
  static constexpr int64_t kColumnBytes = 1, kChunk = 512;
  static int64_t apart(int64_t) { return 0; }
};

struct Int8Form : Int8Int8Form {  // the rows of a pair are the digits of a token; 512 columns do not overflow 32 bits
  using Total = float;
  static constexpr int kTokens = 1;
  static int64_t apart(int64_t k) { return digit_bytes(k); }
};

// Adds numbers, which are not of the type of `sums` where they are integers, to those of `sums`; the first are set.
template <class Total>
ALWAYS_INLINE void put(Total number, bool first, float* sum) {
  Total total = 0;
  if (!first) std::memcpy(&total, sum, sizeof total);
  total += number;
  std::memcpy(sum, &total, sizeof total);
}

// Sums of bytes [from, to) of `rows` rows and `tokens` tokens, put into sums [token][stride].
template <class Form, int R, int T>
void tile(const char* const (&w)[2 * R], const char* const (&x)[2 * T], int64_t from, int64_t to, int64_t rows,
          int64_t tokens, int64_t stride, float* sums) {
  typename Form::Vector sum[R][T] = {};
  const auto step = [&](const char* const (&weights)[2 * R], int64_t at, int64_t byte) ALWAYS {
    Pair values[R];
    for (int r = 0; r < R; ++r) values[r] = pair_of(bytes(weights[2 * r] + at), bytes(weights[2 * r + 1] + at));
    for (int t = 0; t < T; ++t) {
      const Pair token = pair_of(bytes(x[2 * t] + byte), bytes(x[2 * t + 1] + byte));
      for (int r = 0; r < R; ++r) sum[r][t] = add(sum[r][t], values[r], token);
    }
  };
  int64_t byte = from;
  for (; byte + kVector <= to; byte += kVector) step(w, byte, byte);
  if (byte < to) {  // the last columns, with zeros
    char rest[2 * R][kVector] = {};
    const char* last[2 * R];
    for (int r = 0; r < 2 * R; ++r) {
      std::memcpy(rest[r], w[r] + byte, static_cast<size_t>(to - byte));
      last[r] = rest[r];
    }
    step(last, 0, byte);
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      typename Form::Number found[4];
      store(found, sum[r][t]);
      for (int i = 0; i < 2 && 2 * r + i < rows; ++i)
        for (int j = 0; j < Form::kTokens && Form::kTokens * t + j < tokens; ++j) {
          const auto number = Form::kTokens == 2 ? found[2 * i + j] : 256 * found[2 * i] + found[2 * i + 1];
          put(static_cast<typename Form::Total>(number), from == 0, sums + (Form::kTokens * t + j) * stride + 2 * r + i);
        }
    }
}

// Calls f(row, token, from, to) for blocks of rows, tokens and bytes: few tokens in the order of memory, many chunk by chunk,
// so that a chunk of all rows stays in a cache. Each sum is that of its chunks, in order.
template <class F>
void each_block(int64_t rows, int64_t row_step, int64_t tokens, int64_t token_step, int64_t width, int64_t chunk,
                const F& f) {
  const auto end_of = [&](int64_t from) { return from + chunk < width ? from + chunk : width; };
  if (tokens <= token_step) {
    for (int64_t row = 0; row < rows; row += row_step)
      for (int64_t from = 0; from < width; from += chunk) f(row, 0, from, end_of(from));
    return;
  }
  for (int64_t from = 0; from < width; from += chunk)
    for (int64_t token = 0; token < tokens; token += token_step)
      for (int64_t row = 0; row < rows; row += row_step) f(row, token, from, end_of(from));
}

// `count` of N rows from `rows` on, which are `bytes` apart; the last stands for missing ones.
template <int N>
ALWAYS_INLINE void some_rows(const char* rows, int64_t bytes, int64_t count, const char* (&to)[N]) {
  for (int i = 0; i < N; ++i) to[i] = rows + (i < count ? i : count - 1) * bytes;
}

template <class Form, int T>
void run(const Block& w, const void* const* x, int64_t row, int64_t token, int64_t tokens, int64_t from, int64_t to,
         float* sums) {
  const int64_t width = Form::kColumnBytes * w.k, count = tokens - token;
  const char *rows[2 * kRowPairs], *digits[2 * T];
  some_rows(static_cast<const char*>(w.weights) + row * width, width, w.rows - row, rows);
  for (int i = 0; i < 2 * T; ++i) {
    const int64_t at = Form::kTokens == 2 ? i : i / 2;
    const auto* const values = static_cast<const char*>(x[token + (at < count ? at : count - 1)]);
    digits[i] = values + i % 2 * Form::apart(w.k);
  }
  tile<Form, kRowPairs, T>(rows, digits, from, to, w.rows - row, count, w.rows, sums + token * w.rows + row);
}

template <class Form>
void dot(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  const auto block = [&](int64_t row, int64_t token, int64_t from, int64_t to) {
    switch ((tokens - token + Form::kTokens - 1) / Form::kTokens) {
      case 1: return run<Form, 1>(w, x, row, token, tokens, from, to, sums);
      case 2: return run<Form, 2>(w, x, row, token, tokens, from, to, sums);
      default: return run<Form, kTokenPairs>(w, x, row, token, tokens, from, to, sums);
    }
  };
  each_block(w.rows, 2 * kRowPairs, tokens, Form::kTokens * kTokenPairs, Form::kColumnBytes * w.k, Form::kChunk, block);
}

void dot_int8_int8(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  dot<Int8Int8Form>(w, x, tokens, sums);
  for (int64_t i = 0; i < tokens * w.rows; ++i) {
    int32_t total;
    std::memcpy(&total, sums + i, sizeof total);
    sums[i] = static_cast<float>(total);
  }
}

// int4: 16 bytes of a row are 32 columns, the even ones in the lower halves of the bytes. A row of digits has the even
// columns of every 32 first, then the odd ones. A group's integers, then its float32.
constexpr int64_t kChunk4 = 1024;  // bytes

template <int R, int T>
void tile4(const char* const (&w)[2 * R], const float* const (&scales)[2 * R], const int8_t* const (&x)[T], int64_t apart,
           int64_t from, int64_t to, int64_t rows, int64_t stride, float* sums) {
  float32x4_t sum[R][T] = {};
  for (int64_t group = from; group < to; group += kGroup / 2) {
    int32x4_t whole[R][T] = {};
    for (int64_t byte = group; byte < group + kGroup / 2; byte += kVector)
      for (int half = 0; half < 2; ++half) {
        Pair values[R];
        for (int r = 0; r < R; ++r) {
          int8x16_t columns[2];
          for (int i = 0; i < 2; ++i) {
            const int8x16_t both = vreinterpretq_s8_u8(bytes(w[2 * r + i] + byte));
            columns[i] = vshrq_n_s8(half ? both : vshlq_n_s8(both, 4), 4);
          }
          values[r] = pair_of(vreinterpretq_u8_s8(columns[0]), vreinterpretq_u8_s8(columns[1]));
        }
        for (int t = 0; t < T; ++t) {
          const int8_t* const high = x[t] + 2 * byte + half * kVector;
          const Pair token = pair_of(bytes(high), bytes(high + apart));
          for (int r = 0; r < R; ++r) whole[r][t] = add(whole[r][t], values[r], token);
        }
      }
    for (int r = 0; r < R; ++r) {
      const float first = scales[2 * r][2 * group / kGroup], second = scales[2 * r + 1][2 * group / kGroup];
      const float32x4_t scale = {256 * first, first, 256 * second, second};
      for (int t = 0; t < T; ++t) sum[r][t] = vfmaq_f32(sum[r][t], scale, vcvtq_f32_s32(whole[r][t]));
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      float found[4];
      store(found, sum[r][t]);
      for (int i = 0; i < 2 && 2 * r + i < rows; ++i)
        put(found[2 * i] + found[2 * i + 1], from == 0, sums + t * stride + 2 * r + i);
    }
}

template <int T>
void run4(const Block& w, const void* const* x, int64_t row, int64_t token, int64_t from, int64_t to, float* sums) {
  constexpr int kRows = 2 * kRowPairs4;
  const char* rows[kRows];
  const float* scales[kRows];
  const int8_t* digits[T];
  const int64_t count = w.rows - row, groups = w.k / kGroup;
  some_rows(static_cast<const char*>(w.weights) + row * w.k / 2, w.k / 2, count, rows);
  for (int i = 0; i < kRows; ++i) scales[i] = w.scales + (row + (i < count ? i : count - 1)) * groups;
  for (int t = 0; t < T; ++t) digits[t] = static_cast<const int8_t*>(x[token + t]);
  tile4<kRowPairs4, T>(rows, scales, digits, digit_bytes(w.k), from, to, count, w.rows, sums + token * w.rows + row);
}

void dot_int4(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  const auto block = [&](int64_t row, int64_t token, int64_t from, int64_t to) {
    switch (tokens - token) {
      case 1: return run4<1>(w, x, row, token, from, to, sums);
      case 2: return run4<2>(w, x, row, token, from, to, sums);
      case 3: return run4<3>(w, x, row, token, from, to, sums);
      default: return run4<kTokens4>(w, x, row, token, from, to, sums);
    }
  };
  each_block(w.rows, 2 * kRowPairs4, tokens, kTokens4, w.k / 2, kChunk4, block);
}

float prepare_int4(const Row& x, void* to) {
  const float worth = prepare_two_digits(x, to);
  auto* const rows = static_cast<int8_t*>(to);
  for (int64_t digit = 0; digit < 2; ++digit)
    for (int64_t column = 0; column < x.k; column += 2 * kVector) {
      int8_t* const columns = rows + digit * digit_bytes(x.k) + column;
      const int8x16x2_t halves = vld2q_s8(columns);
      vst1q_s8(columns, halves.val[0]);
      vst1q_s8(columns + kVector, halves.val[1]);
    }
  return worth;
}

int64_t bfloat16_bytes(int64_t k) { return digit_bytes(2 * k); }

float prepare_bfloat16(const Row& x, void* to) {
  const auto width = static_cast<size_t>(2 * x.k);
  std::memcpy(to, x.values, width);
  std::memset(static_cast<char*>(to) + width, 0, static_cast<size_t>(bfloat16_bytes(x.k)) - width);
  return 1;
}

int64_t one_digit_bytes(int64_t k) { return digit_bytes(k); }

float prepare_digit(const Row& x, void* to) {
  std::memset(to, 0, static_cast<size_t>(digit_bytes(x.k)));
  return eight_bits(x, static_cast<int8_t*>(to));
}

constexpr Kernel kBfloat16 = {bfloat16_bytes, prepare_bfloat16, dot<Bfloat16Form>, nullptr};
constexpr Kernel kInt8 = {two_digit_bytes, prepare_two_digits, dot<Int8Form>, nullptr};
constexpr Kernel kInt8Int8 = {one_digit_bytes, prepare_digit, dot_int8_int8, nullptr};
constexpr Kernel kInt4 = {two_digit_bytes, prepare_int4, dot_int4, nullptr};

}  // namespace

const Kernels kI8mm = {kBfloat16, {}, kInt8, kInt8Int8, kInt4, {}, {}, {}, {}, {}};

}  // namespace products
#endif

// AVX512 with VNNI, and with BF16 and VBMI if the CPU supports them. Compiled for these whatever the package's march,
// called only if the CPU supports them. Instantiates nothing of the standard library: the linker could use this file's
// copy for all files.
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "tokens.h"
#include "widen_avx512.h"

#define UNROLLED _Pragma("GCC unroll 8")

namespace products {
namespace {

constexpr int kRows = 4, kTokens = 4;        // tile: 16 sums, each in one of the 32 registers
constexpr int64_t kChunk = 64;               // prepared rows are padded with zeros to a multiple of this many columns
constexpr int64_t kNear = int64_t{1} << 18;  // bytes of x that are read repeatedly and fit a core's cache

using Dot = void (*)(const Block&, const void* const*, int64_t, float*);

// Prefetches in memory order across pages, which the hardware does not: the next page for one row at a time, the next
// rows for several, or the rows after these if they are short.
template <int R>
inline __attribute__((always_inline)) void prefetch(const void* rows, int64_t bytes, int64_t at, int r) {
  const int64_t block = R * bytes, ahead = R == 1 ? 4096 : block <= 8192 ? 2 * block : block;
  _mm_prefetch(static_cast<const char*>(rows) + ahead + R * at + 64 * r, _MM_HINT_T1);
}

#include "sum4_avx512.h"

// Stores sum [R][T] to sums [T][rows], with R consecutive rows.
template <int R, int T, class Vector, class Number>
inline void reduce(const Vector (&sum)[R][T], Number* sums, int64_t rows) {
  if constexpr (R == kRows) {
    UNROLLED
    for (int t = 0; t < T; ++t) {
      const Vector four[4] = {sum[0][t], sum[1][t], sum[2][t], sum[3][t]};
      sum4(four, sums + t * rows);
    }
  } else {
    static_assert(R == 1);
    Vector four[4] = {};
    Number found[4];
    UNROLLED
    for (int t = 0; t < T; ++t) four[t] = sum[0][t];
    sum4(four, found);
    UNROLLED
    for (int t = 0; t < T; ++t) sums[t * rows] = found[t];
  }
}

template <int R, class F>
inline void each_token(int64_t row, int64_t tokens, const F& f) {
  int64_t t = 0;
  for (; t + kTokens <= tokens; t += kTokens) f.template run<R, kTokens>(row, t);
  switch (tokens - t) {
    case 1: return f.template run<R, 1>(row, t);
    case 2: return f.template run<R, 2>(row, t);
    case 3: return f.template run<R, 3>(row, t);
  }
}

// Calls f.run<R, T>(row, token), R rows from `row` on times T tokens from `token` on, over all rows and tokens. One row
// at a time is fastest for up to F::kSequential tokens.
template <class F>
inline void each(int64_t rows, int64_t tokens, const F& f) {
  int64_t row = 0;
  if (tokens > F::kSequential)
    for (; row + kRows <= rows; row += kRows) each_token<kRows>(row, tokens, f);
  for (; row < rows; ++row) each_token<1>(row, tokens, f);
}

// A digit of a prepared row: its sum in the first 64 bytes, then its integers.
inline int64_t digit_bytes(int64_t k) { return 64 + padded(k, kChunk); }
inline int32_t sum_of(const char* digit) {
  int32_t sum;
  std::memcpy(&sum, digit, sizeof sum);
  return sum;
}

// vpdpbusd multiplies unsigned by signed: w + 128 is unsigned, and 128 times the sum of x is subtracted at the end.
// Tokens are digits here; with two, 256 * first + second is the result of a row of x.
template <int kDigits>
struct Int8 {
  static constexpr int64_t kSequential = kDigits;
  const int8_t* w;
  const void* const* x;
  int64_t rows, k;
  float* sums;

  const char* digit(int64_t token) const {
    return static_cast<const char*>(x[token / kDigits]) + token % kDigits * digit_bytes(k);
  }

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    const int8_t* weights = w + row * k;
    const char* digits[T];
    for (int t = 0; t < T; ++t) digits[t] = digit(token + t);
    __m512i sum[R][T] = {};
    const auto chunk = [&](int64_t at, __mmask64 mask) __attribute__((always_inline)) {
      __m512i values[T];
      UNROLLED
      for (int t = 0; t < T; ++t) values[t] = _mm512_loadu_si512(digits[t] + 64 + at);
      UNROLLED
      for (int r = 0; r < R; ++r) {
        prefetch<R>(weights, k, at, r);
        const __m512i bytes = _mm512_maskz_loadu_epi8(mask, weights + r * k + at);
        const __m512i unsigned_bytes = _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
        UNROLLED
        for (int t = 0; t < T; ++t) sum[r][t] = _mm512_dpbusd_epi32(sum[r][t], unsigned_bytes, values[t]);
      }
    };
    int64_t at = 0;
    for (; at + kChunk <= k; at += kChunk) chunk(at, ~__mmask64{0});
    if (at < k) chunk(at, (__mmask64{1} << (k - at)) - 1);
    int32_t found[T * R];
    reduce(sum, found, R);
    for (int t = 0; t + kDigits <= T; t += kDigits) {
      float* const to = sums + (token + t) / kDigits * rows + row;
      const int32_t more = 128 * sum_of(digits[t]), less = kDigits == 2 ? 128 * sum_of(digits[t + kDigits - 1]) : 0;
      if constexpr (R == kRows)
        store_rows(found + t * R, more, less, to);
      else
        *to = kDigits == 2 ? static_cast<float>(256 * int64_t{found[t] - more} + found[t + kDigits - 1] - less)
                           : static_cast<float>(found[t] - more);
    }
  }

  // Results of four rows: (sums - more), or 256 * (sums - more) + (sums of the second digit - less), rounded once.
  static void store_rows(const int32_t* found, int32_t more, int32_t less, float* to) {
    const auto sums_of = [](const int32_t* from, int32_t minus) {
      return _mm_sub_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), _mm_set1_epi32(minus));
    };
    const __m128i first = sums_of(found, more);
    if constexpr (kDigits == 1) {
      _mm_storeu_ps(to, _mm_cvtepi32_ps(first));
    } else {
      const __m256d second = _mm256_cvtepi32_pd(sums_of(found + kRows, less));
      _mm_storeu_ps(to, _mm256_cvtpd_ps(_mm256_fmadd_pd(_mm256_cvtepi32_pd(first), _mm256_set1_pd(256), second)));
    }
  }
};

template <int kDigits>
int64_t digits_bytes(int64_t k) {
  return kDigits * digit_bytes(k);
}

inline void finish_digit(char* digit, int64_t k) {
  int8_t* const values = reinterpret_cast<int8_t*>(digit + 64);
  std::memset(values + k, 0, static_cast<size_t>(padded(k, kChunk) - k));
  int32_t sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += values[i];
  std::memcpy(digit, &sum, sizeof sum);
}

template <int kDigits>
float prepare_digits(const Row& x, void* to) {
  char *const first = static_cast<char*>(to), *const second = first + digit_bytes(x.k);
  auto* const high = reinterpret_cast<int8_t*>(first + 64);
  const float worth =
      kDigits == 2 ? two_digits(x, high, reinterpret_cast<int8_t*>(second + 64)) : eight_bits(x, high);
  finish_digit(first, x.k);
  if (kDigits == 2) finish_digit(second, x.k);
  return worth;
}

// A prepared row of x for int4: its high digits, its low digits, and 16 integers per group, -8 times the sums of columns
// 8 l ... 8 l + 7. Every group of digits has its even columns first, then its odd ones, in the order of the halves of
// int4's bytes.
int64_t groups_bytes(int64_t k) { return 2 * k + k / kGroup * 64; }

// The even columns of every group first.
inline void part(int8_t* values, int64_t k) {
  for (int64_t at = 0; at < k; at += kGroup) {
    int8_t group[kGroup];
    std::memcpy(group, values + at, kGroup);
    for (int64_t i = 0; i < kGroup / 2; ++i) {
      values[at + i] = group[2 * i];
      values[at + kGroup / 2 + i] = group[2 * i + 1];
    }
  }
}

float prepare_groups(const Row& x, void* to) {
  auto *const high = static_cast<int8_t*>(to), *const low = high + x.k;
  auto* const eights = reinterpret_cast<int32_t*>(low + x.k);
  const float worth = two_digits(x, high, low);
  for (int64_t lane = 0; lane < x.k / 8; ++lane) {
    int32_t sum = 0;
    for (int64_t i = 8 * lane; i < 8 * lane + 8; ++i) sum += 256 * high[i] + low[i];
    eights[lane] = -8 * sum;
  }
  part(high, x.k);
  part(low, x.k);
  return worth;
}

// Nibbles + 8 are unsigned, so the sums of a group begin at -8 times those of x, per lane.
struct Int4 {
  static constexpr int64_t kSequential = 0;
  const uint8_t* w;
  const float* scales;
  const void* const* x;
  int64_t rows, k;
  float* sums;

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    constexpr int64_t kHalf = kGroup / 2;
    const uint8_t* weights = w + row * k / 2;
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x88)), lower = _mm512_set1_epi8(15);
    __m512 sum[R][T] = {};
    for (int64_t group = 0; group < k / kGroup; ++group) {
      __m512i even[R], odd[R];
      UNROLLED
      for (int r = 0; r < R; ++r) {
        prefetch<R>(weights, k / 2, group * kHalf, r);
        const __m512i both = _mm512_xor_si512(_mm512_loadu_si512(weights + (r * k / 2 + group * kHalf)), flip);
        even[r] = _mm512_and_si512(both, lower);
        odd[r] = _mm512_and_si512(_mm512_srli_epi16(both, 4), lower);
      }
      UNROLLED
      for (int t = 0; t < T; ++t) {
        const char *const high_digits = static_cast<const char*>(x[token + t]) + group * kGroup;
        const char *const low_digits = high_digits + k;
        const __m512i high_even = _mm512_loadu_si512(high_digits);
        const __m512i high_odd = _mm512_loadu_si512(high_digits + kHalf);
        const __m512i low_even = _mm512_loadu_si512(low_digits);
        const __m512i low_odd = _mm512_loadu_si512(low_digits + kHalf);
        const __m512i eights = _mm512_loadu_si512(static_cast<const char*>(x[token + t]) + 2 * k + group * 64);
        UNROLLED
        for (int r = 0; r < R; ++r) {
          __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), even[r], high_even);
          __m512i low = _mm512_dpbusd_epi32(eights, even[r], low_even);
          high = _mm512_slli_epi32(_mm512_dpbusd_epi32(high, odd[r], high_odd), 8);
          low = _mm512_dpbusd_epi32(low, odd[r], low_odd);
          const __m512 scale = _mm512_set1_ps(scales[(row + r) * (k / kGroup) + group]);
          sum[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(high, low)), scale, sum[r][t]);
        }
      }
    }
    reduce(sum, sums + token * rows + row, rows);
  }
};

struct Widened {  // bfloat16 is the upper half of float32
  static constexpr int64_t kLanes = 16;
  static constexpr float kWorth = 1;
  using Stored = uint16_t;
  using Vector = __m512;
  static Vector load(const uint16_t* from, __mmask32 mask) {
    const __m256i bits = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m512 add(__m512 sum, Vector w, Vector x) { return _mm512_fmadd_ps(w, x, sum); }
};

struct Halves {  // float16
  static constexpr int64_t kLanes = 16;
  static constexpr float kWorth = 1;
  using Stored = uint16_t;
  using Vector = __m512;
  static Vector load(const uint16_t* from, __mmask32 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), from));
  }
  static __m512 add(__m512 sum, Vector w, Vector x) { return _mm512_fmadd_ps(w, x, sum); }
};

struct Paired {  // bfloat16: two products and their sum at a time; magnitudes below 2^-126 are zero
  static constexpr int64_t kLanes = 32;
  static constexpr float kWorth = 1;
  using Stored = uint16_t;
  using Vector = __m512bh;
  static Vector load(const uint16_t* from, __mmask32 mask) {
    return reinterpret_cast<Vector>(_mm512_maskz_loadu_epi16(mask, from));
  }
  static __m512 add(__m512 sum, Vector w, Vector x) { return _mm512_dpbf16_ps(sum, w, x); }
};

// Float8, shifted into a float16's bits, is 2^8 times too small; x is bfloat16.
struct Shifted : Widened {
  static constexpr float kWorth = 0x1p8f;
  using Stored = uint8_t;
  using Widened::load;
  static Vector load(const uint8_t* from, __mmask32 mask) {
    const __m256i words = _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(static_cast<__mmask16>(mask), from));
    const __m256i kept = _mm256_set1_epi16(static_cast<int16_t>(0xbf80));  // the sign is in two bits: keep one
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(words, 7), kept));
  }
};

// Form::load loads weights (Stored) and x (bfloat16 or float16); loaded weights are kWorth times too small.
template <class Form>
struct Floats {
  static constexpr int64_t kSequential = 2;
  const typename Form::Stored* w;
  const void* const* x;
  int64_t rows, k;
  float* sums;

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    constexpr int64_t kLanes = Form::kLanes;
    const auto* weights = w + row * k;
    const uint16_t* tokens[T];
    for (int t = 0; t < T; ++t) tokens[t] = static_cast<const uint16_t*>(x[token + t]);
    __m512 sum[R][T] = {};
    const auto chunk = [&](int64_t at, __mmask32 mask) __attribute__((always_inline)) {
      typename Form::Vector values[T];
      UNROLLED
      for (int t = 0; t < T; ++t) values[t] = Form::load(tokens[t] + at, mask);
      UNROLLED
      for (int r = 0; r < R; ++r) {
        constexpr int64_t kBytes = sizeof *weights;
        prefetch<R>(weights, kBytes * k, kBytes * at, r);
        const auto row_values = Form::load(weights + r * k + at, mask);
        UNROLLED
        for (int t = 0; t < T; ++t) sum[r][t] = Form::add(sum[r][t], row_values, values[t]);
      }
    };
    int64_t at = 0;
    for (; at + kLanes <= k; at += kLanes) chunk(at, ~__mmask32{0});
    if (at < k) chunk(at, (__mmask32{1} << (k - at)) - 1);
    float* found = sums + token * rows + row;
    reduce(sum, found, rows);
    if (Form::kWorth != 1)
      for (int t = 0; t < T; ++t)
        for (int r = 0; r < R; ++r) found[t * rows + r] *= Form::kWorth;
  }
};

// Newer CPUs look up 64 bytes in a table of 128 at once: fast enough to repeat it instead of storing the result.
#pragma GCC push_options
#pragma GCC target("avx512vbmi")
struct Lookup {
  __m512i lower[2] = {_mm512_load_si512(kMagnitudes.lower), _mm512_load_si512(kMagnitudes.lower + 64)};
  __m512i upper[2] = {_mm512_load_si512(kMagnitudes.upper), _mm512_load_si512(kMagnitudes.upper + 64)};
  __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);  // order that unpacking of 16-byte lanes undoes

  // 64 columns -> 32 and 32 of bfloat16.
  void operator()(__m512i bytes, __m512i& first, __m512i& second) const {
    const __m512i ordered = _mm512_permutexvar_epi64(order, bytes);
    const __m512i low = _mm512_permutex2var_epi8(lower[0], ordered, lower[1]);
    const __m512i magnitude = _mm512_permutex2var_epi8(upper[0], ordered, upper[1]);
    const __m512i sign = _mm512_set1_epi8(-128);
    const __m512i high = _mm512_ternarylogic_epi64(magnitude, ordered, sign, 0xf8);  // a | (b & c)
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
  }
};

struct Fp8 {
  static constexpr int64_t kSequential = 1;
  const uint8_t* w;
  const void* const* x;
  int64_t rows, k;
  float* sums;

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    const Lookup widen;
    const uint8_t* weights = w + row * k;
    __m512 sum[R][T] = {};
    for (int64_t at = 0; at < k; at += kChunk) {
      const __mmask64 mask = columns(k - at);
      UNROLLED
      for (int r = 0; r < R; ++r) {
        prefetch<R>(weights, k, at, r);
        __m512i first, second;
        widen(_mm512_maskz_loadu_epi8(mask, weights + r * k + at), first, second);
        UNROLLED
        for (int t = 0; t < T; ++t) {
          const uint16_t* values = static_cast<const uint16_t*>(x[token + t]) + at;
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], reinterpret_cast<__m512bh>(first), pairs(values));
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], reinterpret_cast<__m512bh>(second), pairs(values + 32));
        }
      }
    }
    reduce(sum, sums + token * rows + row, rows);
  }

  static __m512bh pairs(const uint16_t* values) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(values)); }
};

void fp8_lookup(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  each(w.rows, tokens, Fp8{static_cast<const uint8_t*>(w.weights), x, w.rows, w.k, sums});
}
#pragma GCC pop_options

// Calls f(first, count) for the tokens in parts whose prepared rows fit a core's cache.
template <class F>
inline void in_parts(int64_t tokens, int64_t bytes_of_token, const F& f) {
  const int64_t fit = kNear / bytes_of_token / kTokens * kTokens, most = fit > kTokens ? fit : kTokens;
  for (int64_t first = 0; first < tokens; first += most) f(first, tokens - first < most ? tokens - first : most);
}

template <int kDigits>
void int8(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  in_parts(tokens, digits_bytes<kDigits>(w.k), [&](int64_t first, int64_t count) {
    const auto* const data = static_cast<const int8_t*>(w.weights);
    each(w.rows, kDigits * count, Int8<kDigits>{data, x + first, w.rows, w.k, sums + first * w.rows});
  });
}

void int4(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  in_parts(tokens, groups_bytes(w.k), [&](int64_t first, int64_t count) {
    const auto* const data = static_cast<const uint8_t*>(w.weights);
    each(w.rows, count, Int4{data, w.scales, x + first, w.rows, w.k, sums + first * w.rows});
  });
}

template <class Form>
void floats(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  in_parts(tokens, 2 * w.k, [&](int64_t first, int64_t count) {
    const auto* const data = static_cast<const typename Form::Stored*>(w.weights);
    each(w.rows, count, Floats<Form>{data, x + first, w.rows, w.k, sums + first * w.rows});
  });
}

// Weights widened to bfloat16 in `room`, then products of bfloat16.
inline void widen(const Block& w, const int8_t* from, uint16_t* to) { widen_int8(from, w.rows * w.k, to); }
inline void widen(const Block& w, const uint8_t* from, uint16_t* to) { widen_int4(from, w.scales, w.rows * w.k, to); }

template <class Stored, class Form>
void widened(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  widen(w, static_cast<const Stored*>(w.weights), static_cast<uint16_t*>(w.room));
  floats<Form>({w.room, nullptr, w.rows, w.k, nullptr}, x, tokens, sums);
}

// float8: the same sums in both ways. Few tokens leave no time for a second pass over the weights.
template <Dot kFew, class Form>
void fp8(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  constexpr int64_t kMany = 32;
  if (tokens < kMany) return kFew(w, x, tokens, sums);
  widen_fp8(static_cast<const uint8_t*>(w.weights), w.rows * w.k, static_cast<uint16_t*>(w.room));
  floats<Form>({w.room, nullptr, w.rows, w.k, nullptr}, x, tokens, sums);
}

int64_t room(int64_t rows, int64_t k) { return 2 * rows * k; }

int64_t fp8_bytes(int64_t k) { return 2 * padded(k, kChunk); }

float prepare_fp8(const Row& x, void* to) {
  auto* const row = static_cast<uint16_t*>(to);
  const float worth = float8(x, row);
  std::memset(row + x.k, 0, static_cast<size_t>(padded(x.k, kChunk) - x.k) * sizeof *row);
  return worth;
}

constexpr Kernel kFloat16 = {nullptr, nullptr, floats<Halves>, nullptr};
constexpr Kernel kInt8 = {digits_bytes<2>, prepare_digits<2>, int8<2>, nullptr};
constexpr Kernel kInt8Int8 = {digits_bytes<1>, prepare_digits<1>, int8<1>, nullptr};
constexpr Kernel kInt4 = {groups_bytes, prepare_groups, int4, nullptr};

}  // namespace

const Kernels kAvx512Vnni = {
    {nullptr, nullptr, floats<Widened>, nullptr},
    kFloat16,
    kInt8,
    kInt8Int8,
    kInt4,
    {fp8_bytes, prepare_fp8, fp8<floats<Shifted>, Widened>, room},
    {},
    {},
    {},
    {},
};
const Kernels kAvx512Bf16 = {
    {nullptr, nullptr, floats<Paired>, nullptr},
    kFloat16,
    kInt8,
    kInt8Int8,
    kInt4,
    {fp8_bytes, prepare_fp8, fp8<fp8_lookup, Paired>, room},
    {},
    {},
    {nullptr, nullptr, widened<int8_t, Paired>, room},
    {nullptr, nullptr, widened<uint8_t, Paired>, room},
};

}  // namespace products
#endif

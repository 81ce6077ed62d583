// AVX512 with VNNI, and with BF16 and VBMI if the CPU supports them. Compiled for these whatever the package's march,
// called only if the CPU supports them. Instantiates nothing of the standard library: the linker could use this file's
// copy for all files.
#include "dots.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "widen_avx512.h"

#define UNROLLED _Pragma("GCC unroll 8")

namespace products {
namespace {

constexpr int kRows = 4, kTokens = 4;  // tile: 16 sums, each in one of the 32 registers

// Prefetches in memory order across pages, which the hardware does not: the next page for one row at a time, the next
// rows for several, or the rows after these if they are short.
template <int R>
inline void prefetch(const void* rows, int64_t bytes, int64_t at, int r) {
  const int64_t block = R * bytes, ahead = R == 1 ? 4096 : block <= 8192 ? 2 * block : block;
  _mm_prefetch(static_cast<const char*>(rows) + ahead + R * at + 64 * r, _MM_HINT_T1);
}

// Sums of four vectors: [a, b, c, d].
inline __m128i sum4(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

inline void store(int32_t* to, __m128i sums) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums); }
inline void store(float* to, __m128 sums) { _mm_storeu_ps(to, sums); }

// Stores sum [R][T] to sums [T][rows], with R consecutive rows.
template <int R, int T, class Vector, class Number>
inline void reduce(const Vector (&sum)[R][T], Number* sums, int64_t rows) {
  if constexpr (R == kRows) {
    UNROLLED
    for (int t = 0; t < T; ++t) store(sums + t * rows, sum4(sum[0][t], sum[1][t], sum[2][t], sum[3][t]));
  } else {
    static_assert(R == 1);
    const Vector zero = {};
    Number found[4];
    store(found, sum4(sum[0][0], T > 1 ? sum[0][T > 1 ? 1 : 0] : zero, T > 2 ? sum[0][T > 2 ? 2 : 0] : zero,
                      T > 3 ? sum[0][T > 3 ? 3 : 0] : zero));
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

// vpdpbusd multiplies unsigned by signed: w + 128 is unsigned, and 128 times the sum of x is subtracted at the end.
struct Int8 {
  static constexpr int64_t kSequential = 1;
  const int8_t* w;
  const Integers* x;
  int64_t rows, k;
  int32_t* sums;

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    const int8_t* weights = w + row * k;
    __m512i sum[R][T] = {};
    const auto chunk = [&](int64_t at, __mmask64 mask) __attribute__((always_inline)) {
      __m512i values[T];
      UNROLLED
      for (int t = 0; t < T; ++t) values[t] = _mm512_loadu_si512(x[token + t].values + at);
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
    int32_t* found = sums + token * rows + row;
    reduce(sum, found, rows);
    for (int t = 0; t < T; ++t)
      for (int r = 0; r < R; ++r) found[t * rows + r] -= 128 * x[token + t].sum;
  }
};

// Nibbles + 8 are unsigned, so the sums of a group begin at -8 times those of x, per lane.
struct Int4 {
  static constexpr int64_t kSequential = 0;
  const uint8_t* w;
  const float* scales;
  const WideIntegers* x;
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
        const WideIntegers& from = x[token + t];
        const __m512i high_even = _mm512_loadu_si512(from.high + group * kGroup);
        const __m512i high_odd = _mm512_loadu_si512(from.high + group * kGroup + kHalf);
        const __m512i low_even = _mm512_loadu_si512(from.low + group * kGroup);
        const __m512i low_odd = _mm512_loadu_si512(from.low + group * kGroup + kHalf);
        const __m512i eights = _mm512_loadu_si512(from.eights + group * 16);
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
  const uint16_t* const* x;
  int64_t rows, k;
  float* sums;

  template <int R, int T>
  void run(int64_t row, int64_t token) const {
    constexpr int64_t kLanes = Form::kLanes;
    const auto* weights = w + row * k;
    __m512 sum[R][T] = {};
    const auto chunk = [&](int64_t at, __mmask32 mask) __attribute__((always_inline)) {
      typename Form::Vector values[T];
      UNROLLED
      for (int t = 0; t < T; ++t) values[t] = Form::load(x[token + t] + at, mask);
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
  const uint16_t* const* x;
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
          const uint16_t* values = x[token + t] + at;
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], reinterpret_cast<__m512bh>(first), pairs(values));
          sum[r][t] = _mm512_dpbf16_ps(sum[r][t], reinterpret_cast<__m512bh>(second), pairs(values + 32));
        }
      }
    }
    reduce(sum, sums + token * rows + row, rows);
  }

  static __m512bh pairs(const uint16_t* values) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(values)); }
};

void fp8(const uint8_t* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k, float* sums) {
  each(rows, tokens, Fp8{w, x, rows, k, sums});
}
#pragma GCC pop_options

void int8(const int8_t* w, int64_t rows, const Integers* x, int64_t tokens, int64_t k, int32_t* sums) {
  each(rows, tokens, Int8{w, x, rows, k, sums});
}

void int4(const uint8_t* w, const float* scales, int64_t rows, const WideIntegers* x, int64_t tokens, int64_t k,
          float* sums) {
  each(rows, tokens, Int4{w, scales, x, rows, k, sums});
}

template <class Form>
void floats(const typename Form::Stored* w, int64_t rows, const uint16_t* const* x, int64_t tokens, int64_t k,
            float* sums) {
  each(rows, tokens, Floats<Form>{w, x, rows, k, sums});
}

}  // namespace

const Dots kAvx512 = {int8,       int4,      floats<Widened>, floats<Halves>,
                      widen_int8, widen_fp8, widen_int4,      floats<Shifted>};
const Dots kAvx512Bf16 = {int8,       int4,      floats<Paired>, floats<Halves>,
                          widen_int8, widen_fp8, widen_int4,     fp8};

}  // namespace products
#endif

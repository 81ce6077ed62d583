// Kernels in vectors of kLanes floats, or 2 * kLanes 16-bit integers. Included by one file per level, which first
// defines in its anonymous namespace the vectors Floats and Integers, and
//
//   kLanes, kMostTokens, rows_of(tokens)       size of the tiles whose sums are in registers
//   Floats load(const float*), even(const uint16_t*), odd(const uint16_t*)      neighbors of bfloat16
//   Floats half(const uint16_t*), float8(const uint8_t*)                        kLanes float16, float8
//   Integers load(const int16_t*), bytes(const int8_t*), nibbles(const uint8_t*, part)
//   Floats add(Floats sum, w, x), Integers add(Integers sum, w, x)              the latter of pairs of neighbors
//   Floats converted(Integers), spread(float)
//   void store(float*, Floats)
//   void sum4(const Vector* four, Number* to)  sums of the lanes of four vectors, in one order for all
//   prefetch(const void*)
//
// A sum is that of chunks of columns, one vector each, whose lanes are then added: in this order for any number of tokens
// and rows. Few tokens: a few rows of the weight at a time, whole, at the speed of memory. Many tokens: chunk by chunk, so
// that a chunk of all rows and of the tile's tokens stay in the first cache.
//
// All code here is in that namespace, so that no other file calls code for newer CPUs.

constexpr int kWords = 2 * kLanes;
constexpr int64_t kPad = 64;  // columns of prepared rows are a multiple of this many
constexpr int kFewTokens = 3;

struct Bfloat16Form {  // a step of x has its even columns first, then its odd ones
  using Stored = uint16_t;
  using X = float;
  using Vector = Floats;
  using Number = float;
  using Total = float;
  static constexpr int kParts = 2, kStep = 2 * kLanes, kApart = kLanes;
  static constexpr int64_t kColumns = 512;
  static Vector part(const Stored* w, int part) { return part ? odd(w) : even(w); }
};

struct Float16Form : Bfloat16Form {
  static constexpr int kParts = 1, kStep = kLanes;
  static Vector part(const Stored* w, int) { return half(w); }
};

struct Float8Form : Float16Form {
  using Stored = uint8_t;
  static Vector part(const Stored* w, int) { return float8(w); }
};

struct Int8Form {  // 512 columns of 16 bits times 8 bits do not overflow 32 bits
  using Stored = int8_t;
  using X = int16_t;
  using Vector = Integers;
  using Number = int32_t;
  using Total = float;
  static constexpr int kParts = 1, kStep = kWords, kApart = kWords;
  static constexpr int64_t kColumns = 512;
  static Vector part(const Stored* w, int) { return bytes(w); }
};

struct Int8Int8Form : Int8Form {
  using Total = int32_t;
};

template <int I>
struct Index {
  static constexpr int value = I;
  constexpr operator int() const { return I; }
};

template <class F, int... I>
ALWAYS_INLINE void each_of(std::integer_sequence<int, I...>, const F& f) {
  (f(Index<I>()), ...);
}

// Calls f(0) ... f(N - 1), with constants, so that arrays that it indexes are registers.
template <int N, class F>
ALWAYS_INLINE void repeat(const F& f) {
  each_of(std::make_integer_sequence<int, N>(), f);
}

template <class Form>
inline const typename Form::X* at(const void* row, int64_t column) {
  return static_cast<const typename Form::X*>(row) + column;
}

// Adds to sums [T][rows], or sets them at the first chunk.
template <class Form, int R, int T>
inline void put(const typename Form::Vector (&sum)[R][T], bool first, int64_t rows, float* sums) {
  using Total = typename Form::Total;
  typename Form::Number found[(R * T + 3) / 4 * 4];
  repeat<(R * T + 3) / 4>([&](auto four) ALWAYS {
    typename Form::Vector vectors[4] = {};
    repeat<4>([&](auto i) ALWAYS {
      constexpr int at = 4 * decltype(four)::value + decltype(i)::value;
      if constexpr (at < R * T) vectors[i] = sum[at % R][at / R];
    });
    sum4(vectors, found + 4 * four);
  });
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) {
      Total total = 0;
      if (!first) std::memcpy(&total, sums + t * rows + r, sizeof total);
      total += static_cast<Total>(found[t * R + r]);
      std::memcpy(sums + t * rows + r, &total, sizeof total);
    }
}

// Sums of columns [from, to) of R rows and T tokens.
template <class Form, int R, int T>
void tile(const typename Form::Stored* w, int64_t k, const void* const* x, int64_t from, int64_t to, int64_t rows,
          float* sums) {
  using Stored = typename Form::Stored;
  constexpr int64_t kBytes = sizeof(Stored), kLines = R * Form::kStep * kBytes / 64;
  const int64_t block = R * k * kBytes, next = block <= 8192 ? 2 * block : block;
  const typename Form::X* tokens[T];
  repeat<T>([&](auto t) ALWAYS { tokens[t] = at<Form>(x[t], 0); });  // in registers, not on the stack
  typename Form::Vector sum[R][T] = {};
  const auto step = [&](const Stored* weights, int64_t apart, int64_t column) ALWAYS {
    repeat<Form::kParts>([&](auto part) ALWAYS {
      decltype(Form::part(w, 0)) values[R];
      repeat<R>([&](auto r) ALWAYS { values[r] = Form::part(weights + r * apart, part); });
      repeat<T>([&](auto t) ALWAYS {
        const auto token = load(tokens[t] + column + part * Form::kApart);
        repeat<R>([&](auto r) ALWAYS { sum[r][t] = add(sum[r][t], values[r], token); });
      });
    });
  };
  Stored rest[R][Form::kStep];
  const Stored* weights = w + from;
  int64_t apart = k, column = from;
  for (int64_t left = (to - from) / Form::kStep;; left = 1) {
    for (; left > 0; --left, weights += Form::kStep, column += Form::kStep) {
      if (T <= kFewTokens)  // in memory order across pages, which the hardware does not
        for (int line = 0; line < (kLines ? kLines : 1); ++line)
          prefetch(reinterpret_cast<const char*>(w) + next + R * kBytes * column + 64 * line);
      step(weights, apart, column);
    }
    if (column >= to) break;
    std::memset(rest, 0, sizeof rest);  // the last columns, with zeros
    for (int r = 0; r < R; ++r)
      std::memcpy(rest[r], w + r * k + column, static_cast<size_t>(to - column) * sizeof(Stored));
    weights = rest[0], apart = Form::kStep;
  }
  put<Form, R, T>(sum, from == 0, rows, sums);
}

template <class Form, int T>
void each_row(const Block& w, int64_t row, int64_t end, const void* const* x, int64_t from, int64_t to, int64_t ahead,
              float* sums) {
  constexpr int R = rows_of(T);
  const auto* const data = static_cast<const typename Form::Stored*>(w.weights);
  for (; row + R <= end; row += R) {
    if (ahead)
      for (int r = 0; r < R; ++r)
        for (int64_t i = from; i < to; i += 64 / sizeof *data) prefetch(data + (row + r) * w.k + ahead + i);
    tile<Form, R, T>(data + row * w.k, w.k, x, from, to, w.rows, sums + row);
  }
  for (; row < end; ++row)
    for (int t = 0; t < T; ++t)
      tile<Form, 1, 1>(data + row * w.k, w.k, x + t, from, to, w.rows, sums + t * w.rows + row);
}

// Tokens of the next tile, of `left`; none is left alone if there are two or more.
inline int64_t next_tile(int64_t left) {
  if (left == 5) return 3;
  if (left == 7 || left == 8) return 4;
  return left < kMostTokens ? left : kMostTokens;
}

// Columns [from, to) of rows [row, end) with `count` tokens, at most kMostTokens. `ahead`: distance to the columns that are
// read next, or 0.
template <class Form>
void some_tokens(const Block& w, int64_t row, int64_t end, const void* const* x, int64_t count, int64_t from,
                 int64_t to, int64_t ahead, float* sums) {
  static_assert(kMostTokens == 4 || kMostTokens == 6);
  switch (count) {
    case 1: return each_row<Form, 1>(w, row, end, x, from, to, ahead, sums);
    case 2: return each_row<Form, 2>(w, row, end, x, from, to, ahead, sums);
    case 3: return each_row<Form, 3>(w, row, end, x, from, to, ahead, sums);
    case 4: return each_row<Form, 4>(w, row, end, x, from, to, ahead, sums);
    case 6:
      if constexpr (kMostTokens == 6) return each_row<Form, 6>(w, row, end, x, from, to, ahead, sums);
  }
}

template <class Form>
void dot(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  const auto end_of = [&](int64_t from) { return from + Form::kColumns < w.k ? from + Form::kColumns : w.k; };
  if (tokens <= kFewTokens) {
    constexpr int64_t R = rows_of(kFewTokens);
    for (int64_t row = 0; row < w.rows; row += R)
      for (int64_t from = 0; from < w.k; from += Form::kColumns)
        some_tokens<Form>(w, row, row + R < w.rows ? row + R : w.rows, x, tokens, from, end_of(from), 0, sums);
  } else {
    for (int64_t from = 0; from < w.k; from += Form::kColumns) {
      // the next chunk of the same rows, or the first one of the next block
      const int64_t next = end_of(from) < w.k ? Form::kColumns : w.rows * w.k - from;
      for (int64_t t = 0, count; t < tokens; t += count) {
        count = next_tile(tokens - t);
        some_tokens<Form>(w, 0, w.rows, x + t, count, from, end_of(from), t ? 0 : next, sums + t * w.rows);
      }
    }
  }
  if (sizeof(typename Form::Total) && static_cast<typename Form::Total>(0.5) == 0)  // integers
    for (int64_t i = 0; i < tokens * w.rows; ++i) {
      int32_t total;
      std::memcpy(&total, sums + i, sizeof total);
      sums[i] = static_cast<float>(total);
    }
}

// int4: a group's integers, then its float32, in the same lanes. Words of 16 bits hold four columns each; a step of x has
// the first columns of its words first, then the second ones, ...
constexpr int kStep4 = 4 * kWords;
constexpr int64_t kColumns4 = 2048;
constexpr int kMost4 = 4;

template <int T>
void tile4(const uint8_t* w, const float* scales, const void* const* x, int64_t from, int64_t to, bool first,
           int64_t rows, float* sums) {
  const int16_t* tokens[T];
  for (int t = 0; t < T; ++t) tokens[t] = static_cast<const int16_t*>(x[t]);
  Floats sum[1][T] = {};
  for (int64_t group = from; group < to; group += kGroup) {
    Integers whole[T] = {};
    prefetch(w + group / 2 + 2048);
    repeat<kGroup / kStep4>([&](auto part_of_group) ALWAYS {
      const int64_t column = group + part_of_group * kStep4;
      Integers values[4];
      repeat<4>([&](auto part) ALWAYS { values[part] = nibbles(w + column / 2, part); });
      repeat<T>([&](auto t) ALWAYS {
        repeat<4>([&](auto part) ALWAYS {
          whole[t] = add(whole[t], values[part], load(tokens[t] + column + part * kWords));
        });
      });
    });
    const Floats scale = spread(scales[group / kGroup]);
    repeat<T>([&](auto t) ALWAYS { sum[0][t] = add(sum[0][t], scale, converted(whole[t])); });
  }
  put<Bfloat16Form, 1, T>(sum, first, rows, sums);
}

void dot4(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  const auto row_of = [&](int64_t row, int64_t from, int64_t t) {
    const int64_t to = from + kColumns4 < w.k ? from + kColumns4 : w.k, left = tokens - t;
    const auto* const data = static_cast<const uint8_t*>(w.weights) + row * w.k / 2;
    const float* const scales = w.scales + row * (w.k / kGroup);
    float* const out = sums + t * w.rows + row;
    switch (left < kMost4 ? left : kMost4) {
      case 1: return tile4<1>(data, scales, x + t, from, to, from == 0, w.rows, out);
      case 2: return tile4<2>(data, scales, x + t, from, to, from == 0, w.rows, out);
      case 3: return tile4<3>(data, scales, x + t, from, to, from == 0, w.rows, out);
      case 4: return tile4<4>(data, scales, x + t, from, to, from == 0, w.rows, out);
    }
  };
  if (tokens <= kMost4) {
    for (int64_t row = 0; row < w.rows; ++row)
      for (int64_t from = 0; from < w.k; from += kColumns4) row_of(row, from, 0);
    return;
  }
  for (int64_t from = 0; from < w.k; from += kColumns4)
    for (int64_t t = 0; t < tokens; t += kMost4)
      for (int64_t row = 0; row < w.rows; ++row) row_of(row, from, t);
}

// One line more than the columns: rows that are multiples of a page apart would share few sets of the first cache.
template <class X>
int64_t row_bytes(int64_t k) {
  return padded(k, kPad) * static_cast<int64_t>(sizeof(X)) + 64;
}

template <class X, float (*kFill)(const Row&, X*)>
float prepare(const Row& x, void* to) {
  X* const row = static_cast<X*>(to);
  const float worth = kFill(x, row);
  std::memset(row + x.k, 0, static_cast<size_t>(padded(x.k, kPad) - x.k) * sizeof(X));
  return worth;
}

float prepare_bfloat16(const Row& x, void* to) {
  const auto* const values = static_cast<const uint16_t*>(x.values);
  float* const row = static_cast<float*>(to);
  int64_t column = 0;
  for (; column + kWords <= x.k; column += kWords) {
    store(row + column, even(values + column));
    store(row + column + kLanes, odd(values + column));
  }
  for (int64_t i = column; i < padded(x.k, kPad); ++i) row[i] = 0;
  for (int64_t i = column; i < x.k; ++i) {
    const uint32_t bits = static_cast<uint32_t>(values[i]) << 16;
    std::memcpy(row + column + (i - column) / 2 + (i % 2) * kLanes, &bits, sizeof bits);
  }
  return 1;
}

float prepare4(const Row& x, void* to) {
  int16_t* const row = static_cast<int16_t*>(to);
  const float worth = sixteen_bits(x, row);
  for (int64_t column = 0; column < x.k; column += kStep4) {
    int16_t step[kStep4];
    std::memcpy(step, row + column, sizeof step);
    for (int part = 0; part < 4; ++part)
      for (int i = 0; i < kWords; ++i) row[column + part * kWords + i] = step[4 * i + part];
  }
  return worth;
}

constexpr Kernel kInt8 = {row_bytes<int16_t>, prepare<int16_t, sixteen_bits>, dot<Int8Form>, nullptr};
constexpr Kernel kInt8Int8 = {row_bytes<int16_t>, prepare<int16_t, eight_bits>, dot<Int8Int8Form>, nullptr};
constexpr Kernel kInt4 = {row_bytes<int16_t>, prepare4, dot4, nullptr};

// Kernels of integers alone.
constexpr Kernels integers() { return {{}, {}, kInt8, kInt8Int8, kInt4, {}, {}, {}, {}, {}}; }

// All kernels. A template, so that a level without them does not compile those of floats.
template <class Level = void>
constexpr Kernels all() {
  Kernels made = integers();
  made.bfloat16 = {row_bytes<float>, prepare_bfloat16, dot<Bfloat16Form>, nullptr};
  made.float16 = {row_bytes<float>, prepare<float, float32>, dot<Float16Form>, nullptr};
  made.fp8 = {row_bytes<float>, prepare<float, products::float8>, dot<Float8Form>, nullptr};
  return made;
}

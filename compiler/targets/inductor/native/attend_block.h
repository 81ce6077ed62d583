// A block of attention, in vectors of kLanes floats. Included by one file per instruction set, which first defines in
// its anonymous namespace: kLanes; tile sizes in heads, positions and columns (kHeads, kAtOnce, kColumns); and
//
//   void totals(const Vector* four, float* to)                sums of four vectors
//   Bits wide(Halves), Bits wide(Bytes), Integers wide(SignedBytes)
//
// All code here is in that namespace, so that no other file calls code for newer CPUs.

struct Float32 {
  using Stored = float;
  using Row = Vector;
  static Vector widened(Row row) { return row; }
};

struct Bfloat16 {  // the upper half of a float32
  using Stored = uint16_t;
  using Row = Halves;
  static Vector widened(Row row) { return reinterpret_cast<Vector>(wide(row) << 16); }
};

struct Float16 {  // exponent bias 112 below float32's; the largest exponent stays the largest
  using Stored = uint16_t;
  using Row = Halves;
  static Vector widened(Row row) {
    const Bits bits = wide(row), sign = (bits & 0x8000) << 16, rest = bits & 0x7fff;
    const Bits finite = reinterpret_cast<Bits>(reinterpret_cast<Vector>(rest << 13) * 0x1p112f);
    const Bits others = reinterpret_cast<Bits>(rest >= 0x7c00) & 0x7f800000;
    return reinterpret_cast<Vector>(sign | finite | others);
  }
};

struct Int8 {
  using Stored = int8_t;
  using Row = SignedBytes;
  static Vector widened(Row row) { return __builtin_convertvector(wide(row), Vector); }
};

struct Float8 {  // e4m3: exponent bias 120 below float32's; only 0x7f is NaN
  using Stored = uint8_t;
  using Row = Bytes;
  static Vector widened(Row row) {
    const Bits bits = wide(row), sign = (bits & 0x80) << 24, rest = bits & 0x7f;
    const Bits finite = reinterpret_cast<Bits>(reinterpret_cast<Vector>(rest << 20) * 0x1p120f);
    const Bits none = reinterpret_cast<Bits>(rest == 0x7f) & 0x7fc00000;
    return reinterpret_cast<Vector>(sign | finite | none);
  }
};

template <class Form>
inline Vector load(const typename Form::Stored* from) {
  typename Form::Row row;
  std::memcpy(&row, from, sizeof row);
  return Form::widened(row);
}

// The first `count` elements, then zeros.
template <class Form>
inline Vector load(const typename Form::Stored* from, int64_t count) {
  typename Form::Row row = {};
  std::memcpy(&row, from, static_cast<size_t>(count) * sizeof *from);
  return Form::widened(row);
}

inline void store(float* to, Vector values) { std::memcpy(to, &values, sizeof values); }

inline float total(Vector values) {
  const Vector four[4] = {values, {}, {}, {}};
  float found[4];
  totals(four, found);
  return found[0];
}

template <class Form>
inline const typename Form::Stored* at(const void* first, int64_t index) {
  return static_cast<const typename Form::Stored*>(first) + index;
}

// Scores of H heads from `head` on, at P positions from `position` on.
template <class Form, int H, int P>
inline void score(const Block& b, int64_t head, int64_t position) {
  const auto* keys = at<Form>(b.k, position * b.stride);
  const float* queries = b.q + head * b.width;
  Vector sum[H][P] = {};
  const auto add = [&](int64_t column, const Vector(&key)[P]) __attribute__((always_inline)) {
    UNROLLED
    for (int h = 0; h < H; ++h) {
      const Vector query = load<Float32>(queries + h * b.width + column);
      UNROLLED
      for (int p = 0; p < P; ++p) sum[h][p] += query * key[p];
    }
  };
  Vector key[P];
  int64_t column = 0;
  for (; column + kLanes <= b.dim; column += kLanes) {
    UNROLLED
    for (int p = 0; p < P; ++p) key[p] = load<Form>(keys + p * b.stride + column);
    add(column, key);
  }
  if (column < b.dim) {
    for (int p = 0; p < P; ++p) key[p] = load<Form>(keys + p * b.stride + column, b.dim - column);
    add(column, key);
  }
  UNROLLED
  for (int h = 0; h < H; ++h) {
    float* scores = b.scores + (head + h) * kBlock + position;
    if (P % 4 == 0)
      for (int p = 0; p < P; p += 4) totals(sum[h] + p, scores + p);
    else
      for (int p = 0; p < P; ++p) scores[p] = total(sum[h][p]);
  }
}

// exp(x) for x <= 0, to the last bits: 2^n times the series of the remainder, whose magnitude is below ln(2) / 2.
inline Vector exponential(Vector x) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, which is then in the lowest bits
  const Vector rounded = x * 0x1.715476p0f + kRound, n = rounded - kRound;
  const Vector rest = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;  // ln(2) in two parts: the first product is exact
  Vector series = rest * (1.0f / 5040) + 1.0f / 720;
  series = series * rest + 1.0f / 120;
  series = series * rest + 1.0f / 24;
  series = series * rest + 1.0f / 6;
  series = series * rest + 0.5f;
  series = series * rest + 1.0f;
  series = series * rest + 1.0f;
  const Bits power = (reinterpret_cast<Bits>(rounded) + (127 - 0x4b400000)) << 23;
  return x < -87.0f ? Vector{} : series * reinterpret_cast<Vector>(power);
}

// softcap * tanh(x / softcap), from exp of a negative magnitude, which cannot overflow.
inline Vector capped(Vector x, float softcap) {
  const Vector magnitude = x < 0.0f ? -x : x;
  const Vector part = exponential(magnitude * (-2.0f / softcap)), value = (1.0f - part) / (1.0f + part) * softcap;
  return x < 0.0f ? -value : value;
}

// Replaces the scores of one head by exp(score - largest).
inline void soften(const Block& b, int64_t head) {
  float* scores = b.scores + head * kBlock;
  if (b.softcap > 0)
    for (int64_t i = 0; i < b.positions; i += kLanes) store(scores + i, capped(load<Float32>(scores + i), b.softcap));
  for (int64_t i = b.positions; i % kLanes; ++i) scores[i] = -__builtin_inff();
  if (b.slopes)
    for (int64_t i = 0; i < b.positions; ++i) scores[i] += b.slopes[head] * (b.distance + static_cast<float>(i));
  Vector largest = load<Float32>(scores);
  for (int64_t i = kLanes; i < b.positions; i += kLanes) {
    const Vector next = load<Float32>(scores + i);
    largest = next > largest ? next : largest;
  }
  float most = largest[0];
  for (int lane = 1; lane < kLanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
  Vector sum = {};
  for (int64_t i = 0; i < b.positions; i += kLanes) {
    const Vector share = exponential(load<Float32>(scores + i) - most);
    store(scores + i, share);
    sum += share;
  }
  b.largest[head] = most;
  b.sum[head] = total(sum);
}

// Output of H heads from `head` on: C vectors from `column` on, with only the first `count` elements of the last.
template <class Form, int H, int C>
inline void mix(const Block& b, int64_t head, int64_t column, int64_t count) {
  const auto* values = at<Form>(b.v, column);
  const float* shares = b.scores + head * kBlock;
  Vector sum[H][C] = {};
  const auto add = [&](int64_t position, const Vector(&value)[C]) __attribute__((always_inline)) {
    UNROLLED
    for (int h = 0; h < H; ++h) {
      const float share = shares[h * kBlock + position];
      UNROLLED
      for (int c = 0; c < C; ++c) sum[h][c] += share * value[c];
    }
  };
  Vector value[C];
  if (count == kLanes)
    for (int64_t position = 0; position < b.positions; ++position) {
      UNROLLED
      for (int c = 0; c < C; ++c) value[c] = load<Form>(values + position * b.stride + c * kLanes);
      add(position, value);
    }
  else
    for (int64_t position = 0; position < b.positions; ++position) {
      for (int c = 0; c < C; ++c) value[c] = load<Form>(values + position * b.stride + c * kLanes, count);
      add(position, value);
    }
  UNROLLED
  for (int h = 0; h < H; ++h)
    UNROLLED
    for (int c = 0; c < C; ++c) store(b.out + (head + h) * b.width + column + c * kLanes, sum[h][c]);
}

// Calls f.template operator()<H>(head) over all heads.
template <class F>
inline void each_head(int64_t heads, const F& f) {
  int64_t head = 0;
  for (; head + kHeads <= heads; head += kHeads) f(head, Count<kHeads>());
  for (; kHeads > 2 && head + 2 <= heads; head += 2) f(head, Count<2>());
  for (; head < heads; ++head) f(head, Count<1>());
}

template <class Form>
void run(const Block& b) {
  int64_t position = 0;
  for (; position + kAtOnce <= b.positions; position += kAtOnce)
    each_head(b.heads, [&](int64_t head, auto count) { score<Form, count.value, kAtOnce>(b, head, position); });
  for (; position < b.positions; ++position)
    each_head(b.heads, [&](int64_t head, auto count) { score<Form, count.value, 1>(b, head, position); });
  for (int64_t head = 0; head < b.heads; ++head) soften(b, head);
  int64_t column = 0;
  for (; column + kColumns * kLanes <= b.dim; column += kColumns * kLanes)
    each_head(b.heads, [&](int64_t head, auto count) { mix<Form, count.value, kColumns>(b, head, column, kLanes); });
  for (; column < b.dim; column += kLanes)
    each_head(b.heads, [&](int64_t head, auto count) {
      mix<Form, count.value, 1>(b, head, column, b.dim - column < kLanes ? b.dim - column : int64_t{kLanes});
    });
}

constexpr Blocks kAll = {run<Float32>, run<Bfloat16>, run<Float16>, run<Int8>, run<Float8>};

// Kernels for many tokens: a chunk of the weight is widened once, into a panel that all tokens use. Included after
// tiles.h, whose forms and prepared rows it shares, in files that also define
//
//   Floats every(const float*), Integers every(const int16_t*)      a unit in all lanes
//   Floats units(Floats), units(Integers)                           their bits
//   transpose(Floats*)                                              kLanes vectors
//   keep(sum)                                                       sums that are not moved past this line
//
// A unit has 32 bits: a float32, or two neighbors of 16 bits. A panel has the units of kPanel rows of the weight, column
// by column: every lane of a sum is a row of its own, and a token's units are read one by one. A sum is that of chunks
// of columns, or groups of int4, in each of them column by column: in this order for any number of tokens and rows.

constexpr int kVectors = 2, kPanel = kVectors * kLanes;

struct Bfloat16Panel : Bfloat16Form {
  static constexpr int kBits = 16;
  static constexpr int64_t kColumns = 256;  // 16 KiB of a panel, which stay in the first cache
};

struct Float16Panel : Float16Form {
  static constexpr int kBits = 16;
  static constexpr int64_t kColumns = 256;
};

struct Int8Panel : Int8Form {
  static constexpr int kBits = 8;
};

struct Int4Panel : Int8Form {
  using Stored = uint8_t;
  static constexpr int kBits = 4, kParts = 4, kStep = kStep4;
  static Vector part(const Stored* w, int part) { return nibbles(w, part); }
};

template <class Form>
constexpr int64_t kPerUnit = 4 / sizeof(typename Form::X);

// Columns that are summed before they are scaled.
template <class Form>
constexpr int64_t kScaled = Form::kBits == 4 ? kGroup : Form::kColumns;

inline Floats converted(Floats sum) { return sum; }

// kLanes rows of a panel, columns [from, to), with zeros behind the last row and column.
template <class Form>
void pack(const Block& w, int64_t row, int64_t from, int64_t to, typename Form::X* panel) {
  constexpr int kBytes = Form::kStep * Form::kBits / 8;
  const auto bytes = [](int64_t columns) { return columns * Form::kBits / 8; };
  // the next chunk of the same rows, or the first one of the next block
  const int64_t next = to < w.k ? bytes(to - from) : bytes(w.rows * w.k - from);
  for (int64_t column = from; column < to; column += Form::kStep) {
    const int64_t left = to - column < Form::kStep ? bytes(to - column) : kBytes;
    char rest[kLanes][kBytes];
    const typename Form::Stored* rows[kLanes];
    repeat<kLanes>([&](auto lane) ALWAYS {
      const char* found = static_cast<const char*>(w.weights) + bytes((row + lane) * w.k + column);
      const bool known = row + lane < w.rows;
      if (known) prefetch(found + next);
      if (!known || left < kBytes) {
        std::memset(rest[lane], 0, kBytes);
        if (known) std::memcpy(rest[lane], found, static_cast<size_t>(left));
        found = rest[lane];
      }
      rows[lane] = reinterpret_cast<const typename Form::Stored*>(found);
    });
    repeat<Form::kParts>([&](auto part) ALWAYS {
      Floats found[kLanes];
      repeat<kLanes>([&](auto lane) ALWAYS { found[lane] = units(Form::part(rows[lane], part)); });
      transpose(found);
      const int64_t first = (column - from) / kPerUnit<Form> + part * kLanes;
      float* const widened = reinterpret_cast<float*>(panel) + first * kPanel;
      repeat<kLanes>([&](auto unit) ALWAYS { store(widened + unit * kPanel, found[unit]); });
    });
  }
}

// Sums of columns [from, to) of the `rows` first rows of a panel and T tokens, added to sums [T][apart].
template <class Form, int T>
void panel_tile(const typename Form::X* panel, const float* scales, const void* const* x, int64_t from, int64_t to,
                int64_t rows, int64_t apart, float* sums) {
  constexpr int64_t kUnit = kPerUnit<Form>;
  const typename Form::X* tokens[T];
  repeat<T>([&](auto t) ALWAYS { tokens[t] = at<Form>(x[t], 0); });
  float whole[T * kPanel];
  float* totals = sums;
  if (rows < kPanel) {
    for (int t = 0; t < T; ++t) std::memcpy(whole + t * kPanel, sums + t * apart, static_cast<size_t>(rows) * 4);
    totals = whole;
  }
  const int64_t stride = rows < kPanel ? kPanel : apart;
  for (int64_t column = from; column < to; column += kScaled<Form>, scales += kPanel) {
    const int64_t columns = to - column < kScaled<Form> ? padded(to - column, Form::kStep) : kScaled<Form>;
    typename Form::Vector sum[T][kVectors] = {};
    for (int64_t unit = column; unit < column + columns; unit += kUnit, panel += kPanel * kUnit) {
      typename Form::Vector values[kVectors];
      repeat<kVectors>([&](auto v) ALWAYS { values[v] = load(panel + v * kLanes * kUnit); });
      repeat<T>([&](auto t) ALWAYS {
        const auto token = every(tokens[t] + unit);
        repeat<kVectors>([&](auto v) ALWAYS {
          sum[t][v] = add(sum[t][v], values[v], token);
          keep(sum[t][v]);
        });
      });
    }
    repeat<T>([&](auto t) ALWAYS {
      repeat<kVectors>([&](auto v) ALWAYS {
        float* const total = totals + t * stride + v * kLanes;
        const Floats before = column ? load(total) : spread(0);
        const Floats scale = Form::kBits == 4 ? load(scales + v * kLanes) : spread(1);
        store(total, add(before, scale, converted(sum[t][v])));
      });
    });
  }
  if (rows < kPanel)
    for (int t = 0; t < T; ++t) std::memcpy(sums + t * apart, whole + t * kPanel, static_cast<size_t>(rows) * 4);
}

template <class Form>
void dot_in_panels(const Block& w, const void* const* x, int64_t tokens, float* sums) {
  using X = typename Form::X;
  constexpr int64_t kGroups = Form::kColumns / kScaled<Form>;
  auto* const panel = static_cast<X*>(w.room);
  auto* const scales = reinterpret_cast<float*>(panel + Form::kColumns * kPanel);
  const auto tile = [&](int64_t row, int64_t from, int64_t to, int64_t t, int64_t count) {
    const int64_t rows = w.rows - row < kPanel ? w.rows - row : kPanel;
    float* const own = sums + t * w.rows + row;
    static_assert(kMostTokens == 6);
    switch (count) {
      case 1: return panel_tile<Form, 1>(panel, scales, x + t, from, to, rows, w.rows, own);
      case 2: return panel_tile<Form, 2>(panel, scales, x + t, from, to, rows, w.rows, own);
      case 3: return panel_tile<Form, 3>(panel, scales, x + t, from, to, rows, w.rows, own);
      case 4: return panel_tile<Form, 4>(panel, scales, x + t, from, to, rows, w.rows, own);
      case 6: return panel_tile<Form, 6>(panel, scales, x + t, from, to, rows, w.rows, own);
    }
  };
  for (int64_t from = 0; from < w.k; from += Form::kColumns) {
    const int64_t to = from + Form::kColumns < w.k ? from + Form::kColumns : w.k;
    for (int64_t row = 0; row < w.rows; row += kPanel) {
      repeat<kVectors>([&](auto v) ALWAYS {
        pack<Form>(w, row + v * kLanes, from, to, panel + v * kLanes * kPerUnit<Form>);
      });
      if (Form::kBits == 4)
        for (int64_t group = 0; group < kGroups; ++group)
          for (int64_t r = 0; r < kPanel; ++r) {
            const bool known = row + r < w.rows && from + group * kGroup < to;
            scales[group * kPanel + r] = known ? w.scales[(row + r) * (w.k / kGroup) + from / kGroup + group] : 0;
          }
      for (int64_t t = 0, count; t < tokens; t += count) {
        count = next_tile(tokens - t);
        tile(row, from, to, t, count);
      }
    }
  }
}

template <class Form>
int64_t panel_room(int64_t, int64_t) {
  constexpr int64_t kScales = Form::kColumns / kScaled<Form> * sizeof(float);
  return kPanel * (Form::kColumns * static_cast<int64_t>(sizeof(typename Form::X)) + kScales);
}

template <class Form>
constexpr Kernel in_panels(const Kernel& few) {
  return {few.row_bytes, few.prepare, dot_in_panels<Form>, panel_room<Form>};
}

// `few` with kernels for many tokens. A template, so that a level without kernels of floats compiles none for many.
template <class Level = void>
constexpr Kernels with_panels(const Kernels& few) {
  Kernels made = few;
  if (few.bfloat16.dot) {
    made.bfloat16_many = in_panels<Bfloat16Panel>(few.bfloat16);
    made.float16_many = in_panels<Float16Panel>(few.float16);
  }
  made.int8_many = in_panels<Int8Panel>(few.int8);
  made.int4_many = in_panels<Int4Panel>(few.int4);
  return made;
}

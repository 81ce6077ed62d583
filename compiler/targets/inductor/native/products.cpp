#include "products.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "dots.h"
#include "floats.h"
#include "tokens.h"

namespace products {
namespace {

constexpr int64_t kBlock = 16;               // rows of a weight between two visits to y
constexpr int64_t kNear = int64_t{1} << 18;  // bytes of x that are read again and again: they stay in a core's cache
constexpr int64_t kLeast = 1 << 16;          // numbers in a weight from which on threads are worth their start

// Rows of y that one expert computes.
struct Work {
  int64_t expert;
  std::vector<int64_t> rows;
};

std::vector<Work> by_expert(int64_t experts, const int64_t* chosen, int64_t count) {
  std::vector<Work> found(static_cast<size_t>(experts));
  for (int64_t i = 0; i < count; ++i) found[static_cast<size_t>(chosen ? chosen[i] : 0)].rows.push_back(i);
  for (int64_t e = 0; e < experts; ++e) found[static_cast<size_t>(e)].expert = e;
  found.erase(std::remove_if(found.begin(), found.end(), [](const Work& work) { return work.rows.empty(); }),
              found.end());
  return found;
}

// `form` knows one format: form.row(t) is token t as its dots read it, form.dot computes sums of a block of rows, and
// form.value makes y of the sums of one row and one token.
template <class Float, class Form>
void run(const Weight& w, const Activations<typename Float::Stored>& a, const Form& form) {
  using Row = typename Form::Row;
  const auto all = by_expert(w.experts, a.chosen, a.tokens * a.choices);
  const int64_t at_once = std::max<int64_t>(kNear / form.bytes_of_token(w.in) / 4 * 4, 4);
  struct Part {
    int64_t expert;
    const int64_t* y;  // rows of it
    std::vector<Row> x;
  };
  std::vector<Part> parts;
  size_t widest = 0;
  for (const Work& work : all)
    for (int64_t first = 0; first < static_cast<int64_t>(work.rows.size()); first += at_once) {
      const int64_t count = std::min(at_once, static_cast<int64_t>(work.rows.size()) - first);
      Part part{work.expert, work.rows.data() + first, {}};
      for (int64_t i = 0; i < count; ++i) form.append(part.x, part.y[i] / a.choices);
      widest = std::max(widest, part.x.size());
      parts.push_back(std::move(part));
    }
  const int64_t blocks = (w.out + kBlock - 1) / kBlock, each = static_cast<int64_t>(widest) * kBlock;
  const Buffer<typename Form::Sum> sums(each * omp_get_max_threads());
#pragma omp parallel if (w.out * w.in >= kLeast)
  for (const Part& part : parts) {
    auto* const own = sums.data + each * omp_get_thread_num();
    const int64_t width = static_cast<int64_t>(part.x.size()), tokens = width / Form::kRows;
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kBlock, count = std::min(kBlock, w.out - first);
      form.dot(part.expert * w.out + first, count, part.x.data(), width, own);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t r = 0; r < count; ++r) {
          const int64_t row = first + r, y = part.y[t];
          float value = form.value(part.expert * w.out + row, y / a.choices, own + r * width + t * Form::kRows);
          if (a.bias) value = value + Float::load(a.bias[row]);
          a.y[y * w.out + row] = Float::store(value);
        }
    }
  }
}

struct Bfloat16Form {
  using Row = const uint16_t*;
  using Sum = float;
  static constexpr int64_t kRows = 1;
  const Dots& dots;
  const Weight& w;
  const uint16_t* x;

  static int64_t bytes_of_token(int64_t k) { return 2 * k; }
  void append(std::vector<Row>& rows, int64_t token) const { rows.push_back(x + token * w.in); }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    dots.bfloat16(static_cast<const uint16_t*>(w.data) + row * w.in, rows, tokens, count, w.in, sums);
  }
  float value(int64_t, int64_t, const Sum* sums) const { return sums[0]; }
};

template <int kDigits>
struct Int8Form {
  using Row = Integers;
  using Sum = int32_t;
  static constexpr int64_t kRows = kDigits;
  const Dots& dots;
  const Weight& w;
  const Tokens& x;

  static int64_t bytes_of_token(int64_t k) { return kDigits * k; }
  void append(std::vector<Row>& rows, int64_t token) const {
    for (int64_t digit = 0; digit < kDigits; ++digit) rows.push_back(x.rows[static_cast<size_t>(token * kDigits + digit)]);
  }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    dots.int8(static_cast<const int8_t*>(w.data) + row * w.in, rows, tokens, count, w.in, sums);
  }
  float value(int64_t row, int64_t token, const Sum* sums) const {
    const int64_t whole = kDigits == 2 ? 256 * int64_t{sums[0]} + sums[kDigits - 1] : sums[0];
    return static_cast<float>(whole) * x.worth[static_cast<size_t>(token)] * w.scales[row];
  }
};

struct Int4Form {
  using Row = WideIntegers;
  using Sum = float;
  static constexpr int64_t kRows = 1;
  const Dots& dots;
  const Weight& w;
  const GroupedTokens& x;

  static int64_t bytes_of_token(int64_t k) { return 2 * k + k / 2; }
  void append(std::vector<Row>& rows, int64_t token) const { rows.push_back(x.rows[static_cast<size_t>(token)]); }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    const auto* data = static_cast<const uint8_t*>(w.data) + row * w.in / 2;
    dots.int4(data, w.scales + row * (w.in / kGroup), rows, tokens, count, w.in, sums);
  }
  float value(int64_t, int64_t token, const Sum* sums) const { return sums[0] * x.worth[static_cast<size_t>(token)]; }
};

template <class Float>
void run_integers(const Weight& w, const Activations<typename Float::Stored>& a, const Dots& dots) {
  if (w.format == Format::kInt4) {
    const auto x = grouped_integers<Float>(a.x, a.tokens, w.in);
    run<Float>(w, a, Int4Form{dots, w, x});
  } else if (w.format == Format::kInt8) {
    const auto x = integers<Float, 2>(a.x, a.tokens, w.in);
    run<Float>(w, a, Int8Form<2>{dots, w, x});
  } else {
    const auto x = integers<Float, 1>(a.x, a.tokens, w.in);
    run<Float>(w, a, Int8Form<1>{dots, w, x});
  }
}

}  // namespace

void run(const Weight& weight, const Activations<float>& activations, const Dots& dots) {
  run_integers<Float32>(weight, activations, dots);
}

void run(const Weight& weight, const Activations<uint16_t>& activations, const Dots& dots) {
  if (weight.format == Format::kBfloat16)
    run<Bfloat16>(weight, activations, Bfloat16Form{dots, weight, activations.x});
  else
    run_integers<Bfloat16>(weight, activations, dots);
}

}  // namespace products

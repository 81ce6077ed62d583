#include "products.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "dots.h"
#include "floats.h"
#include "tokens.h"

namespace products {
namespace {

constexpr int64_t kBlock = 16;               // rows of a weight whose sums are stored to y at a time
constexpr int64_t kNear = int64_t{1} << 18;  // bytes of x that are read repeatedly and fit a core's cache
constexpr int64_t kLeast = 1 << 16;          // elements of a weight above which starting threads pays off
constexpr int64_t kMany = 32;                // tokens above which widening the weight's rows first pays off

// Rows of y that one expert computes, and their rows of x in the representation of a Form.
template <class Row>
struct Part {
  int64_t expert;
  std::vector<int64_t> y;
  std::vector<Row> x;
};

// All rows of y, in parts of at most `at_once` rows. An expert that no token chose has none.
template <class Form>
std::vector<Part<typename Form::Row>> parts_of(const Weight& w, const Activations& a, const Form& form) {
  const int64_t at_once = std::max<int64_t>(kNear / form.bytes_of_token(w.in) / 4 * 4, 4);
  std::vector<Part<typename Form::Row>> found;
  for (int64_t expert = 0; expert < w.experts; ++expert) {
    int64_t count = 0;
    for (int64_t row = 0; row < a.tokens * a.choices; ++row) {
      if (a.chosen && a.chosen[row] != expert) continue;
      if (count++ % at_once == 0) found.push_back({expert, {}, {}});
      found.back().y.push_back(row);
      form.append(found.back().x, row / a.choices);
    }
  }
  return found;
}

// `form` implements one format: append(rows, t) adds token t in the representation of the dots, dot(...) computes the
// sums of some rows of the weight with some tokens, and value(...) is y before the bias, from the kRows sums of one row
// and one token, at the given stride.
template <class Float, class Form>
void run(const Weight& w, const Activations& a, const Form& form) {
  const auto parts = parts_of(w, a, form);
  size_t widest = 0;
  for (const auto& part : parts) widest = std::max(widest, part.x.size());
  const int64_t blocks = (w.out + kBlock - 1) / kBlock, each = static_cast<int64_t>(widest) * kBlock;
  const Buffer<typename Form::Sum> sums(each * omp_get_max_threads());
  const auto* const bias = static_cast<const typename Float::Stored*>(a.bias);
  auto* const out = static_cast<typename Float::Stored*>(a.y);
#pragma omp parallel if (w.out * w.in >= kLeast)
  for (const auto& part : parts) {
    auto* const own = sums.data + each * omp_get_thread_num();
    const int64_t width = static_cast<int64_t>(part.x.size());
    // A thread has the same rows in every part, so parts need no barrier.
#pragma omp for schedule(static) nowait
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t first = block * kBlock, count = std::min(kBlock, w.out - first);
      form.dot(part.expert * w.out + first, count, part.x.data(), width, own);
      for (size_t t = 0; t < part.y.size(); ++t) {
        const int64_t y = part.y[t];
        const auto* const of_token = own + static_cast<int64_t>(t) * Form::kRows * count;
        auto* const to = out + y * w.out + first;
        float values[kBlock];
        for (int64_t r = 0; r < count; ++r)
          values[r] = form.value(part.expert * w.out + first + r, y / a.choices, of_token + r, count);
        if (bias)
          for (int64_t r = 0; r < count; ++r) values[r] = values[r] + Float::load(bias[first + r]);
        for (int64_t r = 0; r < count; ++r) to[r] = Float::store(values[r]);
      }
    }
  }
}

struct FloatsForm {
  using Row = const uint16_t*;
  using Sum = float;
  static constexpr int64_t kRows = 1;
  const Dots::Floats dot_products;
  const Weight& w;
  const uint16_t* x;

  static int64_t bytes_of_token(int64_t k) { return 2 * k; }
  void append(std::vector<Row>& rows, int64_t token) const { rows.push_back(x + token * w.in); }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    dot_products(static_cast<const uint16_t*>(w.data) + row * w.in, rows, tokens, count, w.in, sums);
  }
  float value(int64_t, int64_t, const Sum* sums, int64_t) const { return sums[0]; }
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
    const auto first = x.rows.begin() + token * kDigits;
    rows.insert(rows.end(), first, first + kDigits);
  }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    dots.int8(static_cast<const int8_t*>(w.data) + row * w.in, rows, tokens, count, w.in, sums);
  }
  float value(int64_t row, int64_t token, const Sum* sums, int64_t apart) const {
    const int64_t whole = kDigits == 2 ? 256 * int64_t{sums[0]} + sums[apart] : sums[0];
    return static_cast<float>(whole) * x.worth[static_cast<size_t>(token)] * w.scales[row];
  }
};

// Blocks of rows widened to bfloat16, one for each thread.
struct Wide {
  const Dots& dots;
  const Weight& w;
  const Buffer<uint16_t> near{kBlock * w.in * omp_get_max_threads()};

  const uint16_t* rows(int64_t first, int64_t count) const {
    uint16_t* const to = near.data + omp_get_thread_num() * kBlock * w.in;
    const int64_t at = first * w.in, numbers = count * w.in;
    switch (w.format) {
      case Format::kInt8Bfloat16: dots.widen_int8(static_cast<const int8_t*>(w.data) + at, numbers, to); break;
      case Format::kFp8: dots.widen_fp8(static_cast<const uint8_t*>(w.data) + at, numbers, to); break;
      default: dots.widen_int4(static_cast<const uint8_t*>(w.data) + at / 2, w.scales + at / kGroup, numbers, to);
    }
    return to;
  }
};

struct WideForm {
  using Row = const uint16_t*;
  using Sum = float;
  static constexpr int64_t kRows = 1;
  const Dots& dots;
  const Weight& w;
  const uint16_t* x;
  const Wide wide{dots, w};

  static int64_t bytes_of_token(int64_t k) { return 2 * k; }
  void append(std::vector<Row>& rows, int64_t token) const { rows.push_back(x + token * w.in); }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    dots.bfloat16(wide.rows(row, rows), rows, tokens, count, w.in, sums);
  }
  float value(int64_t row, int64_t, const Sum* sums, int64_t) const {
    return w.format == Format::kInt4Bfloat16 ? sums[0] : sums[0] * w.scales[row];
  }
};

struct Fp8Form {
  using Row = const uint16_t*;
  using Sum = float;
  static constexpr int64_t kRows = 1;
  const Dots& dots;
  const Weight& w;
  const Fp8Tokens& x;
  const Wide wide{dots, w};

  static int64_t bytes_of_token(int64_t k) { return 2 * k; }
  void append(std::vector<Row>& rows, int64_t token) const { rows.push_back(x.rows[static_cast<size_t>(token)]); }
  void dot(int64_t row, int64_t rows, const Row* tokens, int64_t count, Sum* sums) const {
    const auto* const data = static_cast<const uint8_t*>(w.data) + row * w.in;
    if (dots.fp8 && count < kMany) return dots.fp8(data, rows, tokens, count, w.in, sums);
    dots.bfloat16(wide.rows(row, rows), rows, tokens, count, w.in, sums);
  }
  float value(int64_t row, int64_t token, const Sum* sums, int64_t) const {
    return sums[0] * x.worth[static_cast<size_t>(token)] * w.scales[row];
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
  float value(int64_t, int64_t token, const Sum* sums, int64_t) const {
    return sums[0] * x.worth[static_cast<size_t>(token)];
  }
};

template <class Float>
void run_quantized(const Weight& w, const Activations& a, const Dots& dots) {
  const auto* x = static_cast<const typename Float::Stored*>(a.x);
  switch (w.format) {
    case Format::kInt4: {
      const auto rows = grouped_integers<Float>(x, a.tokens, w.in);
      return run<Float>(w, a, Int4Form{dots, w, rows});
    }
    case Format::kInt8: {
      const auto rows = integers<Float, 2>(x, a.tokens, w.in);
      return run<Float>(w, a, Int8Form<2>{dots, w, rows});
    }
    case Format::kInt8Int8: {
      const auto rows = integers<Float, 1>(x, a.tokens, w.in, w.input_scale);
      return run<Float>(w, a, Int8Form<1>{dots, w, rows});
    }
    case Format::kFp8: {
      const auto rows = fp8<Float>(x, a.tokens, w.in, w.input_scale);
      return run<Float>(w, a, Fp8Form{dots, w, rows});
    }
    case Format::kFloats:
    case Format::kInt8Bfloat16:
    case Format::kInt4Bfloat16: break;
  }
}

template <class Float>
void run_sixteen_bits(const Weight& w, const Activations& a, const Dots& dots, Dots::Floats dot_products) {
  const auto* const x = static_cast<const uint16_t*>(a.x);
  switch (w.format) {
    case Format::kFloats: return run<Float>(w, a, FloatsForm{dot_products, w, x});
    case Format::kInt8Bfloat16:
    case Format::kInt4Bfloat16: return run<Float>(w, a, WideForm{dots, w, x});
    default: return run_quantized<Float>(w, a, dots);
  }
}

}  // namespace

void run(const Weight& weight, const Activations& activations, const Dots& dots) {
  switch (activations.dtype) {
    case Dtype::kFloat32: return run_quantized<Float32>(weight, activations, dots);
    case Dtype::kBfloat16: return run_sixteen_bits<Bfloat16>(weight, activations, dots, dots.bfloat16);
    case Dtype::kFloat16: return run_sixteen_bits<Float16>(weight, activations, dots, dots.float16);
  }
}

}  // namespace products

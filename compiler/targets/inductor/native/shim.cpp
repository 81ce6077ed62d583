// C entry points of the operators in compiler/targets/inductor/ops.py, called by packages with torch's tensor handles.
#include <exception>
#include <stdexcept>
#include <vector>

#include "handles.h"
#include "levels.h"
#include "library.h"
#include "products.h"

namespace {

using handles::data;
using handles::dtype;
using handles::empty;
using handles::floats;
using handles::sizes;
using products::Activations;
using products::Dtype;
using products::Format;
using products::Level;
using products::Weight;

// A product's weight, and whether it has many tokens.
struct Operator {
  Format format;
  bool many;
};

bool in_library(const Operator& op, Dtype dtype, bool experts, Level level) {
  if (experts) return false;
  if (op.format == Format::kInt8Int8) return op.many && products::library_has_int8(level);
  return op.format == Format::kFloatsMany && dtype == Dtype::kBfloat16 && products::library_has_bfloat16(level);
}

void run(const Operator& op, const Weight& weight, const Activations& activations) {
  const Level level = products::level();
  if (!in_library(op, activations.dtype, activations.chosen != nullptr, level))
    products::run(weight, activations, products::kernels(level));
  else if (op.format == Format::kFloatsMany)
    products::run_floats_in_library(weight, activations);
  else
    products::run_int8_in_library(weight, activations);
}

Dtype known_dtype(AtenTensorHandle tensor) {
  const int32_t found = dtype(tensor);
  if (found == aoti_torch_dtype_float32()) return Dtype::kFloat32;
  if (found == aoti_torch_dtype_bfloat16()) return Dtype::kBfloat16;
  if (found == aoti_torch_dtype_float16()) return Dtype::kFloat16;
  throw std::invalid_argument("a product of another dtype");
}

// x [tokens, in], weight [out, in] -> [tokens, out]; with chosen [tokens, k], weight [experts, out, in] ->
// [tokens, k, out]. All tensors are row-major. The caller owns `*result`.
AOTITorchError product(const Operator& op, AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle* scale,
                       AtenTensorHandle* input_scale, AtenTensorHandle* bias, AtenTensorHandle* chosen,
                       AtenTensorHandle* result) try {
  const auto of_x = sizes(x), of_weight = sizes(weight);
  const int64_t tokens = of_x[0], in = of_x[1], out = of_weight[of_weight.size() - 2];
  const int64_t choices = chosen ? sizes(*chosen)[1] : 1;
  if (in > products::kMostColumns) throw std::length_error("a product of more than 65536 columns");
  std::vector<int64_t> of_y = {tokens, out};
  if (chosen) of_y = {tokens, choices, out};
  const AtenTensorHandle y = empty(of_y, dtype(x));
  *result = y;
  const Weight known{op.format, data(weight), floats(scale), floats(input_scale), chosen ? of_weight[0] : 1, out, in};
  const Activations activations{
      known_dtype(x), data(x), bias ? data(*bias) : nullptr, data(y), tokens,
      chosen ? static_cast<const int64_t*>(data(*chosen)) : nullptr, choices};
  run(op, known, activations);
  return AOTI_TORCH_SUCCESS;
} catch (const std::exception&) {
  return AOTI_TORCH_FAILURE;
}

}  // namespace

#define PRODUCT(name, format, many)                                                                             \
  extern "C" AOTITorchError aoti_torch_cpu_##name(AtenTensorHandle x, AtenTensorHandle weight,                  \
                                                  AtenTensorHandle* scale, AtenTensorHandle* input_scale,       \
                                                  AtenTensorHandle* bias, AtenTensorHandle* chosen,             \
                                                  AtenTensorHandle* result) {                                   \
    return product({format, many}, x, weight, scale, input_scale, bias, chosen, result);                        \
  }

PRODUCT(floats, Format::kFloats, false)
PRODUCT(floats_many, Format::kFloatsMany, true)
PRODUCT(int8, Format::kInt8, false)
PRODUCT(int8_many, Format::kInt8Many, true)
PRODUCT(int8_int8, Format::kInt8Int8, false)
PRODUCT(int8_int8_many, Format::kInt8Int8, true)
PRODUCT(int4, Format::kInt4, false)
PRODUCT(int4_many, Format::kInt4Many, true)
PRODUCT(fp8, Format::kFp8, false)

#include "many.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <memory>
#include <stdexcept>

#include "floats.h"
#include "tokens.h"

namespace products {
namespace {

struct Delete {
  void operator()(AtenTensorHandle tensor) const { aoti_torch_delete_tensor_object(tensor); }
};
using Tensor = std::unique_ptr<AtenTensorOpaque, Delete>;

void check(AOTITorchError error) {
  if (error) throw std::runtime_error("torch refused a product of integers");
}

// Tensor [rows, columns] over memory that outlives it, with the given strides in elements.
Tensor view(const void* data, int32_t dtype, int64_t rows, int64_t columns, int64_t row, int64_t column) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row, column};
  AtenTensorHandle made;
  check(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes, strides, 0, dtype,
                                           aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

template <class Float>
void run(const Weight& w, const Activations& a) {
  const auto* const bias = static_cast<const typename Float::Stored*>(a.bias);
  auto* const y = static_cast<typename Float::Stored*>(a.y);
  const Tokens x = integers<Float, 1>(static_cast<const typename Float::Stored*>(a.x), a.tokens, w.in, w.input_scale);
  const Buffer<int32_t> sums(a.tokens * w.out);
  const int64_t padded = (w.in + kChunk - 1) / kChunk * kChunk;
  const Tensor left = view(x.values.data, aoti_torch_dtype_int8(), a.tokens, w.in, padded, 1);
  const Tensor right = view(w.data, aoti_torch_dtype_int8(), w.in, w.out, 1, w.in);
  const Tensor result = view(sums.data, aoti_torch_dtype_int32(), a.tokens, w.out, w.out, 1);
  check(aoti_torch_cpu__int_mm_out(result.get(), left.get(), right.get()));
#pragma omp parallel for
  for (int64_t token = 0; token < a.tokens; ++token)
    for (int64_t row = 0; row < w.out; ++row) {
      const int64_t at = token * w.out + row;
      float value = static_cast<float>(sums.data[at]) * x.worth[static_cast<size_t>(token)] * w.scales[row];
      if (bias) value = value + Float::load(bias[row]);
      y[at] = Float::store(value);
    }
}

}  // namespace

bool library_is_faster(int64_t tokens) {
#if defined(PRODUCTS_ALWAYS_IN_LIBRARY)  // for a test
  return tokens > 0;
#else
  constexpr int64_t kMany = 32;
  if (tokens < kMany) return false;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("amx-int8")) return true;
#endif
  return &best_dots() == &kPortable;
#endif
}

void run_in_library(const Weight& weight, const Activations& activations) {
  switch (activations.dtype) {
    case Dtype::kFloat32: return run<Float32>(weight, activations);
    case Dtype::kBfloat16: return run<Bfloat16>(weight, activations);
    case Dtype::kFloat16: return run<Float16>(weight, activations);
  }
}

}  // namespace products

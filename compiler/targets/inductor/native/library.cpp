#include "library.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <memory>
#include <stdexcept>
#include <vector>

#include "tokens.h"

namespace products {
namespace {

struct Delete {
  void operator()(AtenTensorHandle tensor) const { aoti_torch_delete_tensor_object(tensor); }
};
using Tensor = std::unique_ptr<AtenTensorOpaque, Delete>;

void check(AOTITorchError error) {
  if (error) throw std::runtime_error("torch refused a product");
}

// Tensor [rows, columns] over memory that outlives it, with the given strides in elements.
Tensor view(const void* data, int32_t dtype, int64_t rows, int64_t columns, int64_t row, int64_t column) {
  const int64_t sizes[] = {rows, columns}, strides[] = {row, column};
  AtenTensorHandle made;
  check(aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes, strides, 0, dtype,
                                           aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

int64_t bytes_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

}  // namespace

void run_int8_in_library(const Weight& w, const Activations& a) {
  const int64_t width = padded(w.in, 64), bytes = w.in * bytes_of(a.dtype);
  const Buffer<int8_t> x(a.tokens * width);
  const Buffer<int32_t> integers(a.tokens * w.out);
  std::vector<float> worth(static_cast<size_t>(a.tokens)), sums(static_cast<size_t>(a.tokens * w.out));
#pragma omp parallel for
  for (int64_t t = 0; t < a.tokens; ++t)
    worth[static_cast<size_t>(t)] =
        eight_bits({static_cast<const char*>(a.x) + t * bytes, a.dtype, w.in, w.input_scale}, x.data + t * width);
  const Tensor left = view(x.data, aoti_torch_dtype_int8(), a.tokens, w.in, width, 1);
  const Tensor right = view(w.data, aoti_torch_dtype_int8(), w.in, w.out, 1, w.in);
  const Tensor result = view(integers.data, aoti_torch_dtype_int32(), a.tokens, w.out, w.out, 1);
  check(aoti_torch_cpu__int_mm_out(result.get(), left.get(), right.get()));
  for (size_t i = 0; i < sums.size(); ++i) sums[i] = static_cast<float>(integers.data[i]);
  round_sums(a, w.out, sums.data(), worth.data(), w.scales);
}

void run_floats_in_library(const Weight& w, const Activations& a) {
  const Tensor left = view(a.x, aoti_torch_dtype_bfloat16(), a.tokens, w.in, w.in, 1);
  const Tensor right = view(w.data, aoti_torch_dtype_bfloat16(), w.in, w.out, 1, w.in);
  const Tensor result = view(a.y, aoti_torch_dtype_bfloat16(), a.tokens, w.out, w.out, 1);
  if (!a.bias) return check(aoti_torch_cpu_mm_out(result.get(), left.get(), right.get()));
  const Tensor bias = view(a.bias, aoti_torch_dtype_bfloat16(), a.tokens, w.out, 0, 1);
  check(aoti_torch_cpu_addmm_out(result.get(), bias.get(), left.get(), right.get(), 1, 1));
}

}  // namespace products

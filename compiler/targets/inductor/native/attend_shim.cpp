// C entry point of the operator in compiler/targets/inductor/attention.py, called by packages.
#include <exception>
#include <stdexcept>

#include "attend.h"
#include "handles.h"

namespace {

using namespace attention;

Stored stored_as(int32_t dtype) {
  if (dtype == aoti_torch_dtype_float32()) return Stored::kFloat32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Stored::kBfloat16;
  if (dtype == aoti_torch_dtype_float16()) return Stored::kFloat16;
  if (dtype == aoti_torch_dtype_int8()) return Stored::kInt8;
  if (dtype == aoti_torch_dtype_float8_e4m3fn()) return Stored::kFloat8;
  throw std::invalid_argument("a cache of another dtype");
}

Dtype dtype_of(int32_t dtype) {
  if (dtype == aoti_torch_dtype_float32()) return Dtype::kFloat32;
  if (dtype == aoti_torch_dtype_bfloat16()) return Dtype::kBfloat16;
  if (dtype == aoti_torch_dtype_float16()) return Dtype::kFloat16;
  throw std::invalid_argument("queries of another dtype");
}

}  // namespace

// All tensors are row-major; shapes as in `Cache` and `Queries`.
extern "C" AOTITorchError aoti_torch_cpu_attend(AtenTensorHandle q, AtenTensorHandle k, AtenTensorHandle v,
                                                AtenTensorHandle* k_scale, AtenTensorHandle* v_scale,
                                                AtenTensorHandle positions, AtenTensorHandle* slopes, int64_t window,
                                                double scale, double softcap, AtenTensorHandle* result) try {
  const auto of_q = handles::sizes(q), of_k = handles::sizes(k);
  const auto* places = static_cast<const int64_t*>(handles::data(positions));
  for (int64_t i = 0; i < of_q[0] * of_q[1]; ++i)
    if (places[i] < 0 || places[i] >= of_k[1]) throw std::out_of_range("a position behind the cache");
  if (of_q[0] > of_k[0] || of_q[3] != of_k[3] || of_q[2] % of_k[2]) throw std::invalid_argument("another cache");
  const AtenTensorHandle y = handles::empty(of_q, handles::dtype(q));
  *result = y;
  const Cache cache{stored_as(handles::dtype(k)), handles::data(k),        handles::data(v), handles::floats(k_scale),
                    handles::floats(v_scale),     of_k[1],                 of_k[2],          of_k[3]};
  attend(cache, {dtype_of(handles::dtype(q)), handles::data(q), places, handles::floats(slopes), window,
                 static_cast<float>(scale), static_cast<float>(softcap), of_q[0], of_q[1], of_q[2], handles::data(y)});
  return AOTI_TORCH_SUCCESS;
} catch (const std::exception&) {
  return AOTI_TORCH_FAILURE;
}

// Torch's tensor handles, which packages pass to C functions.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <stdexcept>
#include <vector>

namespace handles {

inline void check(AOTITorchError error) {
  if (error) throw std::runtime_error("torch refused a tensor");
}

inline void* data(AtenTensorHandle tensor) {
  void* found;
  check(aoti_torch_get_data_ptr(tensor, &found));
  return found;
}

inline const float* floats(AtenTensorHandle* tensor) {  // null for no tensor
  return tensor ? static_cast<const float*>(data(*tensor)) : nullptr;
}

inline std::vector<int64_t> sizes(AtenTensorHandle tensor) {
  int64_t count, *found;
  check(aoti_torch_get_dim(tensor, &count));
  check(aoti_torch_get_sizes(tensor, &found));
  return {found, found + count};
}

inline int32_t dtype(AtenTensorHandle tensor) {
  int32_t found;
  check(aoti_torch_get_dtype(tensor, &found));
  return found;
}

// New row-major tensor, owned by the caller.
inline AtenTensorHandle empty(const std::vector<int64_t>& sizes, int32_t dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * sizes[i];
  AtenTensorHandle made;
  check(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype,
                                 aoti_torch_device_type_cpu(), 0, &made));
  return made;
}

}  // namespace handles

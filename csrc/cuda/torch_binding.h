// What the CUDA operators need of torch beyond plan.h: the device, its stream, and the type of the features.
#pragma once

#ifndef USE_CUDA
#define USE_CUDA  // or shim.h keeps the current stream to itself
#endif
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <limits>

#include "../plan.h"
#include "operands.cuh"

namespace intarsia {

// Makes the tensor's device the current one, and looks up the stream in use there.
class CurrentStream {
 public:
  explicit CurrentStream(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                    "the current CUDA stream is not to be had");
    stream_ = static_cast<cudaStream_t>(stream);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline Tensor new_floats(const Tensor& like, std::initializer_list<int64_t> size) {
  return torch::stable::new_empty(like, size, ScalarType::Float);
}

// Calls work(a number of the tensor's type).
template <typename Work>
void with_type(const Tensor& tensor, const char* name, const Work& work) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return work(float());
    case ScalarType::BFloat16:
      return work(Bfloat16());
    case ScalarType::Half:
      return work(Half());
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16 on CUDA");
  }
}

inline int checked_int(int64_t value, const char* what) {
  STD_TORCH_CHECK(value <= std::numeric_limits<int32_t>::max(), what, " are too many: ", value);
  return static_cast<int>(value);
}

}  // namespace intarsia

// The types of numbers that the CPU serves.
#pragma once

#include "../plan.h"
#include "rows.h"

namespace intarsia {
namespace {

// Calls work with two numbers: of the type in which the tensor lies, and of that in which it is summed.
template <typename Work>
void dispatch(const Tensor& tensor, const char* name, const Work& work) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return work(float(), float());
    case ScalarType::Double:
      return work(double(), double());
    case ScalarType::BFloat16:
      return work(Bfloat16(), float());
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float64 or bfloat16 on the CPU");
  }
}

}  // namespace
}  // namespace intarsia

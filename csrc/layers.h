// The operators that stand between the encoder's convolutions: the checks that they make before they touch memory.
#pragma once

#include <algorithm>

#include "plan.h"

namespace intarsia {

inline void check_channels_last(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " has ", tensor.dim(), " dimensions; [N, C, H, W] is needed");
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  const int64_t strides[4] = {height * width * channels, 1, width * channels, channels};
  for (int64_t dim = 0; dim < 4; ++dim)
    STD_TORCH_CHECK(tensor.size(dim) == 1 || tensor.numel() == 0 || tensor.stride(dim) == strides[dim], name,
                    " is not channels_last");
}

inline void check_like(const Tensor& tensor, const char* name, const Tensor& features,
                       std::initializer_list<int64_t> shape) {
  check_channels_last(tensor, name);
  STD_TORCH_CHECK(tensor.device() == features.device(), name, " is on another device than the features");
  STD_TORCH_CHECK(tensor.scalar_type() == features.scalar_type(), name, " has another type than the features");
  check_shape(tensor, name, shape);
}

// An uninitialised map, channels_last.
inline Tensor empty_map(const Tensor& like, int64_t channels, int64_t height, int64_t width) {
  const int64_t sizes[] = {like.size(0), height, width, channels};
  const Tensor rows = torch::stable::new_empty(like, sizes);
  return torch::stable::transpose(torch::stable::transpose(rows, 2, 3), 1, 2);
}

// A map as a convolution takes it, without its margin.
struct InnerSize {
  int64_t height, width;

  // Of a map that is pooled or not; some pixel must be left.
  InnerSize(const Tensor& map, const char* name, bool pooled)
      : height(pooled ? map.size(2) / 2 : map.size(2)), width(pooled ? map.size(3) / 2 : map.size(3)) {
    STD_TORCH_CHECK(height > 0 && width > 0, name, " of ", map.size(2), "x", map.size(3), " leaves no pixel");
  }
};

inline InnerSize check_convolution_input(const Tensor& features, bool pool) {
  check_channels_last(features, "features");
  return {features, "features", pool};
}

inline void check_relu_backward(const Tensor& output, const Tensor& gradient, bool pooled, bool padded,
                                const std::optional<Tensor>& added) {
  check_channels_last(output, "output");
  const InnerSize inner(output, "output", pooled);
  const int64_t batch = output.size(0), channels = output.size(1), margins = padded ? 2 : 0;
  check_like(gradient, "gradient", output, {batch, channels, inner.height + margins, inner.width + margins});
  if (added) check_like(*added, "added", output, {batch, channels, output.size(2), output.size(3)});
}

inline void check_feature_loss(const Tensor& features, const Tensor& target, const std::optional<Tensor>& weight) {
  check_channels_last(features, "features");
  const int64_t height = features.size(2), width = features.size(3);
  check_like(target, "target", features, {features.size(0), features.size(1), height, width});
  if (!weight) return;
  check_tensor(*weight, "weight", features, accumulator(features), 2);
  check_shape(*weight, "weight", {height, width});
}

// What the sum over a map is multiplied by to be factor times its mean.
inline double mean_share(const Tensor& features, double factor) {
  return factor / static_cast<double>(std::max<int64_t>(1, features.numel()));
}

}  // namespace intarsia

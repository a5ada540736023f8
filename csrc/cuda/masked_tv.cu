// Masked total variation on CUDA: checks, outputs and workspace; the kernels are in masked_tv.cuh.
#include <tuple>

#include "masked_tv.cuh"
#include "torch_binding.h"

namespace intarsia {
namespace {

std::tuple<Tensor, Tensor> masked_tv(const Tensor& image, const std::optional<Tensor>& weight, bool product) {
  STD_TORCH_CHECK(image.dim() == 4, "image has ", image.dim(), " dimensions; [N, C, H, W] is needed");
  if (weight) {
    check_tensor(*weight, "weight", image, ScalarType::Float, 2);
    check_shape(*weight, "weight", {image.size(2), image.size(3)});
  }
  const CurrentStream stream(image);
  const Tensor input = readable(image);
  const Tensor gradient = torch::stable::empty_like(input);
  if (input.numel() == 0) return {torch::stable::new_zeros(input, {}, ScalarType::Float), gradient};

  const Tensor loss = new_floats(input, {});
  const bool channels_last = is_channels_last(input);
  const int64_t batch = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  with_type(input, "image", [&](auto type) {
    using T = decltype(type);
    const TvImage<T> rows{data<const T>(input),
                          channels_last ? batch : batch * channels,
                          checked_int(height, "rows of the image"),
                          checked_int(channels_last ? width * channels : width, "columns of the image"),
                          channels_last ? static_cast<int>(channels) : 1,
                          data<const float>(weight)};
    const int64_t blocks = tv_workspace(rows);
    checked_int(blocks, "blocks of the image");
    const Tensor workspace = new_floats(input, {blocks});
    launch_masked_tv<T>(rows, product, data<float>(workspace), data<float>(loss), data<T>(gradient), stream);
  });
  return {loss, gradient};
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CUDA, m) { m.impl("masked_tv", TORCH_BOX(&intarsia::masked_tv)); }

// What stands between the encoder's convolutions on CUDA: checks, outputs and workspace; the kernels are in layers.cuh.
#include <tuple>

#include "layers.cuh"
#include "torch_binding.h"
// After the above, which says what it wants of torch's headers.
#include "../layers.h"

namespace intarsia {
namespace {

// Of a tensor that is channels_last and not empty; the kernels' counts must fit into their integers.
template <typename T>
LayerMap<T> layer_map(const Tensor& tensor, const char* name) {
  const int64_t batch = tensor.size(0), height = tensor.size(2), width = tensor.size(3), channels = tensor.size(1);
  checked_int(width * channels + kLayerRun, name);
  const LayerMap<T> map{data<T>(tensor), batch, checked_int(height, name), static_cast<int>(width),
                        static_cast<int>(channels)};
  checked_int(layer_blocks(map, 1), name);
  return map;
}

Tensor convolution_input(const Tensor& features, bool pool, bool pad) {
  const InnerSize size = check_convolution_input(features, pool);
  const CurrentStream stream(features);
  const int64_t margins = pad ? 2 : 0;
  const Tensor result = empty_map(features, features.size(1), size.height + margins, size.width + margins);
  with_type(features, "features", [&](auto type) {
    using T = decltype(type);
    if (result.numel() == 0) return;
    launch_convolution_input<T>(layer_map<const T>(features, "numbers in the features"), pool, pad,
                                layer_map<T>(result, "numbers in the result"), stream);
  });
  return result;
}

Tensor relu_backward(const Tensor& output, const Tensor& gradient, bool pooled, bool padded,
                     const std::optional<Tensor>& added) {
  check_relu_backward(output, gradient, pooled, padded, added);
  const CurrentStream stream(output);
  const Tensor result = empty_map(output, output.size(1), output.size(2), output.size(3));
  with_type(output, "output", [&](auto type) {
    using T = decltype(type);
    if (result.numel() == 0) return;
    launch_relu_backward<T>(layer_map<const T>(output, "numbers in the output"),
                            layer_map<const T>(gradient, "numbers in the gradient"), data<const T>(added), pooled,
                            padded, data<T>(result), stream);
  });
  return result;
}

std::tuple<Tensor, Tensor> feature_loss(const Tensor& features, const Tensor& target,
                                        const std::optional<Tensor>& weight, double factor) {
  check_feature_loss(features, target, weight);
  const CurrentStream stream(features);
  const Tensor gradient = empty_map(features, features.size(1), features.size(2), features.size(3));
  // Zero: of an empty map nothing is launched.
  const Tensor loss = torch::stable::new_zeros(features, {}, ScalarType::Float);
  with_type(features, "features", [&](auto type) {
    using T = decltype(type);
    if (features.numel() == 0) return;
    const LayerMap<const T> map = layer_map<const T>(features, "numbers in the features");
    const Tensor workspace = new_floats(features, {layer_blocks(map, 1)});
    launch_feature_loss<T>(map, data<const T>(target), data<const float>(weight),
                           static_cast<float>(mean_share(features, factor)), data<float>(workspace), data<float>(loss),
                           data<T>(gradient), stream);
  });
  return {loss, gradient};
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CUDA, m) {
  m.impl("convolution_input", TORCH_BOX(&intarsia::convolution_input));
  m.impl("relu_backward", TORCH_BOX(&intarsia::relu_backward));
  m.impl("feature_loss", TORCH_BOX(&intarsia::feature_loss));
}

// Masked Gram matrices on CUDA: checks, outputs and workspace; the kernels are in the .cuh files.
#include <tuple>

#include "masked_gram.cuh"
#include "masked_gram_backward.cuh"
#include "torch_binding.h"

namespace intarsia {
namespace {

constexpr int64_t kMaxGrid = 65535;  // of the grid's second and third dimension

template <typename T>
FeatureMap<T> feature_map(const Tensor& features) {
  return {data<const T>(features), static_cast<int>(features.size(0)), static_cast<int>(features.size(1)),
          features.size(2) * features.size(3), is_channels_last(features) ? Layout::kChannelsLast : Layout::kNchw};
}

// Checks what all operators share. mass is null in the backward pass.
Plan checked_plan(const Tensor& features, const Tensor& indices, const std::optional<Tensor>& weights,
                  const Tensor& tile_segments, const Tensor& group_tiles, const Tensor* mass) {
  const MaskPlan plan = check_plan(features, indices, weights, tile_segments, group_tiles);
  if (mass != nullptr) {
    check_tensor(*mass, "mass", features, ScalarType::Float, 1);
    check_shape(*mass, "mass", {plan.segments()});
  }
  const int64_t blocks = ceil_div<int64_t>(features.size(1), 128);
  STD_TORCH_CHECK(features.size(0) <= kMaxGrid, "features hold more than ", kMaxGrid, " images");
  STD_TORCH_CHECK(blocks * (blocks + 1) / 2 <= kMaxGrid, "features have too many channels: ", features.size(1));
  checked_int(features.size(2) * features.size(3), "the features' pixels");
  return {data<const int32_t>(indices),
          data<const float>(weights),
          data<const int32_t>(tile_segments),
          data<const int32_t>(group_tiles),
          mass == nullptr ? nullptr : data<const float>(*mass),
          checked_int(plan.tiles(), "tiles"),
          checked_int(plan.passes(), "passes"),
          static_cast<int>(plan.segments())};
}

Tensor new_workspace(const Tensor& features, const Plan& plan) {
  return new_floats(features,
                    {gram_workspace(static_cast<int>(features.size(0)), static_cast<int>(features.size(1)), plan)});
}

std::tuple<Tensor, Tensor> masked_gram(const Tensor& features, const Tensor& indices,
                                       const std::optional<Tensor>& weights, const Tensor& tile_segments,
                                       const Tensor& group_tiles, const Tensor& mass, bool exact) {
  const Plan plan = checked_plan(features, indices, weights, tile_segments, group_tiles, &mass);
  const CurrentStream stream(features);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1);
  const Tensor gram = new_floats(input, {batch, plan.segments, channels, channels});
  const Tensor mean = new_floats(input, {batch, plan.segments, channels});
  const Tensor workspace = new_workspace(input, plan);
  with_type(input, "features", [&](auto type) {
    using T = decltype(type);
    launch_masked_gram<T>(feature_map<T>(input), plan, exact, data<float>(workspace), data<float>(gram),
                          data<float>(mean), stream);
  });
  return {gram, mean};
}

std::tuple<Tensor, Tensor> masked_gram_loss(const Tensor& features, const Tensor& indices,
                                            const std::optional<Tensor>& weights, const Tensor& tile_segments,
                                            const Tensor& group_tiles, const Tensor& mass, const Tensor& targets,
                                            const Tensor& factors, bool exact) {
  const Plan plan = checked_plan(features, indices, weights, tile_segments, group_tiles, &mass);
  const CurrentStream stream(features);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1);
  check_tensor(targets, "targets", input, ScalarType::Float, 3);
  check_shape(targets, "targets", {plan.segments, channels, channels});
  check_tensor(factors, "factors", input, ScalarType::Float, 1);
  check_shape(factors, "factors", {plan.segments});
  // Zeros: without channels nothing is launched.
  const Tensor losses = torch::stable::new_zeros(input, {batch, plan.segments}, ScalarType::Float);
  const Tensor difference = new_floats(input, {batch, plan.segments, channels, channels});
  const Tensor workspace = new_workspace(input, plan);
  with_type(input, "features", [&](auto type) {
    using T = decltype(type);
    launch_masked_gram_loss<T>(feature_map<T>(input), plan, data<const float>(targets), data<const float>(factors),
                               exact, data<float>(workspace), data<float>(losses), data<float>(difference), stream);
  });
  return {losses, difference};
}

Tensor masked_gram_backward(const Tensor& features, const Tensor& indices, const std::optional<Tensor>& weights,
                            const Tensor& tile_segments, const Tensor& group_tiles, const Tensor& matrices,
                            bool symmetric, const Tensor& scales, const std::optional<Tensor>& mean_gradient,
                            bool exact) {
  const Plan plan = checked_plan(features, indices, weights, tile_segments, group_tiles, nullptr);
  const CurrentStream stream(features);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1);
  check_tensor(matrices, "matrices", input, ScalarType::Float, 4);
  check_shape(matrices, "matrices", {batch, plan.segments, channels, channels});
  check_tensor(scales, "scales", input, ScalarType::Float, 2);
  check_shape(scales, "scales", {batch, plan.segments});
  if (mean_gradient) {
    check_tensor(*mean_gradient, "mean_gradient", input, ScalarType::Float, 3);
    check_shape(*mean_gradient, "mean_gradient", {batch, plan.segments, channels});
  }
  // matrices + their transposes, by the one sum that the stable ABI has.
  const Tensor sums =
      symmetric ? matrices : torch::stable::subtract(matrices, torch::stable::transpose(matrices, 2, 3), -1.0);
  const Tensor gradient = torch::stable::empty_like(input);
  const GramGradient given{data<const float>(sums), data<const float>(scales), data<const float>(mean_gradient)};
  with_type(input, "features", [&](auto type) {
    using T = decltype(type);
    launch_masked_gram_backward<T>(feature_map<T>(input), plan, given, exact, data<T>(gradient), stream);
  });
  return gradient;
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CUDA, m) {
  m.impl("masked_gram", TORCH_BOX(&intarsia::masked_gram));
  m.impl("masked_gram_loss", TORCH_BOX(&intarsia::masked_gram_loss));
  m.impl("masked_gram_backward", TORCH_BOX(&intarsia::masked_gram_backward));
}

#include "../cuda/layers.cuh"
#include "kernel_runs.h"

namespace intarsia {
namespace {

template <typename T>
LayerMap<T> layer_map(T* data, const LayerShape& shape) {
  return {data, shape.batch, shape.height, shape.width, shape.channels};
}

}  // namespace

void run_convolution_input(const float* features, const LayerShape& shape, bool pool, bool pad, const Options& options,
                           const LayerShape& out_shape, float* out) {
  with_type(options, [&]<typename T>() {
    const Guarded<T> device_features("features", features, shape.count(), options.offset);
    const Guarded<T> device_out("out", out_shape.count(), options.offset);
    launch_convolution_input<T>(layer_map<const T>(device_features.data(), shape), pool, pad,
                                layer_map<T>(device_out.data(), out_shape), nullptr);
    device_out.read(out);
  });
}

void run_relu_backward(const float* output, const LayerShape& shape, const float* gradient,
                       const LayerShape& gradient_shape, const float* added, bool pooled, bool padded,
                       const Options& options, float* out) {
  with_type(options, [&]<typename T>() {
    const Guarded<T> device_output("output", output, shape.count(), options.offset);
    const Guarded<T> device_gradient("gradient", gradient, gradient_shape.count(), options.offset);
    const Guarded<T> device_added("added", added, shape.count(), options.offset);
    const Guarded<T> device_out("out", shape.count(), options.offset);
    launch_relu_backward<T>(layer_map<const T>(device_output.data(), shape),
                            layer_map<const T>(device_gradient.data(), gradient_shape), device_added.data(), pooled,
                            padded, device_out.data(), nullptr);
    device_out.read(out);
  });
}

void run_feature_loss(const float* features, const float* target, const LayerShape& shape, const float* weight,
                      float share, const Options& options, float* loss, float* gradient) {
  with_type(options, [&]<typename T>() {
    const Guarded<T> device_features("features", features, shape.count(), options.offset);
    const Guarded<T> device_target("target", target, shape.count(), options.offset);
    const Guarded<float> device_weight("weight", weight, int64_t{shape.height} * shape.width);
    const LayerMap<const T> map = layer_map<const T>(device_features.data(), shape);
    const Guarded<float> workspace("workspace", layer_blocks(map, 1)), device_loss("loss", 1);
    const Guarded<T> device_gradient("gradient", shape.count(), options.offset);
    launch_feature_loss<T>(map, device_target.data(), device_weight.data(), share, workspace.data(), device_loss.data(),
                           device_gradient.data(), nullptr);
    device_loss.read(loss);
    device_gradient.read(gradient);
  });
}

}  // namespace intarsia

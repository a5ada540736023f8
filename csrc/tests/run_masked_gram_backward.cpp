#include "../cuda/masked_gram_backward.cuh"
#include "kernel_runs.h"

namespace intarsia {

void run_masked_gram_backward(const FeatureMap<float>& features, const Plan& plan, const GradientArrays& gradient,
                              const Options& options, float* out) {
  with_type(options, [&]<typename T>() {
    const GuardedPlan device_plan(plan);
    const GuardedFeatures<T> device_features(features, options.offset);
    const int64_t rows = int64_t{features.batch} * plan.segments * features.channels;
    const Guarded<float> matrices("matrices", gradient.matrices, rows * features.channels);
    const Guarded<float> scales("scales", gradient.scales, int64_t{features.batch} * plan.segments);
    const Guarded<float> mean_gradient("mean_gradient", gradient.mean_gradient, rows);
    const Guarded<T> device_out("out", features.batch * features.pixels * features.channels, options.offset);
    launch_masked_gram_backward(device_features.map, device_plan.plan,
                                GramGradient{matrices.data(), scales.data(), mean_gradient.data()}, options.exact,
                                device_out.data(), nullptr);
    device_out.read(out);
  });
}

}  // namespace intarsia

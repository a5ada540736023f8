#include "../cuda/masked_gram.cuh"
#include "kernel_runs.h"

namespace intarsia {

void run_masked_gram(const FeatureMap<float>& features, const Plan& plan, const Options& options, float* gram,
                     float* mean) {
  with_type(options, [&]<typename T>() {
    const GuardedPlan device_plan(plan);
    const GuardedFeatures<T> device_features(features, options.offset);
    const int64_t rows = int64_t{features.batch} * plan.segments * features.channels;
    const Guarded<float> workspace("workspace", gram_workspace(features.batch, features.channels, plan));
    const Guarded<float> device_gram("gram", rows * features.channels), device_mean("mean", rows);
    launch_masked_gram(device_features.map, device_plan.plan, options.exact, workspace.data(), device_gram.data(),
                       device_mean.data(), nullptr);
    device_gram.read(gram);
    device_mean.read(mean);
  });
}

void run_masked_gram_loss(const FeatureMap<float>& features, const Plan& plan, const float* targets,
                          const float* factors, const Options& options, float* losses, float* difference) {
  with_type(options, [&]<typename T>() {
    const GuardedPlan device_plan(plan);
    const GuardedFeatures<T> device_features(features, options.offset);
    const int64_t matrix = int64_t{features.channels} * features.channels;
    const Guarded<float> workspace("workspace", gram_workspace(features.batch, features.channels, plan));
    const Guarded<float> device_targets("targets", targets, plan.segments * matrix);
    const Guarded<float> device_factors("factors", factors, plan.segments);
    const Guarded<float> device_losses("losses", int64_t{features.batch} * plan.segments);
    const Guarded<float> device_difference("difference", features.batch * plan.segments * matrix);
    launch_masked_gram_loss(device_features.map, device_plan.plan, device_targets.data(), device_factors.data(),
                            options.exact, workspace.data(), device_losses.data(), device_difference.data(), nullptr);
    device_losses.read(losses);
    device_difference.read(difference);
  });
}

}  // namespace intarsia

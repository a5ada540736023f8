#include "../cuda/masked_tv.cuh"
#include "kernel_runs.h"

namespace intarsia {

void run_masked_tv(const FeatureMap<float>& image, int height, const float* weight, bool product,
                   const Options& options, float* loss, float* gradient) {
  with_type(options, [&]<typename T>() {
    const bool channels_last = image.layout == Layout::kChannelsLast;
    const auto width = static_cast<int>(image.pixels / height);
    const GuardedFeatures<T> device_image(image, options.offset);
    const Guarded<float> device_weight("weight", weight, image.pixels);
    const TvImage<T> rows{device_image.map.data,
                          channels_last ? image.batch : int64_t{image.batch} * image.channels,
                          height,
                          channels_last ? width * image.channels : width,
                          channels_last ? image.channels : 1,
                          device_weight.data()};
    const Guarded<float> workspace("workspace", tv_workspace(rows)), device_loss("loss", 1);
    const Guarded<T> device_gradient("gradient", image.batch * image.pixels * image.channels, options.offset);
    launch_masked_tv(rows, product, workspace.data(), device_loss.data(), device_gradient.data(), nullptr);
    device_loss.read(loss);
    device_gradient.read(gradient);
  });
}

}  // namespace intarsia

// The kernels on the emulator, from host arrays to host arrays. Each of the runs has a source file of its own, so that
// a test that changes one kernel need not compile the others.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../cuda/operands.cuh"

namespace intarsia {

struct Options {
  std::string type;  // that features are converted to: "f32", "bf16" or "f16"
  bool exact;
  size_t offset;  // bytes by which their start misses the alignment of an allocation
  uint64_t seed;  // of the order of threads and blocks
};

// Arrays lie as the operators have them, features as their layout says; all numbers come and go as float.
void run_masked_gram(const FeatureMap<float>& features, const Plan& plan, const Options& options, float* gram,
                     float* mean);
void run_masked_gram_loss(const FeatureMap<float>& features, const Plan& plan, const float* targets,
                          const float* factors, const Options& options, float* losses, float* difference);

struct GradientArrays {
  const float* matrices;
  const float* scales;
  const float* mean_gradient;  // or null
};
void run_masked_gram_backward(const FeatureMap<float>& features, const Plan& plan, const GradientArrays& gradient,
                              const Options& options, float* out);

void run_masked_tv(const FeatureMap<float>& image, int height, const float* weight, bool product,
                   const Options& options, float* loss, float* gradient);

// Of a map of channels_last.
struct LayerShape {
  int batch, height, width, channels;
  int64_t count() const { return int64_t{batch} * height * width * channels; }
};
void run_convolution_input(const float* features, const LayerShape& shape, bool pool, bool pad, const Options& options,
                           const LayerShape& out_shape, float* out);
// added may be null.
void run_relu_backward(const float* output, const LayerShape& shape, const float* gradient,
                       const LayerShape& gradient_shape, const float* added, bool pooled, bool padded,
                       const Options& options, float* out);
void run_feature_loss(const float* features, const float* target, const LayerShape& shape, const float* weight,
                      float share, const Options& options, float* loss, float* gradient);

// Global memory with the given numbers, or with none yet. Where there are to be none at all, data is null.
template <typename T>
class Guarded {
 public:
  Guarded(const char* name, int64_t count, size_t offset = 0)
      : count_(count), buffer_(std::in_place, name, static_cast<size_t>(count) * sizeof(T), offset) {}

  template <typename Number>
  Guarded(const char* name, const Number* numbers, int64_t count, size_t offset = 0) : count_(count) {
    if (numbers == nullptr) return;
    buffer_.emplace(name, static_cast<size_t>(count) * sizeof(T), offset);
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, Number>) {
        data()[i] = numbers[i];
      } else {
        data()[i] = from_float<T>(numbers[i]);
      }
    }
  }

  T* data() const { return buffer_ ? buffer_->template data<T>() : nullptr; }

  void read(float* numbers) const {
    for (int64_t i = 0; i < count_; ++i) numbers[i] = to_float(data()[i]);
  }

 private:
  int64_t count_;
  std::optional<emulator::GlobalBuffer> buffer_;
};

struct GuardedPlan {
  Guarded<int32_t> indices;
  Guarded<float> weights;
  Guarded<int32_t> tile_segments, group_tiles;
  Guarded<float> mass;
  Plan plan;

  explicit GuardedPlan(const Plan& host)
      : indices("indices", host.indices, int64_t{Plan::kTile} * host.tiles),
        weights("weights", host.weights, int64_t{Plan::kTile} * host.tiles),
        tile_segments("tile_segments", host.tile_segments, host.tiles),
        group_tiles("group_tiles", host.group_tiles, int64_t{host.passes} * (host.segments + 2)),
        mass("mass", host.mass, host.segments),
        plan{indices.data(), weights.data(), tile_segments.data(), group_tiles.data(),
             mass.data(),    host.tiles,     host.passes,          host.segments} {}
};

template <typename T>
struct GuardedFeatures {
  Guarded<T> numbers;
  FeatureMap<T> map;

  GuardedFeatures(const FeatureMap<float>& host, size_t offset)
      : numbers("features", host.data, host.batch * host.pixels * host.channels, offset),
        map{numbers.data(), host.batch, host.channels, host.pixels, host.layout} {}
};

// Calls run.operator()<T>() for the type named. INTARSIA_ONLY_TYPE leaves just one to be compiled.
template <typename Run>
void with_type(const Options& options, const Run& run) {
  emulator::device.seed = options.seed;
#ifdef INTARSIA_ONLY_TYPE
  run.template operator()<INTARSIA_ONLY_TYPE>();
#else
  if (options.type == "f32") {
    run.template operator()<float>();
  } else if (options.type == "bf16") {
    run.template operator()<Bfloat16>();
  } else if (options.type == "f16") {
    run.template operator()<Half>();
  } else {
    throw std::invalid_argument("no type " + options.type);
  }
#endif
}

}  // namespace intarsia

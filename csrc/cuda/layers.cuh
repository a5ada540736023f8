// What stands between the encoder's convolutions: pooling and padding on the way in, the gradient's way back through
// both and through the ReLU, and distances between feature maps. Each is one pass over memory.
//
// A thread works on vectors of channels of one pixel each, a block on a run of them in one row. A gradient is gathered
// by the pixel that it belongs to, so that no two threads write to one place. The loss is added up as that of masked_tv
// is: each block's share, and then the blocks, in a fixed order.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "elementwise.cuh"

namespace intarsia {

// Maps [N, H, W] of pixels of C channels each, as they lie in memory.
template <typename T>
struct LayerMap {
  T* data;
  int64_t batch;
  int height, width, channels;

  __host__ __device__ int64_t offset(int64_t n, int y, int x, int channel) const {
    return ((n * height + y) * width + x) * channels + channel;
  }
};

constexpr int kLayerVectors = 4;  // of a thread
constexpr int kLayerRun = kThreads * kLayerVectors;

// Blocks that a kernel needs to visit each vector of a map once. A row must hold less than 2^31 - kLayerRun numbers.
template <typename T>
int64_t layer_blocks(const LayerMap<T>& map, int vector) {
  return map.batch * map.height * ceil_div(map.width * (map.channels / vector), kLayerRun);
}

// Calls work(n, y, x, channel) for each of this thread's vectors.
template <int kVector, typename T, typename Work>
__device__ void for_vectors(const LayerMap<T>& map, const Work& work) {
  const int vectors = map.channels / kVector, count = map.width * vectors;  // of a pixel, of a row
  const int runs = ceil_div(count, kLayerRun);
  const int line = block_index().x / runs;
  const int first = block_index().x % runs * kLayerRun + thread_index().x;
  const int n = line / map.height, y = line % map.height;
#pragma unroll 1  // a body is long enough; four would run out of registers
  for (int i = 0; i < kLayerVectors; ++i) {
    const int number = first + i * kThreads;
    if (number < count) work(n, y, number / vectors, number % vectors * kVector);
  }
}

template <int kVector, typename T>
__device__ Vector<T, kVector> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, kVector>*>(from);
}

template <int kVector, typename T>
__device__ void store_vector(T* to, const Vector<T, kVector>& vector) {
  *reinterpret_cast<Vector<T, kVector>*>(to) = vector;
}

// sums += the vector
template <int kVector, typename T>
__device__ void add_vector(const T* from, float (&sums)[kVector]) {
  const Vector<T, kVector> vector = load_vector<kVector>(from);
#pragma unroll
  for (int j = 0; j < kVector; ++j) sums[j] += to_float(vector.values[j]);
}

// out: features, pooled or not, with a margin of 0 or 1 replicated pixels.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    convolution_input_kernel(LayerMap<const T> features, bool pool, int margin, LayerMap<T> out) {
  for_vectors<kVector>(out, [&](int n, int y, int x, int channel) {
    const int from_y = larger(0, smaller(y - margin, out.height - 2 * margin - 1));
    const int from_x = larger(0, smaller(x - margin, out.width - 2 * margin - 1));
    T* const to = out.data + out.offset(n, y, x, channel);
    if (!pool) {
      store_vector(to, load_vector<kVector>(features.data + features.offset(n, from_y, from_x, channel)));
      return;
    }
    float sums[kVector] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      add_vector<kVector>(features.data + features.offset(n, 2 * from_y + i / 2, 2 * from_x + i % 2, channel), sums);
    Vector<T, kVector> means;
#pragma unroll
    for (int j = 0; j < kVector; ++j) means.values[j] = from_float<T>(0.25f * sums[j]);
    store_vector(to, means);
  });
}

// Rows, or columns, of a padded gradient that flow to pixel `at` of `size`: its own, and at the edges the margin's,
// which replicate it.
struct Sources {
  int first, count;

  __device__ Sources(int at, int size, int margin)
      : first(at == 0 ? 0 : at + margin), count(1 + (at == 0 ? margin : 0) + (at == size - 1 ? margin : 0)) {}
};

// out: of the output's size. gradient: by the output pooled or not, with a margin of 0 or 1. added: as the output lies,
// or null.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) relu_backward_kernel(LayerMap<const T> output, LayerMap<const T> gradient,
                                                                 const T* added, bool pooled, int margin, T* out) {
  const int height = gradient.height - 2 * margin, width = gradient.width - 2 * margin;
  const float share = pooled ? 0.25f : 1.0f;
  for_vectors<kVector>(output, [&](int n, int y, int x, int channel) {
    const int64_t at = output.offset(n, y, x, channel);
    const int from_y = pooled ? y / 2 : y, from_x = pooled ? x / 2 : x;
    float sums[kVector] = {};
    if (from_y < height && from_x < width) {  // pooling drops an odd last row and column
      const Sources rows(from_y, height, margin), columns(from_x, width, margin);
      const T* line = gradient.data + gradient.offset(n, rows.first, columns.first, channel);
#pragma unroll 1
      for (int i = 0; i < rows.count; ++i) {
#pragma unroll 1
        for (int j = 0; j < columns.count; ++j) add_vector<kVector>(line + j * gradient.channels, sums);
        line += static_cast<int64_t>(gradient.width) * gradient.channels;
      }
#pragma unroll
      for (int j = 0; j < kVector; ++j) sums[j] *= share;
    }
    if (added != nullptr) add_vector<kVector>(added + at, sums);
    const Vector<T, kVector> through = load_vector<kVector>(output.data + at);
    Vector<T, kVector> result;
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      result.values[j] = from_float<T>(to_float(through.values[j]) > 0.0f ? sums[j] : 0.0f);
    store_vector(out + at, result);
  });
}

// gradient = 2 share w (F - T); sums: of w (F - T)^2, one a block. weight: [H, W], or null: 1.
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    feature_loss_kernel(LayerMap<const T> features, const T* target, const float* weight, float share, T* gradient,
                        float* sums) {
  float sum = 0.0f;
  for_vectors<kVector>(features, [&](int n, int y, int x, int channel) {
    const int64_t at = features.offset(n, y, x, channel);
    const float own = weight == nullptr ? 1.0f : weight[static_cast<int64_t>(y) * features.width + x];
    const Vector<T, kVector> here = load_vector<kVector>(features.data + at), there = load_vector<kVector>(target + at);
    Vector<T, kVector> result;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float difference = to_float(here.values[j]) - to_float(there.values[j]);
      const float weighted = own * difference;
      sum += weighted * difference;
      result.values[j] = from_float<T>(2.0f * share * weighted);
    }
    store_vector(gradient + at, result);
  });
  sum = block_sum(sum, shared_memory<float>());
  if (thread_index().x == 0) sums[block_index().x] = sum;
}

// Calls work(numbers in a vector): 16 bytes where the channels and all pointers allow it, else one number.
template <typename T, typename Work>
void with_vector(int channels, std::initializer_list<const void*> pointers, const Work& work) {
  constexpr int kWide = 16 / sizeof(T);
  bool wide = true;
  for (const void* pointer : pointers) wide = wide && is_aligned(pointer, channels * static_cast<int64_t>(sizeof(T)));
  if (wide) {
    work(std::integral_constant<int, kWide>());
  } else {
    work(std::integral_constant<int, 1>());
  }
}

// Maps must not be empty here.
template <typename T>
void launch_convolution_input(const LayerMap<const T>& features, bool pool, bool pad, const LayerMap<T>& out,
                              cudaStream_t stream) {
  with_vector<T>(out.channels, {features.data, out.data}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const auto kernel = convolution_input_kernel<T, kVector>;
    INTARSIA_LAUNCH(kernel, dim3(static_cast<unsigned>(layer_blocks(out, kVector))), dim3(kThreads), 0, stream,
                    features, pool, pad ? 1 : 0, out);
  });
}

template <typename T>
void launch_relu_backward(const LayerMap<const T>& output, const LayerMap<const T>& gradient, const T* added,
                          bool pooled, bool padded, T* out, cudaStream_t stream) {
  with_vector<T>(output.channels, {output.data, gradient.data, added, out}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const auto kernel = relu_backward_kernel<T, kVector>;
    INTARSIA_LAUNCH(kernel, dim3(static_cast<unsigned>(layer_blocks(output, kVector))), dim3(kThreads), 0, stream,
                    output, gradient, added, pooled, padded ? 1 : 0, out);
  });
}

// loss: one float, share * sum w (F - T)^2. workspace: layer_blocks(features, 1) floats.
template <typename T>
void launch_feature_loss(const LayerMap<const T>& features, const T* target, const float* weight, float share,
                         float* workspace, float* loss, T* gradient, cudaStream_t stream) {
  with_vector<T>(features.channels, {features.data, target, gradient}, [&](auto vector) {
    constexpr int kVector = decltype(vector)::value;
    const auto blocks = static_cast<int>(layer_blocks(features, kVector));
    const auto kernel = feature_loss_kernel<T, kVector>;
    INTARSIA_LAUNCH(kernel, dim3(blocks), dim3(kThreads), kBlockSumBytes, stream, features, target, weight, share,
                    gradient, workspace);
    INTARSIA_LAUNCH(scaled_sum, dim3(1), dim3(kThreads), kBlockSumBytes, stream, workspace, blocks, share, loss);
  });
}

}  // namespace intarsia

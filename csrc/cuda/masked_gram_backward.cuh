// Gradient of the masked Gram matrices: out_p = sum over p's segments r of m_r(p) (scale_r M_r f_p + mean_gradient_r),
// for symmetric M_r.
//
// A block takes two tiles of 64 entries (one where the second is of another segment) and a block of channels of the
// result, and goes over all channels of the features in stages. Within a pass no pixel occurs twice, so that results
// can be stored without atomics; each later pass adds to what the ones before it stored.
//
// All types are multiplied as TF32: 16-bit features are exact in it, and M, whose values may leave the range of a half,
// keeps more of its digits than in bfloat16.
#pragma once

#include <type_traits>

#include "operands.cuh"

namespace intarsia {

// What the gradient is made of.
struct GramGradient {
  const float* matrices;       // M [N, R, C, C], symmetric
  const float* scales;         // [N, R]
  const float* mean_gradient;  // [N, R, C], or null
};

template <typename T, Layout kLayout, int kBlock>
struct BackwardTraits {
  // Features lie [pixel][channel], along the product's k, or [channel][pixel].
  static constexpr bool kAlongChannels = kLayout == Layout::kChannelsLast;
  static constexpr bool kThroughRegisters = !kAlongChannels && sizeof(T) == 2;  // too small for cp.async
  static constexpr int kPixels = 2 * Plan::kTile;
  static constexpr int kDepth = sizeof(T) == 4 ? 16 : 32;  // channels of a stage: 64 bytes of a pixel
  static constexpr int kStages = sizeof(T) == 4 ? 4 : 3;   // as many as fit into the 99 KiB of every device
  static constexpr int kVector = 16 / sizeof(T);
  // Padded so that what a warp reads at once lies in different banks.
  static constexpr int kFeatureStride = kAlongChannels ? kDepth + kVector : kPixels + 8;
  static constexpr int kFeatures = (kAlongChannels ? kPixels : kDepth) * kFeatureStride;
  static constexpr int kMatrixStride = kDepth + (sizeof(T) == 4 ? 4 : 8);
  static constexpr int kMatrix = kBlock * kMatrixStride;
  static constexpr int kStageBytes = kFeatures * sizeof(T) + kMatrix * sizeof(float);
  // The result takes the stages' place, as floats, in the order in which it is stored.
  static constexpr int kResultStride = kAlongChannels ? kBlock + 8 : kPixels + 4;
  static constexpr int kResultBytes = (kAlongChannels ? kPixels : kBlock) * kResultStride * sizeof(float);
  static constexpr int kSharedBytes = larger(kStages * kStageBytes, kResultBytes);

  // Blocks that share a multiprocessor, hiding each other's waits; the registers must suffice.
  static constexpr int kResidentBlocks = kBlock == 64 && sizeof(T) == 4 ? 3 : 2;

  // 8 warps of 32 pixels x half the channels, in 4 rows and 2 columns.
  static constexpr int kTilesM = 2;
  static constexpr int kTilesN = kBlock / 16;
};

// Brings stages of the features of a block's pixels and of M into shared memory.
template <typename T, Layout kLayout, int kBlock>
class BackwardLoader {
  using Traits = BackwardTraits<T, kLayout, kBlock>;
  // Along channels, a thread stays with one 16-byte chunk of channels and goes over pixels; along pixels, with one
  // pixel and goes over channels.
  static constexpr int kVector = Traits::kVector;
  static constexpr int kColumns = Traits::kAlongChannels ? Traits::kDepth / kVector : Traits::kPixels;
  static constexpr int kRows = kThreads / kColumns;
  static constexpr int kCopies = (Traits::kAlongChannels ? Traits::kPixels : Traits::kDepth) / kRows;
  static constexpr int kIndices = Traits::kAlongChannels ? kCopies : 1;
  static constexpr int kHeld = Traits::kThroughRegisters ? kCopies : 1;
  static constexpr int kMatrixColumns = Traits::kDepth / 4;
  static constexpr int kMatrixRows = kThreads / kMatrixColumns;

 public:
  // Of `tiles` tiles from `tile` on. matrix: the first row of the block in M_r, of which there are `rows`.
  __device__ BackwardLoader(const T* image, int channels, int64_t pixels, const Plan& plan, int tile, int tiles,
                            const float* matrix, int rows, bool wide, bool wide_matrix, char* shared)
      : image_(image),
        channels_(channels),
        pixels_(pixels),
        matrix_(matrix),
        rows_(rows),
        wide_(wide),
        wide_matrix_(wide_matrix),
        shared_(shared),
        column_(thread_index().x % kColumns),
        row_(thread_index().x / kColumns) {
#pragma unroll
    for (int i = 0; i < kIndices; ++i) {
      const int entry = Traits::kAlongChannels ? row_ + i * kRows : column_;
      index_[i] = entry < tiles * Plan::kTile ? plan.indices[static_cast<int64_t>(tile) * Plan::kTile + entry] : -1;
    }
  }

  // Starts the copies of the channels from k on into a stage.
  __device__ void issue(int stage, int k) {
    issued_ = k < channels_;
    if (!issued_) return;
    T* features = reinterpret_cast<T*>(shared_ + stage * Traits::kStageBytes);
    if constexpr (Traits::kAlongChannels) {
      copy_along_channels(features, k);
    } else {
      copy_along_pixels(features, k);
    }
    copy_matrix(reinterpret_cast<float*>(features + Traits::kFeatures), k);
  }

  // Writes down what came through registers, once there was something else to do meanwhile.
  __device__ void finish(int stage) {
    if constexpr (Traits::kThroughRegisters) {
      if (!issued_) return;
      T* to = reinterpret_cast<T*>(shared_ + stage * Traits::kStageBytes) + row_ * Traits::kFeatureStride + column_;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) to[i * kRows * Traits::kFeatureStride] = held_[i];
    }
  }

 private:
  __device__ void copy_along_channels(T* features, int k) {
    const int channel = k + column_ * kVector;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const T* from = image_ + static_cast<int64_t>(index_[i]) * channels_ + channel;
      T* to = features + (row_ + i * kRows) * Traits::kFeatureStride + column_ * kVector;
      if (wide_) {
        cp_async<16>(to, from, index_[i] >= 0 && channel < channels_);
        continue;
      }
#pragma unroll 1
      for (int j = 0; j < kVector; ++j) {
        const bool valid = index_[i] >= 0 && channel + j < channels_;
        if constexpr (sizeof(T) == 4) {
          cp_async<4>(to + j, from + j, valid);
        } else {
          to[j] = valid ? from[j] : from_float<T>(0.0f);
        }
      }
    }
  }

  __device__ void copy_along_pixels(T* features, int k) {
    const int channel = k + row_;
    const T* from = image_ + channel * pixels_ + index_[0];
    T* to = features + row_ * Traits::kFeatureStride + column_;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = index_[0] >= 0 && channel + i * kRows < channels_;
      if constexpr (Traits::kThroughRegisters) {
        held_[i] = valid ? *from : from_float<T>(0.0f);
      } else {
        cp_async<4>(to + i * kRows * Traits::kFeatureStride, from, valid);
      }
      from += kRows * pixels_;
    }
  }

  __device__ void copy_matrix(float* to, int k) {
    const int column = thread_index().x % kMatrixColumns * 4;
    const int first = thread_index().x / kMatrixColumns;
    const float* from = matrix_ + static_cast<int64_t>(first) * channels_ + k + column;
    to += first * Traits::kMatrixStride + column;
#pragma unroll
    for (int row = 0; row < kBlock; row += kMatrixRows) {
      const bool valid = first + row < rows_;
      if (wide_matrix_) {
        cp_async<16>(to + row * Traits::kMatrixStride, from, valid && k + column < channels_);
      } else {
#pragma unroll 1
        for (int j = 0; j < 4; ++j) {
          cp_async<4>(to + row * Traits::kMatrixStride + j, from + j, valid && k + column + j < channels_);
        }
      }
      from += static_cast<int64_t>(kMatrixRows) * channels_;
    }
  }

  const T* image_;
  const int channels_;
  const int64_t pixels_;
  const float* matrix_;
  const int rows_;
  const bool wide_, wide_matrix_;
  char* shared_;
  const int column_, row_;
  bool issued_ = false;
  int32_t index_[kIndices];
  T held_[kHeld];
};

// The result of a warp, pixels x channels in tiles of 16 x 8. kExact (float32 only): 3xTF32.
template <typename T, Layout kLayout, int kBlock, bool kExact>
class BackwardProduct {
  using Traits = BackwardTraits<T, kLayout, kBlock>;
  static constexpr int kTilesM = Traits::kTilesM;
  static constexpr int kTilesN = Traits::kTilesN;
  static constexpr int kFragmentDepth = 32 / sizeof(T);

 public:
  __device__ BackwardProduct() {
    const int warp = thread_index().x / 32;
    lane_ = thread_index().x % 32;
    row_ = warp % 4 * 16 * kTilesM;
    column_ = warp / 4 * 8 * kTilesN;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum_[m][n][i] = 0.0f;
  }

  __device__ void add(const T* features, const float* matrix) {
    // Two steps at once where the registers suffice that the blocks of a multiprocessor leave each other.
#pragma unroll(sizeof(T) == 4 && !Traits::kAlongChannels ? 2 : 1)
    for (int k = 0; k < Traits::kDepth; k += kFragmentDepth) {
      uint32_t raw[kTilesM][4];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        load_fragment<T, Traits::kAlongChannels, Traits::kFeatureStride, Operand::kLeft>(raw[m], features,
                                                                                         row_ + 16 * m, k, lane_);
      }
#pragma unroll
      for (int step = 0; step < kFragmentDepth / 8; ++step) add_step(raw, step, matrix, k + 8 * step);
    }
  }

  // Puts the result into shared memory, [pixel][channel] or [channel][pixel].
  __device__ void store(float* result) const {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) {
        const int pixel = row_ + 16 * m + lane_ / 4, channel = column_ + 8 * n + lane_ % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const float first = sum_[m][n][i], second = sum_[m][n][i + 1];
          if constexpr (Traits::kAlongChannels) {
            float* to = result + (pixel + 4 * i) * Traits::kResultStride + channel;
            *reinterpret_cast<float2*>(to) = make_float2(first, second);
          } else {
            float* to = result + channel * Traits::kResultStride + pixel + 4 * i;
            to[0] = first;
            to[Traits::kResultStride] = second;
          }
        }
      }
  }

 private:
  // One product of depth 8. The order of k is free as long as both operands have the same: 16-bit features come as
  // pairs k = 2t, 2t + 1, which serve as k = t and t + 4, and M is read as pairs too.
  __device__ void add_step(const uint32_t (&raw)[kTilesM][4], int step, const float* matrix, int k) {
    uint32_t left[kTilesM][4], left_low[kTilesM][4];
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(T) == 2) {
          left[m][i] = bit_cast<uint32_t>(unpack<T>(raw[m][2 * step + i % 2], i / 2));  // exact
        } else {
          round(bit_cast<float>(raw[m][i]), left[m][i], left_low[m][i]);
        }
      }
#pragma unroll
    for (int n = 0; n < kTilesN; n += 2) {
      uint32_t both[4];
      if constexpr (sizeof(T) == 2) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = column_ + 8 * (n + half) + lane_ / 4;
          const float2 pair =
              *reinterpret_cast<const float2*>(matrix + row * Traits::kMatrixStride + k + lane_ % 4 * 2);
          both[2 * half] = bit_cast<uint32_t>(pair.x);
          both[2 * half + 1] = bit_cast<uint32_t>(pair.y);
        }
      } else {
        load_fragment<float, true, Traits::kMatrixStride, Operand::kRight>(both, matrix, column_ + 8 * n, k, lane_);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t right[2], right_low[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) round(bit_cast<float>(both[2 * half + i]), right[i], right_low[i]);
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) {
          if constexpr (kExact) {
            mma_3xtf32(sum_[m][n + half], left[m], left_low[m], right, right_low);
          } else {
            mma_tf32(sum_[m][n + half], left[m], right);
          }
        }
      }
    }
  }

  static __device__ void round(float value, uint32_t& high, uint32_t& low) {
    if constexpr (kExact) {
      const Split split = split_tf32(value);
      high = split.high, low = split.low;
    } else {
      high = to_tf32(value);
    }
  }

  int lane_, row_, column_;
  float sum_[kTilesM][kTilesN][4];
};

// Weighs the result and stores it as the features lie, or adds it to what lies there.
template <typename T, Layout kLayout, int kBlock>
__device__ void store_gradient(const float* result, T* image, int channels, int64_t pixels, const Plan& plan, int tile,
                               int tiles, int first_channel, float scale, const float* mean_gradient, bool wide,
                               bool add) {
  using Traits = BackwardTraits<T, kLayout, kBlock>;
  const int entries = tiles * Plan::kTile;
  const int32_t* indices = plan.indices + static_cast<int64_t>(tile) * Plan::kTile;
  const float* weights = plan.weights == nullptr ? nullptr : plan.weights + static_cast<int64_t>(tile) * Plan::kTile;
  const auto value = [&](int entry, int channel, float old) {
    const float sum = result[Traits::kAlongChannels ? entry * Traits::kResultStride + channel
                                                    : channel * Traits::kResultStride + entry];
    const float mean = mean_gradient == nullptr ? 0.0f : mean_gradient[first_channel + channel];
    return from_float<T>(old + (weights == nullptr ? 1.0f : weights[entry]) * (scale * sum + mean));
  };
  const int count = smaller(kBlock, channels - first_channel);
  if constexpr (Traits::kAlongChannels) {
    struct alignas(16) Vector {
      T values[Traits::kVector];
    };
    const int channel = thread_index().x % (kBlock / Traits::kVector) * Traits::kVector;
    for (int entry = thread_index().x / (kBlock / Traits::kVector); entry < entries;
         entry += kThreads / (kBlock / Traits::kVector)) {
      if (indices[entry] < 0 || channel >= count) continue;
      T* to = image + static_cast<int64_t>(indices[entry]) * channels + first_channel + channel;
      if (wide) {
        Vector vector;
        if (add) vector = *reinterpret_cast<const Vector*>(to);
#pragma unroll
        for (int i = 0; i < Traits::kVector; ++i) {
          vector.values[i] = value(entry, channel + i, add ? to_float(vector.values[i]) : 0.0f);
        }
        *reinterpret_cast<Vector*>(to) = vector;
      } else {
        for (int i = 0; i < smaller(Traits::kVector, count - channel); ++i) {
          to[i] = value(entry, channel + i, add ? to_float(to[i]) : 0.0f);
        }
      }
    }
  } else {
    const int entry = thread_index().x % Traits::kPixels;
    if (entry >= entries || indices[entry] < 0) return;
    const int first = thread_index().x / Traits::kPixels;
    T* to = image + (first_channel + first) * pixels + indices[entry];
#pragma unroll 4
    for (int channel = first; channel < count; channel += kThreads / Traits::kPixels) {
      *to = value(entry, channel, add ? to_float(*to) : 0.0f);
      to += kThreads / Traits::kPixels * pixels;
    }
  }
}

// One pass. Grid: pairs of tiles x channel blocks x images. How many tiles the pass has is known on the device alone:
// there are blocks for all tiles of the plan, and those beyond the pass's end have nothing to do.
template <typename T, Layout kLayout, int kBlock, bool kExact>
__global__ void __launch_bounds__(kThreads, kExact ? 1 : BackwardTraits<T, kLayout, kBlock>::kResidentBlocks)
    gram_backward(const T* features, int channels, int64_t pixels, Plan plan, int pass, GramGradient gradient,
                  bool wide, bool wide_matrix, T* out) {
  using Traits = BackwardTraits<T, kLayout, kBlock>;
  char* shared = shared_memory<char>();
  const int pass_begin = plan.first_tile(pass, 0), pass_end = plan.pass_end(pass);
  const int first_channel = block_index().y * kBlock;
  const int64_t image = block_index().z;
  features += image * pixels * channels;
  out += image * pixels * channels;

  const int first = pass_begin + 2 * block_index().x, end = smaller(first + 2, pass_end);
  int tiles = 0;
  for (int tile = first; tile < end; tile += tiles) {
    const int segment = plan.tile_segments[tile];
    tiles = tile + 1 < end && plan.tile_segments[tile + 1] == segment ? 2 : 1;
    const bool none = segment == plan.segments;
    if (none && pass > 0) continue;  // pass 0 has written the zeros
    const int64_t place = image * plan.segments + segment;

    BackwardProduct<T, kLayout, kBlock, kExact> product;
    if (!none) {
      const float* matrix = gradient.matrices + (place * channels + first_channel) * channels;
      BackwardLoader<T, kLayout, kBlock> loader(features, channels, pixels, plan, tile, tiles, matrix,
                                                channels - first_channel, wide, wide_matrix, shared);
#pragma unroll 1
      for (int stage = 0; stage < Traits::kStages - 1; ++stage) {
        loader.issue(stage, stage * Traits::kDepth);
        loader.finish(stage);
        cp_async_commit();
      }
      int stage = 0;
#pragma unroll 1
      for (int k = 0; k < channels; k += Traits::kDepth) {
        cp_async_wait<Traits::kStages - 2>();
        barrier();  // this stage is there for all, and the one before is read by all and free
        const int free = (stage + Traits::kStages - 1) % Traits::kStages;
        loader.issue(free, k + (Traits::kStages - 1) * Traits::kDepth);
        const T* stage_features = reinterpret_cast<const T*>(shared + stage * Traits::kStageBytes);
        product.add(stage_features, reinterpret_cast<const float*>(stage_features + Traits::kFeatures));
        loader.finish(free);
        cp_async_commit();
        stage = (stage + 1) % Traits::kStages;
      }
    }
    barrier();  // all have read the last stage, whose place the result takes
    float* result = reinterpret_cast<float*>(shared);
    product.store(result);
    barrier();
    const float scale = none ? 0.0f : gradient.scales[place];
    const float* mean_gradient =
        none || gradient.mean_gradient == nullptr ? nullptr : gradient.mean_gradient + place * channels;
    store_gradient<T, kLayout, kBlock>(result, out, channels, pixels, plan, tile, tiles, first_channel, scale,
                                       mean_gradient, wide, pass > 0);
    barrier();  // all have stored; the next tile may overwrite the result
  }
}

template <typename T, Layout kLayout, int kBlock, bool kExact>
void launch_backward_pass(const FeatureMap<T>& features, const Plan& plan, int pass, const GramGradient& gradient,
                          T* out, cudaStream_t stream) {
  const auto kernel = gram_backward<T, kLayout, kBlock, kExact>;
  const int64_t row_bytes = features.channels * static_cast<int64_t>(sizeof(T));
  const bool wide = is_aligned(features.data, row_bytes) && is_aligned(out, row_bytes);
  const bool wide_matrix = is_aligned(gradient.matrices, features.channels * static_cast<int64_t>(sizeof(float)));
  const int blocks = ceil_div(features.channels, kBlock);
  const int pairs = ceil_div(plan.tiles, 2);
  INTARSIA_LAUNCH(kernel, dim3(pairs, blocks, features.batch), dim3(kThreads),
                  (BackwardTraits<T, kLayout, kBlock>::kSharedBytes), stream, features.data, features.channels,
                  features.pixels, plan, pass, gradient, wide, wide_matrix, out);
}

template <typename T, int kBlock, bool kExact>
auto choose_backward_layout(Layout layout) {
  return layout == Layout::kNchw ? launch_backward_pass<T, Layout::kNchw, kBlock, kExact>
                                 : launch_backward_pass<T, Layout::kChannelsLast, kBlock, kExact>;
}

// out: the gradient, of the features' type and layout; every element is written. `exact`: 3xTF32 for float32.
template <typename T>
void launch_masked_gram_backward(const FeatureMap<T>& features, const Plan& plan, const GramGradient& gradient,
                                 bool exact, T* out, cudaStream_t stream) {
  if (features.batch == 0 || features.channels == 0 || plan.tiles == 0) return;
  // Blocks of 128 channels read the least. Small layers are cut finer, to fill the device; so are 16 bits, whose
  // conversion takes the registers that blocks of 128 need.
  const int64_t large = ceil_div<int64_t>(plan.tiles, 2) * ceil_div(features.channels, 128) * features.batch;
  const auto choose = [&](auto exactly) {
    constexpr bool kExact = decltype(exactly)::value && sizeof(T) == 4;
    constexpr int kLarge = sizeof(T) == 4 ? 128 : 64;
    if (features.channels <= 64 || large < 96) return choose_backward_layout<T, 64, kExact>(features.layout);
    return choose_backward_layout<T, kLarge, kExact>(features.layout);
  };
  const auto launch = exact ? choose(std::true_type()) : choose(std::false_type());
  for (int pass = 0; pass < plan.passes; ++pass) launch(features, plan, pass, gradient, out, stream);
}

}  // namespace intarsia

// Total variation of an image, weighted by a map, and its gradient in the same pass over the image.
//
// A pixel's gradient needs its four neighbours; its share of the loss are the pairs with the neighbours to its right
// and below. Each block adds up its share, and a second kernel adds up the blocks, both in a fixed order.
#pragma once

#include <type_traits>

#include "elementwise.cuh"

namespace intarsia {

enum class TvWeight {
  kNone,
  kPair,     // sum b |grad x|^2, b of a pair being the mean of its two pixels' weights
  kProduct,  // TV of weight * image
};

// Rows of `columns` numbers: a plane of NCHW with neighbours 1 apart, or an image of channels_last, `step` = C apart.
template <typename T>
struct TvImage {
  const T* data;
  int64_t planes;
  int rows, columns, step;
  const float* weight;  // [rows, columns / step], or null
};

constexpr int kTvVector = 4;                     // numbers of a thread, side by side
constexpr int kTvRows = 4;                       // and below each other
constexpr int kTvBlockColumns = 32 * kTvVector;  // of a block: 8 warps below each other
constexpr int kTvBlockRows = kWarps * kTvRows;

template <typename T>
using TvVector = Vector<T, kTvVector>;

template <typename T>
__device__ void tv_load(const T* from, int left, bool wide, float (&to)[kTvVector]) {
  TvVector<T> vector;
  if (wide && left >= kTvVector) {
    vector = *reinterpret_cast<const TvVector<T>*>(from);
  } else {
    for (int j = 0; j < kTvVector; ++j) vector.values[j] = j < left ? from[j] : from_float<T>(0.0f);
  }
  for (int j = 0; j < kTvVector; ++j) to[j] = to_float(vector.values[j]);
}

// What a thread knows of the numbers of a row: x (weighted for the product), and their weights.
struct TvRow {
  float values[kTvVector], weights[kTvVector];
};

// kPlanar: step is 1, so that most neighbours along the row are at hand. wide: every row starts at a multiple of a
// vector's size, of the image and of the gradient; wide_weight: of the weight. Grid: planes x blocks of rows x columns.
template <typename T, TvWeight kWeight, bool kPlanar>
__global__ void __launch_bounds__(kThreads, 2)
    tv_gradient(TvImage<T> image, float scale, bool wide, bool wide_weight, T* gradient, float* sums) {
  const int column_blocks = ceil_div(image.columns, kTvBlockColumns);
  const int row_blocks = ceil_div(image.rows, kTvBlockRows);
  const int line = block_index().x / column_blocks;
  const int column = block_index().x % column_blocks * kTvBlockColumns + thread_index().x % 32 * kTvVector;
  const int first_row = line % row_blocks * kTvBlockRows + thread_index().x / 32 * kTvRows;
  const int64_t plane = static_cast<int64_t>(line / row_blocks) * image.rows * image.columns;
  const int left = image.columns - column;  // numbers from here to the row's end
  const int step = kPlanar ? 1 : image.step;

  const auto weight_at = [&](int row, int at) {
    return kWeight == TvWeight::kNone ? 1.0f
                                      : image.weight[static_cast<int64_t>(row) * (image.columns / step) + at / step];
  };
  // One number off the thread's own, with its weight.
  const auto number_at = [&](int row, int at, float& value, float& weight) {
    weight = weight_at(row, at);
    value = to_float(image.data[plane + static_cast<int64_t>(row) * image.columns + at]);
    if (kWeight == TvWeight::kProduct) value *= weight;
  };
  const auto load_row = [&](int row, TvRow& to) {
    if (row < 0 || row >= image.rows || left <= 0) return;
    tv_load(image.data + plane + static_cast<int64_t>(row) * image.columns + column, left, wide, to.values);
    if constexpr (kWeight != TvWeight::kNone) {
      if constexpr (kPlanar) {
        tv_load(image.weight + static_cast<int64_t>(row) * image.columns + column, left, wide_weight, to.weights);
      } else {
        for (int j = 0; j < kTvVector; ++j) to.weights[j] = j < left ? weight_at(row, column + j) : 0.0f;
      }
    }
    if constexpr (kWeight == TvWeight::kProduct) {
      for (int j = 0; j < kTvVector; ++j) to.values[j] *= to.weights[j];
    }
  };
  // Of a pair: its part of the gradient; `loss` grows by its part if it is this number's to count.
  float loss = 0.0f;
  const auto pair = [&](float value, float weight, float other, float other_weight, bool count) {
    const float difference = value - other;
    const float part = kWeight == TvWeight::kPair ? 0.5f * (weight + other_weight) * difference : difference;
    if (count) loss += part * difference;
    return part;
  };

  TvRow rows[kTvRows + 2];  // with those above and below
#pragma unroll
  for (int i = 0; i < kTvRows + 2; ++i) load_row(first_row + i - 1, rows[i]);

#pragma unroll
  for (int i = 0; i < kTvRows; ++i) {
    const int row = first_row + i;
    if (row >= image.rows || left <= 0) break;
    const TvRow &above = rows[i], &here = rows[i + 1], &below = rows[i + 2];
    TvVector<T> result;
#pragma unroll
    for (int j = 0; j < kTvVector; ++j) {
      if (j >= left) continue;
      const int at = column + j;
      const float value = here.values[j], weight = here.weights[j];
      float sum = 0.0f;
      if (row > 0) sum += pair(value, weight, above.values[j], above.weights[j], false);
      if (row + 1 < image.rows) sum += pair(value, weight, below.values[j], below.weights[j], true);
      float other, other_weight;
      if (at >= step) {
        if (kPlanar && j > 0) {
          other = here.values[j - 1], other_weight = here.weights[j - 1];
        } else {
          number_at(row, at - step, other, other_weight);
        }
        sum += pair(value, weight, other, other_weight, false);
      }
      if (at + step < image.columns) {
        if (kPlanar && j + 1 < kTvVector) {
          other = here.values[j + 1], other_weight = here.weights[j + 1];
        } else {
          number_at(row, at + step, other, other_weight);
        }
        sum += pair(value, weight, other, other_weight, true);
      }
      if (kWeight == TvWeight::kProduct) sum *= weight;
      result.values[j] = from_float<T>(2.0f * scale * sum);
    }
    T* to = gradient + plane + static_cast<int64_t>(row) * image.columns + column;
    if (wide && left >= kTvVector) {
      *reinterpret_cast<TvVector<T>*>(to) = result;
    } else {
      for (int j = 0; j < kTvVector && j < left; ++j) to[j] = result.values[j];
    }
  }

  const float sum = block_sum(loss, shared_memory<float>());
  if (thread_index().x == 0) sums[block_index().x] = sum;
}

// Blocks of the first kernel, and so floats of workspace.
template <typename T>
int64_t tv_workspace(const TvImage<T>& image) {
  return image.planes * ceil_div(image.rows, kTvBlockRows) * ceil_div(image.columns, kTvBlockColumns);
}

// loss: one float. gradient = d loss / d image, of the image's type and layout. The image must not be empty.
template <typename T>
void launch_masked_tv(const TvImage<T>& image, bool product, float* workspace, float* loss, T* gradient,
                      cudaStream_t stream) {
  const auto choose = [&](auto weight) {
    constexpr TvWeight kWeight = decltype(weight)::value;
    return image.step == 1 ? tv_gradient<T, kWeight, true> : tv_gradient<T, kWeight, false>;
  };
  const auto kernel = image.weight == nullptr ? choose(std::integral_constant<TvWeight, TvWeight::kNone>())
                      : product               ? choose(std::integral_constant<TvWeight, TvWeight::kProduct>())
                                              : choose(std::integral_constant<TvWeight, TvWeight::kPair>());
  const auto aligned = [&](const void* data, int64_t size) {
    return reinterpret_cast<uintptr_t>(data) % (kTvVector * size) == 0 && image.columns % kTvVector == 0;
  };
  const bool wide = aligned(image.data, sizeof(T)) && aligned(gradient, sizeof(T));
  const auto blocks = static_cast<int>(tv_workspace(image));
  const float scale = 1.0f / (static_cast<float>(image.planes) * image.rows * image.columns);
  INTARSIA_LAUNCH(kernel, dim3(blocks), dim3(kThreads), kBlockSumBytes, stream, image, scale, wide,
                  aligned(image.weight, sizeof(float)), gradient, workspace);
  INTARSIA_LAUNCH(scaled_sum, dim3(1), dim3(kThreads), kBlockSumBytes, stream, workspace, blocks, scale, loss);
}

}  // namespace intarsia

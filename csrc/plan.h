// The mask plan (server/intarsia_server/ops/plan.py) as the operators receive it, and the checks that every operator
// makes before it touches memory.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>

namespace intarsia {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
T* data(const std::optional<Tensor>& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

constexpr int64_t kTile = 64;
constexpr int64_t kMaxSegments = 256;

struct MaskPlan {
  Tensor indices;
  std::optional<Tensor> weights;
  Tensor tile_segments;
  Tensor group_tiles;

  int64_t tiles() const { return tile_segments.size(0); }
  int64_t passes() const { return group_tiles.size(0); }
  int64_t segments() const { return group_tiles.size(1) - 2; }
};

inline void check_tensor(const Tensor& tensor, const char* name, const Tensor& features, ScalarType type,
                         int64_t dims) {
  STD_TORCH_CHECK(tensor.device() == features.device(), name, " is on another device than the features");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " has the wrong type");
  STD_TORCH_CHECK(tensor.dim() == dims, name, " has ", tensor.dim(), " dimensions; ", dims, " are needed");
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " is not contiguous");
}

// The type of sums: float64 for float64, else float32.
inline ScalarType accumulator(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline MaskPlan check_plan(const Tensor& features, const Tensor& indices, const std::optional<Tensor>& weights,
                           const Tensor& tile_segments, const Tensor& group_tiles) {
  STD_TORCH_CHECK(features.dim() == 4, "features have ", features.dim(), " dimensions; [N, C, H, W] is needed");
  check_tensor(indices, "indices", features, ScalarType::Int, 1);
  check_tensor(tile_segments, "tile_segments", features, ScalarType::Int, 1);
  check_tensor(group_tiles, "group_tiles", features, ScalarType::Int, 2);
  STD_TORCH_CHECK(indices.size(0) == kTile * tile_segments.size(0), "indices hold ", indices.size(0), " entries, not ",
                  kTile, " for each of ", tile_segments.size(0), " tiles");
  STD_TORCH_CHECK(group_tiles.size(0) >= 1 && group_tiles.size(1) >= 3 && group_tiles.size(1) <= kMaxSegments + 2,
                  "group_tiles is [", group_tiles.size(0), ", ", group_tiles.size(1),
                  "]; [K, R + 2] is needed, R from 1 to ", kMaxSegments);
  if (weights) {
    check_tensor(*weights, "weights", features, accumulator(features), 1);
    STD_TORCH_CHECK(weights->size(0) == indices.size(0), "weights and indices differ in length");
  }
  return {indices, weights, tile_segments, group_tiles};
}

inline void check_shape(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
  int64_t dim = 0;
  for (const int64_t size : shape) {
    STD_TORCH_CHECK(tensor.size(dim) == size, name, " has size ", tensor.size(dim), " in dimension ", dim, ", not ",
                    size);
    ++dim;
  }
}

// Whether pixels lie as rows of channels. Where both readings fit (one channel, or one pixel), NCHW is taken.
inline bool is_channels_last(const Tensor& tensor) {
  if (tensor.is_contiguous()) return false;
  const int64_t channels = tensor.size(1), height = tensor.size(2), width = tensor.size(3);
  const int64_t strides[4] = {height * width * channels, 1, width * channels, channels};
  for (int64_t dim = 0; dim < 4; ++dim)
    if (tensor.size(dim) > 1 && tensor.stride(dim) != strides[dim]) return false;
  return true;
}

// NCHW and channels_last stay as they lie, anything else becomes NCHW.
inline Tensor readable(const Tensor& tensor) {
  return tensor.is_contiguous() || is_channels_last(tensor) ? tensor : torch::stable::contiguous(tensor);
}

}  // namespace intarsia

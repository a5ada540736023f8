// What stands between the encoder's convolutions on the CPU: pooling and padding on the way in, the gradient's way back
// through both and through the ReLU, and distances between feature maps. Each is one pass over memory.
#include "../layers.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "dispatch.h"
#include "rows.h"

namespace intarsia {
namespace {

// A feature map whose pixels lie as rows of channels.
template <typename T>
struct Map {
  T* values;
  int64_t height, width, channels;

  Map(const Tensor& tensor)
      : values(data<T>(tensor)), height(tensor.size(2)), width(tensor.size(3)), channels(tensor.size(1)) {}

  int64_t row_size() const { return width * channels; }
  T* row(int64_t n, int64_t y) const { return values + (n * height + y) * row_size(); }
};

// Calls work(n, y) for every row of a batch of pictures.
template <typename Work>
void for_rows(int64_t batch, int64_t rows, int64_t row_size, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, row_size));
  torch::stable::parallel_for(0, batch * rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) work(number / rows, number % rows);
  });
}

// out = means of 2 x 2 pixels
template <typename A, typename T>
INTARSIA_CLONES void pool_row(T* __restrict out, const T* __restrict top, const T* __restrict bottom, int64_t pixels,
                              int64_t channels) {
  for (int64_t x = 0; x < pixels; ++x) {
    const T* __restrict above = top + 2 * x * channels;
    const T* __restrict below = bottom + 2 * x * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const A sum = load(above[c]) + load(above[channels + c]) + load(below[c]) + load(below[channels + c]);
      out[x * channels + c] = store<T>(sum * A(0.25));
    }
  }
}

Tensor convolution_input(const Tensor& features, bool pool, bool pad) {
  const InnerSize size = check_convolution_input(features, pool);
  const int64_t channels = features.size(1), margin = pad ? 1 : 0;
  const Tensor result = empty_map(features, channels, size.height + 2 * margin, size.width + 2 * margin);
  dispatch(features, "features", [&](auto stored, auto sum) {
    using T = decltype(stored);
    using A = decltype(sum);
    const Map<const T> from(features);
    const Map<T> to(result);
    for_rows(features.size(0), to.height, to.row_size(), [&](int64_t n, int64_t row) {
      const int64_t y = std::clamp<int64_t>(row - margin, 0, size.height - 1);
      T* const begin = to.row(n, row);
      T* const inner = begin + margin * channels;
      if (pool) {
        pool_row<A>(inner, from.row(n, 2 * y), from.row(n, 2 * y + 1), size.width, channels);
      } else {
        copy_row(inner, from.row(n, y), size.width * channels);
      }
      if (!pad) return;
      copy_row(begin, inner, channels);
      copy_row(inner + size.width * channels, inner + (size.width - 1) * channels, channels);
    });
  });
  return result;
}

// sums += in
template <typename A, typename T>
INTARSIA_CLONES void accumulate_row(A* __restrict sums, const T* __restrict in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sums[i] += load(in[i]);
}

// The value, rounded, where the ReLU's output is positive. Without a branch: a loop that has one is not vectorised.
template <typename T, typename A>
inline T gated(T output, A value) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    const uint32_t mask = -static_cast<uint32_t>(static_cast<int16_t>(output.bits) > 0);
    return {static_cast<uint16_t>(store<T>(value).bits & mask)};
  } else {
    return output > 0 ? value : T(0);
  }
}

// out = gradient + added (null: 0) where the ReLU let its input through
template <typename A, typename T, typename S>
INTARSIA_CLONES void gate_row(T* __restrict out, const T* __restrict output, const S* __restrict gradient,
                              const T* __restrict added, int64_t count) {
  if (added == nullptr) {
    for (int64_t i = 0; i < count; ++i) out[i] = gated<T, A>(output[i], load(gradient[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = gated<T, A>(output[i], load(gradient[i]) + load(added[i]));
  }
}

// The same, each gradient for two pixels side by side, a quarter to each of the four that it was pooled from.
template <typename A, typename T>
INTARSIA_CLONES void gate_pooled_row(T* __restrict out, const T* __restrict output, const A* __restrict gradient,
                                     const T* __restrict added, int64_t pairs, int64_t channels) {
  for (int64_t x = 0; x < 2 * pairs; ++x) {
    const A* __restrict source = gradient + x / 2 * channels;
    const T* __restrict through = output + x * channels;
    T* __restrict to = out + x * channels;
    if (added == nullptr) {
      for (int64_t c = 0; c < channels; ++c) to[c] = gated<T, A>(through[c], source[c] * A(0.25));
    } else {
      const T* __restrict more = added + x * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] = gated<T, A>(through[c], source[c] * A(0.25) + load(more[c]));
    }
  }
}

// The gradient by a convolution's input, without the margin that replication gave it: what flowed to a margin's pixel
// flows on to the pixel that it replicates.
template <typename T, typename A>
struct Folded {
  Map<const T> map;
  int64_t margin, height, width;

  Folded(const Tensor& gradient, bool padded)
      : map(gradient), margin(padded ? 1 : 0), height(map.height - 2 * margin), width(map.width - 2 * margin) {}

  const T* inner(int64_t n, int64_t y) const { return map.row(n, y + margin) + margin * map.channels; }

  bool at_edge(int64_t y) const { return margin > 0 && (y == 0 || y == height - 1); }

  // Pixels x to x + count - 1 of row y.
  void sum(int64_t n, int64_t y, int64_t x, int64_t count, A* sums) const {
    std::fill_n(sums, count * map.channels, A(0));
    add(n, y + margin, x, count, sums);
    if (margin > 0 && y == 0) add(n, 0, x, count, sums);
    if (margin > 0 && y == height - 1) add(n, height + 1, x, count, sums);
  }

 private:
  void add(int64_t n, int64_t row, int64_t x, int64_t count, A* sums) const {
    const int64_t channels = map.channels;
    const T* values = map.row(n, row);
    accumulate_row(sums, values + (x + margin) * channels, count * channels);
    if (margin > 0 && x == 0) accumulate_row(sums, values, channels);
    if (margin > 0 && x + count == width)
      accumulate_row(sums + (count - 1) * channels, values + (width + 1) * channels, channels);
  }
};

template <typename T, typename A>
void relu_backward_row(const Map<T>& to, const Map<const T>& output, const Folded<T, A>& gradient, const T* added,
                       bool pooled, int64_t n, int64_t y, A* sums) {
  const int64_t channels = to.channels, size = to.row_size();
  T* out = to.row(n, y);
  const T* through = output.row(n, y);
  if (pooled) {
    const int64_t pairs = gradient.width;
    const bool beyond = y / 2 >= gradient.height;  // an odd last row, which pooling dropped
    if (beyond) {
      std::fill_n(sums, pairs * channels, A(0));
    } else {
      gradient.sum(n, y / 2, 0, pairs, sums);
    }
    gate_pooled_row(out, through, sums, added, pairs, channels);
    const int64_t done = 2 * pairs * channels;
    if (done < size) {
      std::fill_n(sums, size - done, A(0));
      gate_row<A>(out + done, through + done, sums, added == nullptr ? nullptr : added + done, size - done);
    }
  } else if (gradient.at_edge(y)) {
    gradient.sum(n, y, 0, to.width, sums);
    gate_row<A>(out, through, sums, added, size);
  } else {
    gate_row<A>(out, through, gradient.inner(n, y), added, size);
    if (gradient.margin == 0) return;
    for (const int64_t x : {int64_t(0), to.width - 1}) {
      const int64_t at = x * channels;
      gradient.sum(n, y, x, 1, sums);
      gate_row<A>(out + at, through + at, sums, added == nullptr ? nullptr : added + at, channels);
    }
  }
}

Tensor relu_backward(const Tensor& output, const Tensor& gradient, bool pooled, bool padded,
                     const std::optional<Tensor>& added) {
  check_relu_backward(output, gradient, pooled, padded, added);
  const int64_t batch = output.size(0), height = output.size(2);
  const Tensor result = empty_map(output, output.size(1), height, output.size(3));
  dispatch(output, "output", [&](auto stored, auto sum) {
    using T = decltype(stored);
    using A = decltype(sum);
    const Map<T> to(result);
    const Map<const T> through(output);
    const Folded<T, A> folded(gradient, padded);
    const int64_t size = to.row_size();
    const T* extra = data<const T>(added);
    for_rows(batch, height, size, [&](int64_t n, int64_t y) {
      thread_local std::vector<A> sums;
      sums.resize(size);
      const T* own = extra == nullptr ? nullptr : extra + (n * height + y) * size;
      relu_backward_row(to, through, folded, own, pooled, n, y, sums.data());
    });
  });
  return result;
}

// gradient = factor (features - target); the sum of the squared differences.
template <typename A, typename T>
INTARSIA_CLONES A distance_row(T* __restrict gradient, const T* __restrict features, const T* __restrict target,
                               A factor, int64_t count) {
  A lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) {
      const A difference = load(features[i + lane]) - load(target[i + lane]);
      gradient[i + lane] = store<T>(difference * factor);
      lanes[lane] += difference * difference;
    }
  }
  for (; i < count; ++i) {
    const A difference = load(features[i]) - load(target[i]);
    gradient[i] = store<T>(difference * factor);
    lanes[0] += difference * difference;
  }
  A sum = 0;
  for (const A lane : lanes) sum += lane;
  return sum;
}

std::tuple<Tensor, Tensor> feature_loss(const Tensor& features, const Tensor& target,
                                        const std::optional<Tensor>& weight, double factor) {
  check_feature_loss(features, target, weight);
  const int64_t batch = features.size(0), channels = features.size(1);
  const int64_t height = features.size(2), width = features.size(3);
  const Tensor loss = torch::stable::new_empty(features, {}, accumulator(features));
  const Tensor gradient = empty_map(features, channels, height, width);
  dispatch(features, "features", [&](auto stored, auto sum) {
    using T = decltype(stored);
    using A = decltype(sum);
    const Map<const T> from(features), to_match(target);
    const Map<T> to(gradient);
    const A* weights = data<const A>(weight);
    const double share = mean_share(features, factor);
    // One sum a row, added in order below: the bits do not depend on the number of threads.
    std::vector<double> sums(batch * height);
    for_rows(batch, height, from.row_size(), [&](int64_t n, int64_t y) {
      double& total = sums[n * height + y];
      T* out = to.row(n, y);
      const T* here = from.row(n, y);
      const T* there = to_match.row(n, y);
      if (weights == nullptr) {
        total = distance_row(out, here, there, A(2 * share), from.row_size());
        return;
      }
      total = 0;
      for (int64_t x = 0; x < width; ++x) {
        const A own = weights[y * width + x];
        const int64_t at = x * channels;
        total += own * distance_row(out + at, here + at, there + at, A(2 * share * own), channels);
      }
    });
    double total = 0;
    for (const double row : sums) total += row;
    *data<A>(loss) = static_cast<A>(total * share);
  });
  return {loss, gradient};
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CPU, m) {
  m.impl("convolution_input", TORCH_BOX(&intarsia::convolution_input));
  m.impl("relu_backward", TORCH_BOX(&intarsia::relu_backward));
  m.impl("feature_loss", TORCH_BOX(&intarsia::feature_loss));
}

// Total variation on the CPU: loss and gradient in one pass over the image, rows in parallel.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../plan.h"
#include "dispatch.h"
#include "rows.h"

namespace intarsia {
namespace {

// One row of one channel. A pair's weight is the mean of its pixels' weights, or, for the TV of weight * image, each
// value is weighted before the difference.
template <typename T, typename A>
struct Row {
  const T* above;  // null at the border
  const T* here;
  const T* below;
  const A* weight_above;  // null without a weight
  const A* weight_here;
  const A* weight_below;
  int64_t width, stride;
};

// Loss of the pairs (here, right) and (here, below); gradient at `here` from all four neighbours.
template <bool kWeighted, bool kProduct, typename T, typename A>
INTARSIA_CLONES A tv_row(const Row<T, A> row, T* __restrict gradient, A scale) {
  const T* __restrict here = row.here;
  const int64_t stride = row.stride, last = row.width - 1;
  // At a border the pixel itself stands for its missing neighbour: the difference is 0, but for rounding.
  const T* __restrict above = row.above != nullptr ? row.above : here;
  const T* __restrict below = row.below != nullptr ? row.below : here;
  const A* __restrict weight = row.weight_here;
  const A* __restrict weight_above = row.above != nullptr ? row.weight_above : weight;
  const A* __restrict weight_below = row.below != nullptr ? row.weight_below : weight;
  const auto value = [](const T* pixels, const A* weights, int64_t x, int64_t at) {
    const A plain = load(pixels[at]);
    return kProduct ? plain * weights[x] : plain;
  };
  const auto pair = [](A a, A b) { return (a + b) / 2; };
  const auto pixel = [&](int64_t x, int64_t left, int64_t right) {
    const int64_t at = x * stride;
    const A centre = value(here, weight, x, at);
    const A to_left = centre - value(here, weight, left, left * stride);
    const A to_right = value(here, weight, right, right * stride) - centre;
    const A to_above = centre - value(above, weight_above, x, at);
    const A to_below = value(below, weight_below, x, at) - centre;
    A weight_left = 1, weight_right = 1, weight_up = 1, weight_down = 1;
    if constexpr (kWeighted && !kProduct) {
      weight_left = pair(weight[left], weight[x]);
      weight_right = pair(weight[x], weight[right]);
      weight_up = pair(weight_above[x], weight[x]);
      weight_down = pair(weight[x], weight_below[x]);
    }
    A slope = to_left * weight_left - to_right * weight_right + to_above * weight_up - to_below * weight_down;
    if constexpr (kProduct) slope *= weight[x];
    gradient[at] = store<T>(2 * scale * slope);
    return to_right * to_right * weight_right + to_below * to_below * weight_down;
  };
  A sum = pixel(0, 0, std::min<int64_t>(1, last));
  A lanes[16] = {};
  int64_t x = 1;
  for (; x + 16 <= last; x += 16)
    for (int64_t lane = 0; lane < 16; ++lane) lanes[lane] += pixel(x + lane, x + lane - 1, x + lane + 1);
  for (; x < last; ++x) sum += pixel(x, x - 1, x + 1);
  if (last > 0) sum += pixel(last, last - 1, last);
  for (const A lane : lanes) sum += lane;
  return sum;
}

template <typename T, typename A>
void run(const Tensor& image, const Tensor* weight, bool product, A* loss, T* gradient) {
  const int64_t batch = image.size(0), channels = image.size(1), height = image.size(2), width = image.size(3);
  const bool channels_last = is_channels_last(image);
  const int64_t stride = channels_last ? channels : 1, line = width * stride;
  const T* pixels = static_cast<const T*>(image.data_ptr());
  const A* weights = weight == nullptr ? nullptr : static_cast<const A*>(weight->data_ptr());
  const int64_t size = batch * channels * height * width;
  const A scale = size > 0 ? A(1) / static_cast<A>(size) : A(0);
  // One sum a row, added in order below: the bits do not depend on the number of threads.
  std::vector<double> sums(width > 0 ? batch * channels * height : 0);
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
  torch::stable::parallel_for(0, static_cast<int64_t>(sums.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      // In the order in which rows lie.
      const int64_t n = number / (channels * height), rest = number % (channels * height);
      const int64_t c = channels_last ? rest % channels : rest / height;
      const int64_t y = channels_last ? rest / channels : rest % height;
      const int64_t offset = n * channels * height * width + (channels_last ? c : c * height * width) + y * line;
      const bool top = y == 0, bottom = y + 1 == height;
      const A* own = weights == nullptr ? nullptr : weights + y * width;
      const Row<T, A> row{top ? nullptr : pixels + offset - line,
                          pixels + offset,
                          bottom ? nullptr : pixels + offset + line,
                          weights == nullptr || top ? nullptr : own - width,
                          own,
                          weights == nullptr || bottom ? nullptr : own + width,
                          width,
                          stride};
      T* to = gradient + offset;
      sums[number] = weights == nullptr ? tv_row<false, false>(row, to, scale)
                     : product          ? tv_row<true, true>(row, to, scale)
                                        : tv_row<true, false>(row, to, scale);
    }
  });
  double sum = 0;
  for (const double value : sums) sum += value;
  *loss = static_cast<A>(sum * scale);
}

std::tuple<Tensor, Tensor> masked_tv(const Tensor& image, const std::optional<Tensor>& weight, bool product) {
  STD_TORCH_CHECK(image.dim() == 4, "image has ", image.dim(), " dimensions; [N, C, H, W] is needed");
  if (weight) {
    check_tensor(*weight, "weight", image, accumulator(image), 2);
    check_shape(*weight, "weight", {image.size(2), image.size(3)});
  }
  const Tensor input = readable(image);
  const Tensor loss = torch::stable::new_empty(input, {}, accumulator(input));
  const Tensor gradient = torch::stable::empty_like(input);
  const Tensor* map = weight ? &*weight : nullptr;
  dispatch(input, "image", [&](auto stored, auto sum) {
    using T = decltype(stored);
    using A = decltype(sum);
    run<T, A>(input, map, product, data<A>(loss), data<T>(gradient));
  });
  return {loss, gradient};
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CPU, m) { m.impl("masked_tv", TORCH_BOX(&intarsia::masked_tv)); }

// Masked Gram matrices on the CPU.
//
// Each segment's pixels are gathered into dense panels, and the panels multiplied by torch's matrix product, the lower
// triangle in blocks. So every pixel is multiplied once, whatever the number of segments.
//
// The partition into tasks depends on shapes and the plan alone; a task's matrix products run on one thread; partial
// sums are added in a fixed order. So the bits do not depend on the number of threads.
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <tuple>
#include <vector>

#include "../plan.h"
#include "bfloat16_product.h"
#include "dispatch.h"
#include "rows.h"

namespace intarsia {
namespace {

constexpr int64_t kPanelBytes = 1 << 18;      // a quarter of a common L2 cache: a panel, its product and the matrix fit
constexpr int64_t kPairPanelBytes = 1 << 16;  // panels of pairs are read many times over: near a common L1 cache's size
constexpr int64_t kPartialBytes = 8 << 20;    // of all partial Gram matrices together
constexpr int64_t kMaxParts = 64;
constexpr size_t kManyParts = 8;  // enough to keep the threads busy without splitting a part
constexpr int64_t kBlock = 128;   // channels; below this, smaller products cost more than the upper triangle they save

const torch::stable::Device kCpu(torch::headeronly::DeviceType::CPU);

template <typename T>
constexpr ScalarType kScalarType = ScalarType::Float;
template <>
constexpr ScalarType kScalarType<double> = ScalarType::Double;
template <>
constexpr ScalarType kScalarType<Bfloat16> = ScalarType::BFloat16;

// Calls work(i) for 0 <= i < count; which thread takes which i does not matter to the result.
template <typename Work>
void run_tasks(int64_t count, const Work& work) {
  std::atomic<int64_t> next{0};
  // In a parallel region a matrix product starts no threads of its own, on whose number its bits would depend.
  const int64_t shares = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, shares, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) work(i);
  });
}

template <typename T>
Tensor buffer(int64_t count) {
  const int64_t size[] = {count};
  return torch::stable::empty(size, kScalarType<T>, std::nullopt, kCpu);
}

// A matrix anywhere in memory.
template <typename T>
struct Matrix {
  T* values;
  int64_t rows, columns, row_stride, column_stride;

  Matrix block(int64_t row, int64_t column, int64_t block_rows, int64_t block_columns) const {
    return {values + row * row_stride + column * column_stride, block_rows, block_columns, row_stride, column_stride};
  }
  Matrix transposed() const { return {values, columns, rows, column_stride, row_stride}; }
  Tensor tensor() const {
    const int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
    return torch::stable::from_blob(const_cast<std::remove_const_t<T>*>(values), sizes, strides, kCpu,
                                    kScalarType<std::remove_const_t<T>>);
  }
};

// out = a b, or out += a b
template <typename T>
void multiply(const Matrix<T>& out, const Matrix<T>& a, const Matrix<T>& b, bool add) {
  const Tensor result = out.tensor();
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(result.get(), result.get(), a.tensor().get(), b.tensor().get(), add ? 1.0 : 0.0, 1.0));
}

// Entries begin..end-1 of the plan: pixels of one segment, padding left out.
struct Entries {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

struct Groups {
  const int32_t* indices;
  const int32_t* tiles;
  int64_t segments;

  explicit Groups(const MaskPlan& plan)
      : indices(data<int32_t>(plan.indices)), tiles(data<int32_t>(plan.group_tiles)), segments(plan.segments()) {}

  Entries operator()(int64_t pass, int64_t segment) const {
    const int32_t* bounds = tiles + pass * (segments + 2) + segment;
    Entries entries{bounds[0] * kTile, bounds[1] * kTile};
    while (entries.end > entries.begin && indices[entries.end - 1] < 0) --entries.end;
    return entries;
  }
};

// A feature map as it lies, and panels of its pixels: [pixels, C] where channels are last, else [C, pixels].
template <typename T>
struct FeatureMap {
  T* values;
  int64_t channels, pixels;
  bool channels_last;

  FeatureMap(const Tensor& tensor)
      : values(data<T>(tensor)),
        channels(tensor.size(1)),
        pixels(tensor.size(2) * tensor.size(3)),
        channels_last(is_channels_last(tensor)) {}

  T* picture(int64_t n) const { return values + n * channels * pixels; }

  // Calls visit(pixel, offset, count) for each run of consecutive pixels among the entries.
  template <typename Visit>
  void runs(const int32_t* indices, int64_t count, const Visit& visit) const {
    for (int64_t begin = 0, end; begin < count; begin = end) {
      for (end = begin + 1; end < count && indices[end] == indices[end - 1] + 1; ++end) {
      }
      visit(indices[begin], begin, end - begin);
    }
  }

  // The first `used` channels (the panel holds as many).
  template <typename A>
  Matrix<A> gather(int64_t n, const int32_t* indices, int64_t count, int64_t used, A* panel) const {
    const T* from = picture(n);
    if (channels_last) {
      if (used == channels) {
        runs(indices, count, [&](int64_t pixel, int64_t offset, int64_t length) {
          copy_row(panel + offset * channels, from + pixel * channels, length * channels);
        });
      } else {
        for (int64_t i = 0; i < count; ++i) copy_row(panel + i * used, from + indices[i] * channels, used);
      }
      return {panel, used, count, 1, used};
    }
    for (int64_t c = 0; c < used; ++c) {
      runs(indices, count, [&](int64_t pixel, int64_t offset, int64_t length) {
        copy_row(panel + c * count + offset, from + c * pixels + pixel, length);
      });
    }
    return {panel, used, count, count, 1};
  }
};

// One task of the forward pass: some entries of a segment, and where their sum goes.
struct Part {
  int64_t segment;
  int64_t partial;  // -1: straight into the result
  std::vector<Entries> entries;
};

// Deals each segment's entries to parts of at most `length` tiles. Only segments longer than that need partial sums.
std::vector<Part> deal(const MaskPlan& plan, int64_t length) {
  const Groups groups(plan);
  std::vector<Part> parts;
  int64_t partials = 0;
  for (int64_t segment = 0; segment < groups.segments; ++segment) {
    int64_t room = 0;
    bool first = true;
    for (int64_t pass = 0; pass < plan.passes(); ++pass) {
      for (Entries rest = groups(pass, segment); rest.size() > 0;) {
        if (room == 0) {
          parts.push_back({segment, first ? -1 : partials++, {}});
          first = false;
          room = length * kTile;
        }
        const int64_t taken = std::min(rest.size(), room);
        parts.back().entries.push_back({rest.begin, rest.begin + taken});
        rest.begin += taken;
        // Whole tiles are counted, so that the partition follows the plan's.
        room -= (taken + kTile - 1) / kTile * kTile;
      }
    }
  }
  return parts;
}

// The lower triangle in square blocks, and its block rows in groups of about equal work.
struct Triangle {
  int64_t channels, block, blocks;

  explicit Triangle(int64_t channels)
      : channels(channels), block(channels > 32 ? std::min(kBlock, (channels + 1) / 2) : channels) {
    blocks = (channels + block - 1) / block;
  }
  int64_t start(int64_t i) const { return i * block; }
  int64_t size(int64_t i) const { return std::min(block, channels - i * block); }
  int64_t row_groups() const { return (blocks + 1) / 2; }
  int64_t pairs() const { return blocks * (blocks + 1) / 2; }
};

// Everything that the forward pass shares between its tasks; A is the type of sums.
template <typename T, typename A>
class Forward {
 public:
  Forward(const Tensor& features, const MaskPlan& plan, const Tensor& mass, A* gram, A* mean)
      : features_(features),
        plan_(plan),
        mass_(data<A>(mass)),
        gram_(gram),
        mean_(mean),
        triangle_(features.size(1)),
        square_(triangle_.channels * triangle_.channels),
        panel_pixels_(std::max<int64_t>(kTile, kPanelBytes / (triangle_.channels * sizeof(A)) / kTile * kTile)) {
    const int64_t most = std::clamp<int64_t>(kPartialBytes / (square_ * sizeof(A)), 1, kMaxParts);
    // A part shorter than C pixels would cost more in adding its partial sum than in multiplying.
    const int64_t length = std::max((plan.tiles() + most - 1) / most, (triangle_.channels + kTile - 1) / kTile);
    parts_ = deal(plan, length);
    by_segment_.resize(plan.segments());
    for (const Part& part : parts_) by_segment_[part.segment].push_back(&part);
    int64_t partials = 0;
    for (const Part& part : parts_) partials = std::max(partials, part.partial + 1);
    partial_gram_ = buffer<A>(partials * square_);
    partial_mean_ = buffer<A>(partials * triangle_.channels);
  }

  // Sums of picture n into the lower triangles, then moments or, with targets, differences and squared distances.
  void operator()(int64_t n, const A* targets, const A* factors, A* losses) {
    const int64_t pairs = triangle_.pairs();
    std::vector<A> squares(plan_.segments() * pairs);
    const auto finish_pair = [&](int64_t segment, int64_t pair) {
      squares[segment * pairs + pair] = finish(n, segment, pair, targets);
    };
    // With many parts, each is one task, and a segment of one part is finished while it lies in the cache.
    const int64_t groups = parts_.size() < kManyParts ? triangle_.row_groups() : 1;
    run_tasks(static_cast<int64_t>(parts_.size()) * groups, [&](int64_t task) {
      const Part& part = parts_[task / groups];
      for (int64_t group = task % groups; group < triangle_.row_groups(); group += groups) accumulate(n, part, group);
      if (groups == 1 && by_segment_[part.segment].size() == 1)
        for (int64_t pair = 0; pair < pairs; ++pair) finish_pair(part.segment, pair);
    });
    run_tasks(static_cast<int64_t>(squares.size()), [&](int64_t task) {
      const int64_t segment = task / pairs;
      if (groups > 1 || by_segment_[segment].size() != 1) finish_pair(segment, task % pairs);
    });
    for (int64_t segment = 0; segment < plan_.segments(); ++segment) {
      if (mean_ != nullptr) finish_mean(n, segment);
      if (targets == nullptr) continue;
      A sum = 0;
      for (int64_t pair = 0; pair < pairs; ++pair) sum += squares[segment * pairs + pair];
      losses[n * plan_.segments() + segment] = sum * factors[segment];
    }
  }

 private:
  A* result(int64_t n, int64_t segment) const { return gram_ + (n * plan_.segments() + segment) * square_; }

  // Block rows `group` and its mirror (the short and the long one) of one part.
  void accumulate(int64_t n, const Part& part, int64_t group) {
    const int64_t c = triangle_.channels, last = triangle_.blocks - 1 - group;
    const int64_t used = triangle_.start(last) + triangle_.size(last);
    const bool whole = part.partial < 0;
    const Matrix<A> sum{whole ? result(n, part.segment) : data<A>(partial_gram_) + part.partial * square_, c, c, c, 1};
    A* mean = nullptr;
    if (mean_ != nullptr && group == 0) {
      mean = whole ? mean_ + (n * plan_.segments() + part.segment) * c : data<A>(partial_mean_) + part.partial * c;
      std::fill(mean, mean + c, A(0));
    }
#ifdef INTARSIA_BFLOAT16_UNIT
    if constexpr (std::is_same_v<T, Bfloat16>) {
      if (mean_ == nullptr && features_.channels_last && has_bfloat16_unit()) {
        accumulate_pairs(n, part, group, sum.values);
        return;
      }
    }
#endif
    const Tensor panels = buffer<A>(panel_pixels_ * used * (plan_.weights ? 2 : 1));
    bool add = false;
    for (const Entries& entries : part.entries) {
      int64_t count;
      for (int64_t begin = entries.begin; begin < entries.end; begin += count) {
        const A* weights;
        count = take({begin, entries.end}, panel_pixels_, weights);
        A* plain = data<A>(panels);
        const Matrix<A> panel = features_.gather(n, data<int32_t>(plan_.indices) + begin, count, used, plain);
        Matrix<A> weighted = panel;
        if (weights != nullptr) {
          weighted.values = plain + panel_pixels_ * used;
          weigh(panel, weights, weighted.values);
        }
        if (mean != nullptr) add_sums(weighted, mean);
        for (const int64_t i : {group, last}) {
          for (int64_t j = 0; j <= i; ++j) {
            multiply(sum.block(triangle_.start(i), triangle_.start(j), triangle_.size(i), triangle_.size(j)),
                     weighted.block(triangle_.start(i), 0, triangle_.size(i), count),
                     panel.block(triangle_.start(j), 0, triangle_.size(j), count).transposed(), add);
          }
          if (group == last) break;
        }
        add = true;
      }
    }
  }

  // How many of the entries' first, at most `most`, to multiply at once: either all weigh 1 (`weights` is null), or any
  // do what they do. The plan has those that weigh 1 first.
  int64_t take(const Entries& entries, int64_t most, const A*& weights) const {
    const int64_t room = std::min(most, entries.size());
    weights = plan_.weights ? data<A>(*plan_.weights) + entries.begin : nullptr;
    if (weights == nullptr || weights[0] != 1) return room;
    int64_t count = 1;
    while (count < room && weights[count] == 1) ++count;
    weights = nullptr;
    return count;
  }

#ifdef INTARSIA_BFLOAT16_UNIT
  // As `accumulate`, without means, on the bfloat16 unit.
  void accumulate_pairs(int64_t n, const Part& part, int64_t group, float* sum) const {
    const int64_t c = triangle_.channels, last = triangle_.blocks - 1 - group;
    const int64_t used = triangle_.start(last) + triangle_.size(last);
    const int64_t most = std::max<int64_t>(2 * kTile, kPairPanelBytes / (c * 4));
    const int64_t room = panel_channels(used) * most;
    const Tensor panels = buffer<float>(room * (plan_.weights ? 3 : 1));
    uint32_t* const panel = static_cast<uint32_t*>(panels.data_ptr());
    uint32_t* const high = panel + room;
    uint32_t* const low = high + room;
    const Bfloat16* const from = features_.picture(n);
    bool add = false;
    for (const Entries& entries : part.entries) {
      int64_t count;
      for (int64_t begin = entries.begin; begin < entries.end; begin += count) {
        const A* weights;
        count = take({begin, entries.end}, 2 * most, weights);
        const int64_t pairs = (count + 1) / 2;
        const int32_t* indices = data<int32_t>(plan_.indices) + begin;
        for (int64_t i = 0; i < count; i += 2) {
          const Bfloat16* odd = i + 1 < count ? from + indices[i + 1] * c : nullptr;
          pack_pair(from + indices[i] * c, odd, used, i / 2, pairs, panel, weights == nullptr ? nullptr : weights + i,
                    high, low);
        }
        for (const int64_t i : {group, last}) {
          const int64_t start = triangle_.start(i), end = start + triangle_.size(i);
          multiply_rows(weights == nullptr ? panel : high, panel, pairs, start, end, sum, c, add);
          if (weights != nullptr) multiply_rows(low, panel, pairs, start, end, sum, c, true);
          if (group == last) break;
        }
        add = true;
      }
    }
  }
#endif

  static void weigh(const Matrix<A>& panel, const A* weights, A* out) {
    if (panel.row_stride == 1) {
      for (int64_t i = 0; i < panel.columns; ++i)
        scale_row(out + i * panel.rows, panel.values + i * panel.rows, weights[i], panel.rows);
    } else {
      for (int64_t c = 0; c < panel.rows; ++c)
        multiply_row(out + c * panel.columns, panel.values + c * panel.columns, weights, panel.columns);
    }
  }

  // Adds each channel's sum over the panel's pixels.
  static void add_sums(const Matrix<A>& panel, A* sums) {
    if (panel.row_stride == 1) {
      for (int64_t i = 0; i < panel.columns; ++i) add_row(sums, panel.values + i * panel.rows, panel.rows);
    } else {
      for (int64_t c = 0; c < panel.rows; ++c) sums[c] += sum_row(panel.values + c * panel.columns, panel.columns);
    }
  }

  // Adds a block's partial sums in order, divides by mass, subtracts the target; writes it and its mirror image.
  // Returns the sum of the squares of both.
  A finish(int64_t n, int64_t segment, int64_t pair, const A* targets) {
    int64_t i = 0;
    while ((i + 1) * (i + 2) / 2 <= pair) ++i;
    const int64_t j = pair - i * (i + 1) / 2, c = triangle_.channels;
    A* out = result(n, segment);
    const std::vector<const Part*>& parts = by_segment_[segment];
    const A scale = mass_[segment] > 0 ? 1 / mass_[segment] : A(0);
    A squares = 0;
    for (int64_t row = triangle_.start(i); row < triangle_.start(i) + triangle_.size(i); ++row) {
      const int64_t begin = triangle_.start(j), end = i == j ? row + 1 : begin + triangle_.size(j);
      A* values = out + row * c + begin;
      if (parts.empty()) std::fill(values, values + end - begin, A(0));
      for (const Part* part : parts)
        if (part->partial >= 0)
          add_row(values, data<A>(partial_gram_) + part->partial * square_ + row * c + begin, end - begin);
      if (targets == nullptr) {
        scale_row(values, values, scale, end - begin);
        continue;
      }
      squares += difference_row(values, targets + segment * square_ + row * c + begin, scale, end - begin);
      if (i == j) squares -= values[row - begin] * values[row - begin] / 2;  // the diagonal counts once
    }
    mirror_block(out, c, triangle_.start(i), triangle_.size(i), triangle_.start(j), triangle_.size(j));
    return 2 * squares;
  }

  void finish_mean(int64_t n, int64_t segment) {
    const int64_t c = triangle_.channels;
    A* mean = mean_ + (n * plan_.segments() + segment) * c;
    if (by_segment_[segment].empty()) std::fill(mean, mean + c, A(0));
    for (const Part* part : by_segment_[segment])
      if (part->partial >= 0) add_row(mean, data<A>(partial_mean_) + part->partial * c, c);
    scale_row(mean, mean, mass_[segment] > 0 ? 1 / mass_[segment] : A(0), c);
  }

  FeatureMap<const T> features_;
  const MaskPlan& plan_;
  const A* mass_;
  A* gram_;
  A* mean_;
  Triangle triangle_;
  int64_t square_, panel_pixels_;
  std::vector<Part> parts_;
  std::vector<std::vector<const Part*>> by_segment_;
  Tensor partial_gram_, partial_mean_;
};

void check_mass(const Tensor& mass, const Tensor& features, const MaskPlan& plan) {
  check_tensor(mass, "mass", features, accumulator(features), 1);
  check_shape(mass, "mass", {plan.segments()});
}

std::tuple<Tensor, Tensor> masked_gram(const Tensor& features, const Tensor& indices,
                                       const std::optional<Tensor>& weights, const Tensor& tile_segments,
                                       const Tensor& group_tiles, const Tensor& mass, bool /*exact*/) {
  const MaskPlan plan = check_plan(features, indices, weights, tile_segments, group_tiles);
  check_mass(mass, features, plan);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1), segments = plan.segments();
  const Tensor gram = torch::stable::new_empty(input, {batch, segments, channels, channels}, accumulator(input));
  const Tensor mean = torch::stable::new_empty(input, {batch, segments, channels}, accumulator(input));
  if (batch == 0 || channels == 0) return {gram, mean};
  dispatch(input, "features", [&](auto stored, auto sum) {
    using A = decltype(sum);
    Forward<decltype(stored), A> forward(input, plan, mass, data<A>(gram), data<A>(mean));
    for (int64_t n = 0; n < batch; ++n) forward(n, nullptr, nullptr, nullptr);
  });
  return {gram, mean};
}

std::tuple<Tensor, Tensor> masked_gram_loss(const Tensor& features, const Tensor& indices,
                                            const std::optional<Tensor>& weights, const Tensor& tile_segments,
                                            const Tensor& group_tiles, const Tensor& mass, const Tensor& targets,
                                            const Tensor& factors, bool /*exact*/) {
  const MaskPlan plan = check_plan(features, indices, weights, tile_segments, group_tiles);
  check_mass(mass, features, plan);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1), segments = plan.segments();
  check_tensor(targets, "targets", input, accumulator(input), 3);
  check_shape(targets, "targets", {segments, channels, channels});
  check_tensor(factors, "factors", input, accumulator(input), 1);
  check_shape(factors, "factors", {segments});
  const Tensor losses = torch::stable::new_zeros(input, {batch, segments}, accumulator(input));
  const Tensor difference = torch::stable::new_empty(input, {batch, segments, channels, channels}, accumulator(input));
  if (batch == 0 || channels == 0) return {losses, difference};
  dispatch(input, "features", [&](auto stored, auto sum) {
    using A = decltype(sum);
    Forward<decltype(stored), A> forward(input, plan, mass, data<A>(difference), nullptr);
    for (int64_t n = 0; n < batch; ++n) forward(n, data<A>(targets), data<A>(factors), data<A>(losses));
  });
  return {losses, difference};
}

// One task of the backward pass: pixels of one segment, of one pass.
struct Piece {
  int64_t segment;
  Entries entries;
};

// Multiplies in type P: float32 for bfloat16 features where the processor would emulate bfloat16.
template <typename T, typename A, typename P>
class Backward {
 public:
  Backward(const Tensor& features, const MaskPlan& plan, const A* matrices, bool symmetric, const A* scales,
           const A* mean_gradient, const Tensor& gradient)
      : features_(features),
        gradient_(gradient),
        plan_(plan),
        matrices_(matrices),
        symmetric_(symmetric),
        scales_(scales),
        mean_(mean_gradient) {
    const int64_t pixels =
        std::max<int64_t>(kTile, kPanelBytes / (features_.channels * static_cast<int64_t>(sizeof(P))) / kTile * kTile);
    const Groups groups(plan);
    for (int64_t pass = 0; pass < plan.passes(); ++pass) {
      passes_.emplace_back();
      for (int64_t segment = 0; segment <= plan.segments(); ++segment) {
        const Entries all = groups(pass, segment);
        for (int64_t begin = all.begin; begin < all.end; begin += pixels)
          passes_.back().push_back({segment, {begin, std::min(begin + pixels, all.end)}});
      }
    }
  }

  // Passes follow each other, so that no pixel is written by two tasks at once.
  void operator()(int64_t n) {
#ifdef INTARSIA_BFLOAT16_UNIT
    if (suits_pairs()) pack(n);
#endif
    for (size_t pass = 0; pass < passes_.size(); ++pass) {
      const std::vector<Piece>& pieces = passes_[pass];
      run_tasks(static_cast<int64_t>(pieces.size()), [&](int64_t task) {
        if (pieces[task].segment == plan_.segments()) {
          clear(n, pieces[task].entries);
        } else {
          propagate(n, pieces[task], pass > 0);
        }
      });
    }
  }

 private:
  const int32_t* indices(const Entries& entries) const { return data<int32_t>(plan_.indices) + entries.begin; }

  void clear(int64_t n, const Entries& entries) {
    T* to = gradient_.picture(n);
    gradient_.runs(indices(entries), entries.size(), [&](int64_t pixel, int64_t, int64_t length) {
      if (gradient_.channels_last) {
        std::fill_n(to + pixel * gradient_.channels, length * gradient_.channels, T{});
      } else {
        for (int64_t c = 0; c < gradient_.channels; ++c) std::fill_n(to + c * gradient_.pixels + pixel, length, T{});
      }
    });
  }

  void propagate(int64_t n, const Piece& piece, bool add) {
    const int64_t c = features_.channels, count = piece.entries.size();
    const int64_t number = n * plan_.segments() + piece.segment;
#ifdef INTARSIA_BFLOAT16_UNIT
    if (packed_) return propagate_pairs(n, piece, add);
#endif
    const Tensor panels = buffer<P>(2 * count * c);
    const Matrix<P> panel = features_.gather(n, indices(piece.entries), count, c, data<P>(panels));
    const Matrix<P> product{data<P>(panels) + count * c, c, count, panel.row_stride, panel.column_stride};
    A* matrix = const_cast<A*>(matrices_ + number * c * c);
    std::optional<Tensor> summed, converted;
    if (!symmetric_) {
      summed = buffer<A>(c * c);
      add_transposed(data<A>(*summed), matrix, c);
      matrix = data<A>(*summed);
    }
    if constexpr (std::is_same_v<A, P>) {
      apply(product, {matrix, c, c, c, 1}, panel);
    } else {
      converted = buffer<P>(c * c);
      copy_row(data<P>(*converted), matrix, c * c);
      apply(product, {data<P>(*converted), c, c, c, 1}, panel);
    }
    scatter(n, piece, number, product.values, add);
  }

  // Where the losses' own gradients are: symmetric matrices, no means. Pixels are multiplied where they lie.
  bool suits_pairs() const {
    return std::is_same_v<P, Bfloat16> && symmetric_ && mean_ == nullptr && features_.channels_last &&
           features_.channels % 32 == 0 && has_bfloat16_unit();
  }

#ifdef INTARSIA_BFLOAT16_UNIT
  // Picture n's matrices, scaled, rounded and laid out once for all their pieces.
  void pack(int64_t n) {
    const int64_t c = features_.channels, size = c * c / 2;
    if (!packed_) packed_ = buffer<float>(plan_.segments() * size);
    run_tasks(plan_.segments(), [&](int64_t segment) {
      const int64_t number = n * plan_.segments() + segment;
      pack_matrix(reinterpret_cast<const float*>(matrices_) + number * c * c, c, static_cast<float>(scales_[number]),
                  static_cast<uint32_t*>(packed_->data_ptr()) + segment * size);
    });
  }

  void propagate_pairs(int64_t n, const Piece& piece, bool add) {
    const int64_t c = features_.channels, count = piece.entries.size();
    const uint32_t* matrix = static_cast<const uint32_t*>(packed_->data_ptr()) + piece.segment * c * c / 2;
    const float* weights = plan_.weights ? data<float>(*plan_.weights) + piece.entries.begin : nullptr;
    const int32_t* pixels = indices(piece.entries);
    const auto* from = reinterpret_cast<const Bfloat16*>(features_.picture(n));
    auto* to = reinterpret_cast<Bfloat16*>(gradient_.picture(n));
    for (int64_t column = 0; column < c; column += kProductColumns)
      for (int64_t i = 0; i < count; i += kProductRows) {
        const int64_t rows = std::min(kProductRows, count - i);
        multiply_pixels_of(rows, std::make_integer_sequence<int, kProductRows>())(
            from, pixels + i, weights == nullptr ? nullptr : weights + i, matrix, c, column, to, add);
      }
  }
#endif

  static void apply(const Matrix<P>& product, const Matrix<P>& symmetric, const Matrix<P>& panel) {
    // As rows lie, so that the result lies as its panel does.
    if (panel.row_stride == 1) {
      multiply(product.transposed(), panel.transposed(), symmetric, false);
    } else {
      multiply(product, symmetric, panel, false);
    }
  }

  void scatter(int64_t n, const Piece& piece, int64_t number, const P* product, bool add) {
    const int64_t c = features_.channels, count = piece.entries.size();
    const A scale = scales_[number];
    const A* weights = plan_.weights ? data<A>(*plan_.weights) + piece.entries.begin : nullptr;
    const A* mean = mean_ == nullptr ? nullptr : mean_ + number * c;
    T* to = gradient_.picture(n);
    gradient_.runs(indices(piece.entries), count, [&](int64_t pixel, int64_t offset, int64_t length) {
      if (!gradient_.channels_last) {
        for (int64_t k = 0; k < c; ++k)
          store_channel(to + k * gradient_.pixels + pixel, product + k * count + offset, scale, mean ? mean[k] : A(0),
                        weights ? weights + offset : nullptr, add, length);
      } else if (mean == nullptr && weights == nullptr) {
        store_pixel(to + pixel * c, product + offset * c, scale, mean, A(0), add, length * c);
      } else {
        for (int64_t i = 0; i < length; ++i) {
          const A weight = weights ? weights[offset + i] : A(1);
          store_pixel(to + (pixel + i) * c, product + (offset + i) * c, weight * scale, mean, weight, add, c);
        }
      }
    });
  }

  FeatureMap<const T> features_;
  FeatureMap<T> gradient_;
  const MaskPlan& plan_;
  const A* matrices_;
  bool symmetric_;
  const A* scales_;
  const A* mean_;
  std::vector<std::vector<Piece>> passes_;
  std::optional<Tensor> packed_;
};

Tensor masked_gram_backward(const Tensor& features, const Tensor& indices, const std::optional<Tensor>& weights,
                            const Tensor& tile_segments, const Tensor& group_tiles, const Tensor& matrices,
                            bool symmetric, const Tensor& scales, const std::optional<Tensor>& mean_gradient,
                            bool /*exact*/) {
  const MaskPlan plan = check_plan(features, indices, weights, tile_segments, group_tiles);
  const Tensor input = readable(features);
  const int64_t batch = input.size(0), channels = input.size(1), segments = plan.segments();
  check_tensor(matrices, "matrices", input, accumulator(input), 4);
  check_shape(matrices, "matrices", {batch, segments, channels, channels});
  check_tensor(scales, "scales", input, accumulator(input), 2);
  check_shape(scales, "scales", {batch, segments});
  if (mean_gradient) {
    check_tensor(*mean_gradient, "mean_gradient", input, accumulator(input), 3);
    check_shape(*mean_gradient, "mean_gradient", {batch, segments, channels});
  }
  const Tensor gradient = torch::stable::empty_like(input);
  if (batch == 0 || channels == 0) return gradient;
  dispatch(input, "features", [&](auto stored, auto sum) {
    using T = decltype(stored);
    using A = decltype(sum);
    const auto run = [&](auto multiplied) {
      Backward<T, A, decltype(multiplied)> backward(input, plan, data<A>(matrices), symmetric, data<A>(scales),
                                                    mean_gradient ? data<A>(*mean_gradient) : nullptr, gradient);
      for (int64_t n = 0; n < batch; ++n) backward(n);
    };
    if constexpr (std::is_same_v<T, Bfloat16>) {
      if (has_bfloat16_unit()) return run(Bfloat16());
    }
    run(A());
  });
  return gradient;
}

}  // namespace
}  // namespace intarsia

STABLE_TORCH_LIBRARY_IMPL(intarsia, CPU, m) {
  m.impl("masked_gram", TORCH_BOX(&intarsia::masked_gram));
  m.impl("masked_gram_loss", TORCH_BOX(&intarsia::masked_gram_loss));
  m.impl("masked_gram_backward", TORCH_BOX(&intarsia::masked_gram_backward));
}

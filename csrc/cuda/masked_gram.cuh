// Masked Gram matrices G_r = sum_p m_r(p) f_p f_p^T / mass_r on the tensor cores, all segments in one pass over the
// features.
//
// The tiles of all groups are dealt to slots in contiguous runs. A block walks one slot's run for one pair of channel
// blocks and keeps one product in its registers; where the segment changes it writes that down as a partial sum and
// starts anew. So many segments cost what one costs. A second kernel adds each segment's partials in a fixed order.
#pragma once

#include "operands.cuh"

namespace intarsia {

// How the tiles are dealt out: by shapes alone, so that every device and every run adds in the same order.
struct Partition {
  int slots;
  int tiles_per_slot;
  int partials;     // of one image and pair of channel blocks
  int block_pairs;  // lower triangle of channel blocks
  bool from_tiles;  // partials are numbered by their first tile, not by slot + group

  // A slot's run and the groups, both in order of tiles, form a staircase: from one partial to the next the slot, the
  // group or both grow, so that slot + group numbers them without holes worth filling. Where groups outnumber the
  // tiles (most are empty then), the first tile of a partial is the smaller number.
  __host__ __device__ int partial(int slot, int group, int group_begin) const {
    return from_tiles ? larger(slot * tiles_per_slot, group_begin) : slot + group;
  }
};

// Blocks of 64 channels move much and compute little: two blocks a multiprocessor hide each other's waits. Those of 128
// would pay for that with twice the partials.
inline Partition make_partition(int batch, int channels, const Plan& plan) {
  const int blocks = ceil_div(channels, channels <= 64 ? 64 : 128);
  Partition result;
  result.block_pairs = blocks * (blocks + 1) / 2;
  const int64_t wanted =
      (channels <= 64 ? 264 : 132) / larger<int64_t>(1, static_cast<int64_t>(batch) * result.block_pairs);
  const int most = static_cast<int>(larger<int64_t>(1, smaller<int64_t>(wanted, plan.tiles)));
  result.tiles_per_slot = larger(1, ceil_div(plan.tiles, most));
  result.slots = ceil_div(plan.tiles, result.tiles_per_slot);
  const int64_t staircase = result.slots + static_cast<int64_t>(plan.passes) * (plan.segments + 1);
  result.from_tiles = plan.tiles < staircase;
  result.partials = static_cast<int>(smaller<int64_t>(staircase, plan.tiles));
  return result;
}

// How a block of channels lies in shared memory and over the warps.
template <typename T, Layout kLayout, int kBlock>
struct GramTraits {
  static constexpr bool kAlongPixels = kLayout == Layout::kNchw;
  // 2-byte elements that do not lie side by side are too small for cp.async and go through registers.
  static constexpr bool kThroughRegisters = kAlongPixels && sizeof(T) == 2;

  // A stage of the pipeline is two panels. In a block on the diagonal they are the next pixels of the same channels,
  // off it the two channel blocks of the same pixels: the same bytes in flight either way.
  static constexpr int kStages = 4;
  static constexpr int kPanelPixels = kBlock == 128 && (sizeof(T) == 4 || kAlongPixels) ? 16 : 32;
  static constexpr int kStagePixels = 2 * kPanelPixels;
  // Lines are padded so that the 8 lines of an ldmatrix, or the 4 x 8 floats of a load, lie in different banks; panels
  // so that the copies of the two do.
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kStride = kAlongPixels ? kPanelPixels + kVector : kBlock + 8;
  static constexpr int kPanel = (kAlongPixels ? kBlock * kStride + 4 * kVector : kPanelPixels * kStride);
  static constexpr int kSharedBytes = kStages * (2 * kPanel * sizeof(T) + kStagePixels * sizeof(float));

  // 8 warps of 32 x 64 or 16 x 32, in 4 rows and 2 columns.
  static constexpr int kTilesM = kBlock / 64;
  static constexpr int kTilesN = kBlock / 16;
  static constexpr int kDepth = 32 / sizeof(T);  // pixels of a product
};

// A partial lies in fragment order: tiles of 16 x 8, warp by warp, 32 lanes x 4 numbers each; then the block's mean.
template <int kBlock>
struct PartialTraits {
  static constexpr int kTilesM = kBlock / 64;
  static constexpr int kTilesN = kBlock / 16;
  static constexpr int kMatrixTiles = kBlock * kBlock / 128;
  static constexpr int kTiles = kMatrixTiles + 1;
  static constexpr int kFloats = kTiles * 128;

  static __device__ int row(int tile) {
    return (tile / (kTilesM * kTilesN) % 4 * kTilesM + tile / kTilesN % kTilesM) * 16;
  }
  static __device__ int column(int tile) { return (tile / (kTilesM * kTilesN) / 4 * kTilesN + tile % kTilesN) * 8; }
};

// Pair number -> (row, column) of the lower triangle.
struct BlockPair {
  int row = 0, column;
  explicit __device__ BlockPair(int number) : column(number) {
    while (column > row) column -= ++row;
  }
};

// Walks a run of tiles step by step, leaving out those of no segment.
class Walk {
 public:
  __device__ Walk(const Plan& plan, int begin, int end, int steps)
      : plan_(plan), end_(end), steps_(steps), tile_(begin) {
    pass_end_ = plan.pass_end(0);
    settle();
  }
  __device__ bool done() const { return tile_ >= end_; }
  __device__ int tile() const { return tile_; }
  __device__ int group() const { return pass_ * (plan_.segments + 1) + segment_; }
  __device__ int64_t entry(int pixels) const { return static_cast<int64_t>(tile_) * Plan::kTile + step_ * pixels; }
  __device__ void next() {
    if (++step_ < steps_) return;
    step_ = 0;
    segment_ = next_segment_;
    if (++tile_ < smaller(end_, pass_end_) && segment_ < plan_.segments) {
      look_ahead();
    } else {
      settle();
    }
  }

 private:
  __device__ void settle() {
    while (tile_ < end_) {
      while (tile_ >= pass_end_) pass_end_ = plan_.pass_end(++pass_);
      segment_ = plan_.tile_segments[tile_];
      if (segment_ < plan_.segments) return look_ahead();
      tile_ = pass_end_;
    }
  }
  // Read a tile early, so that no step waits for it.
  __device__ void look_ahead() { next_segment_ = plan_.tile_segments[smaller(tile_ + 1, end_ - 1)]; }

  const Plan& plan_;
  int end_, steps_, tile_, pass_end_;
  int step_ = 0, pass_ = 0, segment_ = 0, next_segment_ = 0;
};

// Brings the features of the next entries into a stage. Pixel numbers are read a stage before they are needed.
template <typename T, Layout kLayout, int kBlock>
class Gather {
  using Traits = GramTraits<T, kLayout, kBlock>;
  static constexpr int kVector = Traits::kVector;
  // Along pixels, a thread stays with one pixel and goes over channels; along channels, with one 16-byte chunk of the
  // channels and goes over pixels.
  static constexpr int kColumns = Traits::kAlongPixels ? Traits::kStagePixels : kBlock / kVector;
  static constexpr int kRows = kThreads / kColumns;
  static constexpr int kCopies = (Traits::kAlongPixels ? kBlock : Traits::kStagePixels) / kRows;
  static constexpr int kPixels = Traits::kAlongPixels ? 1 : kCopies;  // that a thread copies
  static constexpr int kHeld = Traits::kThroughRegisters ? kCopies : 1;

 public:
  // image: features of one image. wide: every pixel's channels start at a multiple of 16 bytes.
  __device__ Gather(const T* image, int channels, int64_t pixels, const Plan& plan, const Walk& walk, BlockPair pair,
                    bool wide, T* panels, float* weights)
      : image_(image),
        channels_(channels),
        pixels_(pixels),
        plan_(plan),
        walk_(walk),
        pair_(pair),
        wide_(wide),
        panels_(panels),
        weights_(weights),
        column_(thread_index().x % kColumns),
        row_(thread_index().x / kColumns) {
    load_indices();
  }

  // Starts the copies into a stage, and looks up the pixels of the next.
  __device__ void issue(int stage) {
    issued_ = !walk_.done();
    if (!issued_) return;
    T* panels = panels_ + stage * 2 * Traits::kPanel;
    if constexpr (Traits::kAlongPixels) {
      copy_along_pixels(panels);
    } else {
      copy_along_channels(panels);
    }
    const int thread = thread_index().x;
    if (plan_.weights != nullptr && thread < step_pixels()) {
      cp_async<4>(weights_ + stage * Traits::kStagePixels + thread, plan_.weights + entry_ + thread, true);
    }
    walk_.next();
    load_indices();
  }

  // Writes down what came through registers, once there was something else to do meanwhile.
  __device__ void finish(int stage) {
    if constexpr (Traits::kThroughRegisters) {
      if (!issued_) return;
      T* to = panels_ + stage * 2 * Traits::kPanel + shared_offset();
#pragma unroll
      for (int i = 0; i < kCopies; ++i) to[i * kRows * Traits::kStride] = held_[i];
    }
  }

 private:
  __device__ bool diagonal() const { return pair_.row == pair_.column; }
  __device__ int step_pixels() const { return diagonal() ? Traits::kStagePixels : Traits::kPanelPixels; }
  // Of a pixel's place in the stage: its entry in the step, and its channel block.
  __device__ int entry_of(int place) const { return diagonal() ? place : place % Traits::kPanelPixels; }
  __device__ int first_channel(int place) const {
    return (place < Traits::kPanelPixels ? pair_.row : pair_.column) * kBlock;
  }

  __device__ void load_indices() {
    if (walk_.done()) return;
    entry_ = walk_.entry(step_pixels());
    const int32_t* indices = plan_.indices + entry_;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) index_[i] = indices[entry_of(Traits::kAlongPixels ? column_ : row_ + i * kRows)];
  }

  __device__ int shared_offset() const {
    return column_ / Traits::kPanelPixels * Traits::kPanel + row_ * Traits::kStride + column_ % Traits::kPanelPixels;
  }

  __device__ void copy_along_pixels(T* panels) {
    const int channel = first_channel(column_) + row_;
    const T* from = image_ + channel * pixels_ + index_[0];
    T* to = panels + shared_offset();
    const int left = index_[0] >= 0 ? channels_ - channel : 0;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const bool valid = i * kRows < left;
      if constexpr (Traits::kThroughRegisters) {
        held_[i] = valid ? *from : from_float<T>(0.0f);
      } else {
        cp_async<4>(to + i * kRows * Traits::kStride, from, valid);
      }
      from += kRows * pixels_;
    }
  }

  __device__ void copy_along_channels(T* panels) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int place = row_ + i * kRows;
      const int channel = first_channel(place) + column_ * kVector;
      const T* from = image_ + static_cast<int64_t>(index_[i]) * channels_ + channel;
      T* to = panels + place / Traits::kPanelPixels * Traits::kPanel + place % Traits::kPanelPixels * Traits::kStride +
              column_ * kVector;
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

  const T* image_;
  const int channels_;
  const int64_t pixels_;
  const Plan& plan_;
  Walk walk_;
  const BlockPair pair_;
  const bool wide_;
  T* panels_;
  float* weights_;
  const int column_, row_;
  bool issued_ = false;
  int64_t entry_ = 0;
  int index_[kPixels];
  T held_[kHeld];
};

// The product of a warp: kTilesM x kTilesN tiles of 16 x 8.
//
// kSplit: for float32, 3xTF32: both operands are high + low, and all but low low is added up. For 16 bits, whose
// features are exact, it says that there are weights: the weighted left operand is high + low.
template <typename T, Layout kLayout, int kBlock, bool kSplit, bool kMean>
class WarpProduct {
  using Traits = GramTraits<T, kLayout, kBlock>;
  static constexpr int kTilesM = Traits::kTilesM;
  static constexpr int kTilesN = Traits::kTilesN;

 public:
  __device__ WarpProduct(int row, int column, bool writes_mean)
      : row_(row), column_(column), lane_(thread_index().x % 32), writes_mean_(writes_mean) {
    clear();
  }

  __device__ void add(const T* left, const T* right, const float* weights) {
    // Steps overlap, but for 3xTF32, which has enough to do in one and no registers for two.
#pragma unroll(kSplit && sizeof(T) == 4 ? 1 : Traits::kPanelPixels / Traits::kDepth)
    for (int k = 0; k < Traits::kPanelPixels; k += Traits::kDepth) {
      uint32_t high[kTilesM][4], low[kTilesM][4];
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        load_fragment<T, Traits::kAlongPixels, Traits::kStride, Operand::kLeft>(high[m], left, row_ + 16 * m, k, lane_);
        weigh(high[m], low[m], weights + k);
      }
#pragma unroll
      for (int n = 0; n < kTilesN; n += 2) {
        uint32_t both[4];
        load_fragment<T, Traits::kAlongPixels, Traits::kStride, Operand::kRight>(both, right, column_ + 8 * n, k,
                                                                                 lane_);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t right_high[2] = {both[2 * half], both[2 * half + 1]}, right_low[2];
          round(right_high, right_low);
#pragma unroll
          for (int m = 0; m < kTilesM; ++m) {
            multiply(sum_[m][n + half], high[m], low[m], right_high, right_low);
          }
        }
      }
      if constexpr (kMean) {  // by every warp: a branch would keep the steps from overlapping
        const uint32_t ones[2] = {one(), one()}, zeros[2] = {0, 0};
#pragma unroll
        for (int m = 0; m < kTilesM; ++m) multiply(mean_[m], high[m], low[m], ones, zeros);
      }
    }
  }

  // Writes the partial of the block and starts anew.
  __device__ void flush(float* partial, int warp) {
    float4* to = reinterpret_cast<float4*>(partial) + warp * kTilesM * kTilesN * 32 + lane_;
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int n = 0; n < kTilesN; ++n) {
        const float (&d)[4] = sum_[m][n];
        to[(m * kTilesN + n) * 32] = make_float4(d[0], d[1], d[2], d[3]);
      }
    if (kMean && writes_mean_ && lane_ % 4 == 0) {  // all columns are the same
      float* means = partial + PartialTraits<kBlock>::kMatrixTiles * 128 + row_ + lane_ / 4;
#pragma unroll
      for (int m = 0; m < kTilesM; ++m) {
        means[16 * m] = mean_[m][0];
        means[16 * m + 8] = mean_[m][2];
      }
    }
    clear();
  }

 private:
  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < kTilesM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mean_[m][i] = 0.0f;
#pragma unroll
        for (int n = 0; n < kTilesN; ++n) sum_[m][n][i] = 0.0f;
      }
  }

  // Weighs a left fragment and makes it ready for the tensor cores. Without weights float32 is multiplied by 1: cheaper
  // than a second kernel.
  __device__ void weigh(uint32_t (&high)[4], uint32_t (&low)[4], const float* weights) const {
    const int t = lane_ % 4;
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) high[i] = bit_cast<uint32_t>(bit_cast<float>(high[i]) * weights[t + i / 2 * 4]);
      round(high, low);
    } else if constexpr (kSplit) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* w = weights + 2 * t + i / 2 * 8;
        const Split split = split_pair<T>(unpack<T>(high[i], 0) * w[0], unpack<T>(high[i], 1) * w[1]);
        high[i] = split.high, low[i] = split.low;
      }
    }
  }

  // float32 to TF32, high and low if split; 16 bits are what the tensor cores take.
  template <int kCount>
  static __device__ void round(uint32_t (&high)[kCount], uint32_t (&low)[kCount]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const float value = bit_cast<float>(high[i]);
        if constexpr (kSplit) {
          const Split split = split_tf32(value);
          high[i] = split.high, low[i] = split.low;
        } else {
          high[i] = to_tf32(value);
        }
      }
    }
  }

  static __device__ uint32_t one() {
    if constexpr (sizeof(T) == 4) {
      return to_tf32(1.0f);
    } else {
      return pack(from_float<T>(1.0f), from_float<T>(1.0f));
    }
  }

  static __device__ void multiply(float (&d)[4], const uint32_t (&high)[4], const uint32_t (&low)[4],
                                  const uint32_t (&right_high)[2], const uint32_t (&right_low)[2]) {
    if constexpr (sizeof(T) == 2) {
      if constexpr (kSplit) mma_16bit<T>(d, low, right_high);
      mma_16bit<T>(d, high, right_high);
    } else if constexpr (kSplit) {
      mma_3xtf32(d, high, low, right_high, right_low);
    } else {
      mma_tf32(d, high, right_high);
    }
  }

  const int row_, column_, lane_;
  const bool writes_mean_;
  float sum_[kTilesM][kTilesN][4];
  float mean_[kTilesM][4];
};

// Grid: slots x pairs of channel blocks x images.
template <typename T, Layout kLayout, int kBlock, bool kSplit, bool kMean>
__global__ void __launch_bounds__(kThreads, kBlock == 64 ? 2 : 1)
    gram_partials(const T* features, int channels, int64_t pixels, Plan plan, Partition partition, bool wide,
                  float* partials) {
  using Traits = GramTraits<T, kLayout, kBlock>;
  const int slot = block_index().x;
  const int begin = slot * partition.tiles_per_slot;
  const int end = smaller(begin + partition.tiles_per_slot, plan.tiles);
  const BlockPair pair(block_index().y);
  const bool diagonal = pair.row == pair.column;
  const T* image = features + block_index().z * pixels * channels;
  partials += (static_cast<int64_t>(block_index().z) * partition.block_pairs + block_index().y) * partition.partials *
              PartialTraits<kBlock>::kFloats;

  T* panels = shared_memory<T>();
  float* weights = reinterpret_cast<float*>(panels + Traits::kStages * 2 * Traits::kPanel);
  if (plan.weights == nullptr) {
    for (int i = thread_index().x; i < Traits::kStages * Traits::kStagePixels; i += kThreads) weights[i] = 1.0f;
  }

  const int warp = thread_index().x / 32;
  const int row = warp % 4 * 16 * Traits::kTilesM, column = warp / 4 * 8 * Traits::kTilesN;
  // On the diagonal the upper triangle is the mirror of the lower, and a warp that lies wholly in it has nothing to do.
  const bool active = !diagonal || row + 16 * Traits::kTilesM > column;
  WarpProduct<T, kLayout, kBlock, kSplit, kMean> product(row, column, diagonal && column == 0);

  Walk walk(plan, begin, end, Plan::kTile / (diagonal ? Traits::kStagePixels : Traits::kPanelPixels));
  if (walk.done()) return;
  Gather<T, kLayout, kBlock> gather(image, channels, pixels, plan, walk, pair, wide, panels, weights);
#pragma unroll 1
  for (int stage = 0; stage < Traits::kStages - 1; ++stage) {
    gather.issue(stage);
    gather.finish(stage);
    cp_async_commit();
  }

  int stage = 0, group = walk.group(), group_begin = walk.tile();
  while (true) {
    if (walk.done() || walk.group() != group) {
      const int64_t number = partition.partial(slot, group, group_begin);
      if (active) product.flush(partials + number * PartialTraits<kBlock>::kFloats, warp);
      if (walk.done()) break;
      group = walk.group();
      group_begin = walk.tile();
    }
    cp_async_wait<Traits::kStages - 2>();
    barrier();  // this stage is there for all, and the one before is read by all and free
    const int free = (stage + Traits::kStages - 1) % Traits::kStages;
    gather.issue(free);
    if (active) {
      const T* left = panels + stage * 2 * Traits::kPanel;
      const T* right = left + Traits::kPanel;
      const float* stage_weights = weights + stage * Traits::kStagePixels;
      product.add(left, diagonal ? left : right, stage_weights);
      if (diagonal) product.add(right, right, stage_weights + Traits::kPanelPixels);
    }
    gather.finish(free);
    cp_async_commit();
    stage = (stage + 1) % Traits::kStages;
    walk.next();
  }
}

// What the second kernel makes of the sums: Gram matrices and means, or losses' sums of squares and differences.
struct GramResult {
  float* gram;           // [N, R, C, C]: G, or G - A in the loss form
  float* mean;           // [N, R, C], or null in the loss form
  const float* targets;  // A [R, C, C], or null
  float* squares;        // [N, R, tiles of all block pairs]: sums of (G - A)^2, or null
};

constexpr int kReduceWarps = 16;

// Adds the partials of one tile of 16 x 8 with `split` warps, each over every split-th partial, in a fixed order.
// Grid: tiles of all block pairs / (16 / split) x segments x images.
template <int kBlock>
__global__ void __launch_bounds__(32 * kReduceWarps)
    reduce_gram(const float* partials, int channels, Plan plan, Partition partition, int split, GramResult result) {
  using Traits = PartialTraits<kBlock>;
  float4* sums = shared_memory<float4>();
  const int lane = thread_index().x % 32, warp = thread_index().x / 32, part = warp % split;
  const int number = block_index().x * (kReduceWarps / split) + warp / split;  // of the tile
  const int segment = block_index().y;
  const int64_t image = block_index().z;
  const bool inside = number < partition.block_pairs * Traits::kTiles;
  const int tile = number % Traits::kTiles;

  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (inside) {
    const int64_t block = image * partition.block_pairs + number / Traits::kTiles;
    const float4* from =
        reinterpret_cast<const float4*>(partials + block * partition.partials * Traits::kFloats) + tile * 32 + lane;
    for (int pass = 0; pass < plan.passes; ++pass) {
      const int begin = plan.first_tile(pass, segment), end = plan.first_tile(pass, segment + 1);
      if (begin == end) continue;
      const int group = pass * (plan.segments + 1) + segment;
      const int last = (end - 1) / partition.tiles_per_slot;
#pragma unroll 8
      for (int slot = begin / partition.tiles_per_slot + part; slot <= last; slot += split) {
        const int64_t at = partition.partial(slot, group, begin);
        const float4 value = from[at * (Traits::kFloats / 4)];
        sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
      }
    }
  }
  sums[thread_index().x] = sum;
  barrier();
  if (part != 0 || !inside) return;
  for (int other = 1; other < split; ++other) {
    const float4 value = sums[thread_index().x + 32 * other];
    sum.x += value.x, sum.y += value.y, sum.z += value.z, sum.w += value.w;
  }

  const float mass = plan.mass[segment];
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
  const BlockPair pair(number / Traits::kTiles);
  const int64_t place = image * plan.segments + segment;
  if (tile == Traits::kMatrixTiles) {  // the mean: 4 channels a lane
    for (int i = 0; i < 4; ++i) {
      const int channel = pair.row * kBlock + lane * 4 + i;
      if (result.mean == nullptr || pair.row != pair.column || lane * 4 >= kBlock || channel >= channels) continue;
      result.mean[place * channels + channel] = mass > 0.0f ? values[i] / mass : 0.0f;
    }
  }

  float squares = 0.0f;
  if (tile < Traits::kMatrixTiles) {
    const int64_t matrix = static_cast<int64_t>(channels) * channels;
    for (int i = 0; i < 4; ++i) {
      const int64_t row = pair.row * kBlock + Traits::row(tile) + lane / 4 + i / 2 * 8;
      const int64_t column = pair.column * kBlock + Traits::column(tile) + lane % 4 * 2 + i % 2;
      if (row >= channels || column > row) continue;  // the upper triangle is the mirror of the lower
      float value = mass > 0.0f ? values[i] / mass : 0.0f;
      if (result.targets != nullptr) value -= result.targets[segment * matrix + row * channels + column];
      result.gram[place * matrix + row * channels + column] = value;
      result.gram[place * matrix + column * channels + row] = value;
      squares += row == column ? value * value : 2.0f * value * value;
    }
  }
  if (result.squares == nullptr) return;
  squares = warp_sum(squares);
  if (lane == 0) result.squares[place * partition.block_pairs * Traits::kTiles + number] = squares;
}

// losses[n, r] = factors[r] * the sum of its squares. Grid: segments x images; one warp each, a fixed order.
static __global__ void reduce_losses(const float* squares, int count, const float* factors, float* losses) {
  const int64_t place = static_cast<int64_t>(block_index().y) * grid_size().x + block_index().x;
  float sum = 0.0f;
#pragma unroll 8
  for (int i = thread_index().x; i < count; i += 32) sum += squares[place * count + i];
  sum = warp_sum(sum);
  if (thread_index().x == 0) losses[place] = factors[block_index().x] * sum;
}

inline int gram_tiles(const Partition& partition, int channels) {
  return partition.block_pairs * (channels <= 64 ? PartialTraits<64>::kTiles : PartialTraits<128>::kTiles);
}

// Floats of workspace for a launch of either form.
inline int64_t gram_workspace(int batch, int channels, const Plan& plan) {
  const Partition partition = make_partition(batch, channels, plan);
  const int64_t tiles = static_cast<int64_t>(batch) * gram_tiles(partition, channels);
  return tiles * 128 * partition.partials + tiles * plan.segments;
}

template <typename T, Layout kLayout, int kBlock>
void launch_gram_partials(const FeatureMap<T>& features, const Plan& plan, const Partition& partition, bool split,
                          bool with_mean, float* partials, cudaStream_t stream) {
  const auto kernel =
      split
          ? (with_mean ? gram_partials<T, kLayout, kBlock, true, true> : gram_partials<T, kLayout, kBlock, true, false>)
          : (with_mean ? gram_partials<T, kLayout, kBlock, false, true>
                       : gram_partials<T, kLayout, kBlock, false, false>);
  const bool wide = is_aligned(features.data, features.channels * static_cast<int64_t>(sizeof(T)));
  INTARSIA_LAUNCH(kernel, dim3(partition.slots, partition.block_pairs, features.batch), dim3(kThreads),
                  (GramTraits<T, kLayout, kBlock>::kSharedBytes), stream, features.data, features.channels,
                  features.pixels, plan, partition, wide, partials);
}

template <typename T, int kBlock>
void launch_gram_blocks(const FeatureMap<T>& features, const Plan& plan, const Partition& partition, bool exact,
                        const GramResult& result, float* partials, cudaStream_t stream) {
  const bool split = sizeof(T) == 4 ? exact : plan.weights != nullptr;
  const auto launch = features.layout == Layout::kNchw ? launch_gram_partials<T, Layout::kNchw, kBlock>
                                                       : launch_gram_partials<T, Layout::kChannelsLast, kBlock>;
  if (plan.tiles > 0) launch(features, plan, partition, split, result.mean != nullptr, partials, stream);

  // As many warps to a tile as give each at least a few of a segment's partials, on average.
  const int share = ceil_div(partition.slots, 4 * plan.segments);
  int warps = 1;
  while (warps < share && warps < kReduceWarps) warps *= 2;
  const auto kernel = reduce_gram<kBlock>;
  const int tiles = partition.block_pairs * PartialTraits<kBlock>::kTiles;
  INTARSIA_LAUNCH(kernel, dim3(ceil_div(tiles, kReduceWarps / warps), plan.segments, features.batch),
                  dim3(32 * kReduceWarps), 32 * kReduceWarps * sizeof(float4), stream, partials, features.channels,
                  plan, partition, warps, result);
}

// gram [N, R, C, C] and mean [N, R, C]. `exact`: 3xTF32 for float32. workspace: of gram_workspace floats.
template <typename T>
void launch_masked_gram(const FeatureMap<T>& features, const Plan& plan, bool exact, float* workspace, float* gram,
                        float* mean, cudaStream_t stream) {
  if (features.batch == 0 || features.channels == 0 || plan.segments == 0) return;
  const Partition partition = make_partition(features.batch, features.channels, plan);
  const auto launch = features.channels <= 64 ? launch_gram_blocks<T, 64> : launch_gram_blocks<T, 128>;
  launch(features, plan, partition, exact, GramResult{gram, mean, nullptr, nullptr}, workspace, stream);
}

// losses[n, r] = factors[r] |G - A|^2 and difference = G - A, for targets A [R, C, C].
template <typename T>
void launch_masked_gram_loss(const FeatureMap<T>& features, const Plan& plan, const float* targets,
                             const float* factors, bool exact, float* workspace, float* losses, float* difference,
                             cudaStream_t stream) {
  if (features.batch == 0 || features.channels == 0 || plan.segments == 0) return;
  const Partition partition = make_partition(features.batch, features.channels, plan);
  const int tiles = gram_tiles(partition, features.channels);
  float* squares = workspace + static_cast<int64_t>(features.batch) * tiles * 128 * partition.partials;
  const auto launch = features.channels <= 64 ? launch_gram_blocks<T, 64> : launch_gram_blocks<T, 128>;
  launch(features, plan, partition, exact, GramResult{difference, nullptr, targets, squares}, workspace, stream);
  INTARSIA_LAUNCH(reduce_losses, dim3(plan.segments, features.batch), dim3(32), 0, stream, squares, tiles, factors,
                  losses);
}

}  // namespace intarsia

// What the Gram kernels share: the plan, and the operands of their tensor-core products.
#pragma once

#include <cstdint>
#include <cstring>

#include "device.cuh"

namespace intarsia {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

enum class Layout { kNchw, kChannelsLast };

// Features [N, C, H, W] as they lie in memory.
template <typename T>
struct FeatureMap {
  const T* data;
  int batch;
  int channels;
  int64_t pixels;  // H W
  Layout layout;
};

// Where the masks of a layer are not zero: the pixels of each segment, in tiles of 64 entries (server ops/plan.py).
struct Plan {
  static constexpr int kTile = 64;  // entries of a tile

  const int32_t* indices;        // [tiles, 64], -1 in padding
  const float* weights;          // [tiles, 64], or null: all 1
  const int32_t* tile_segments;  // [tiles]; the number `segments` stands for the pixels of none
  const int32_t* group_tiles;    // [passes, segments + 2]: first tile of each (pass, segment), and the pass's end
  const float* mass;             // [segments]
  int tiles;
  int passes;
  int segments;

  __host__ __device__ int first_tile(int pass, int segment) const {
    return group_tiles[static_cast<int64_t>(pass) * (segments + 2) + segment];
  }
  __host__ __device__ int pass_end(int pass) const { return first_tile(pass, segments + 1); }
};

template <typename I>
__host__ __device__ constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

template <typename I>
__host__ __device__ constexpr I smaller(I a, I b) {
  return b < a ? b : a;
}

template <typename I>
__host__ __device__ constexpr I larger(I a, I b) {
  return a < b ? b : a;
}

// Whether every row may be copied 16 bytes at a time.
inline bool is_aligned(const void* pointer, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && row_bytes % 16 == 0;
}

template <typename To, typename From>
__device__ To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

// Two 16-bit numbers in a register, as the tensor cores take them: the first in the low half.
template <typename T>
__device__ uint32_t pack(T first, T second) {
  return bit_cast<uint16_t>(first) | static_cast<uint32_t>(bit_cast<uint16_t>(second)) << 16;
}

template <typename T>
__device__ float unpack(uint32_t pair, int i) {
  return to_float(bit_cast<T>(static_cast<uint16_t>(pair >> (16 * i))));
}

// How four 8 x 8 matrices make up 16 rows by 32 bytes of k (8 floats, 16 of 16 bits): as a left operand of mma, one
// tile of 16 rows, or as a right one, two of 8 columns, of which each wants its two registers side by side.
enum class Operand { kLeft, kRight };

// Reads an operand's 16 rows from shared memory, spread over the warp as mma wants them. With g = lane / 4 and
// t = lane % 4, r[0] is row g at k = t; of a left operand r[1] is row g + 8 and r[2] 16 bytes further along k, of a
// right one the other way about; r[3] is both. For 16 bits each is the pair k = 2t, 2t + 1. kAlongK: elements of one
// row lie side by side, [row][k]; otherwise [k][row]. kStride: elements from line to line.
template <typename T, bool kAlongK, int kStride, Operand kOperand>
__device__ void load_fragment(uint32_t (&r)[4], const T* panel, int row, int k, int lane) {
  constexpr bool kLeft = kOperand == Operand::kLeft;
  constexpr int kVector = 16 / sizeof(T);
  // ldmatrix: this lane's line is of matrix lane / 8.
  const int row_half = kLeft ? lane / 8 % 2 : lane / 16, k_half = kLeft ? lane / 16 : lane / 8 % 2;
  if constexpr (kAlongK) {
    ldmatrix_x4(r, panel + (row + row_half * 8 + lane % 8) * kStride + k + k_half * kVector);
  } else if constexpr (sizeof(T) == 2) {
    ldmatrix_x4_trans(r, panel + (k + k_half * 8 + lane % 8) * kStride + row + row_half * 8);
  } else {  // ldmatrix cannot transpose 4-byte elements
    const T* first = panel + (k + lane % 4) * kStride + row + lane / 4;
    r[0] = bit_cast<uint32_t>(first[0]);
    r[kLeft ? 1 : 2] = bit_cast<uint32_t>(first[8]);
    r[kLeft ? 2 : 1] = bit_cast<uint32_t>(first[4 * kStride]);
    r[3] = bit_cast<uint32_t>(first[4 * kStride + 8]);
  }
}

// A number as the sum of two that the tensor cores can take.
struct Split {
  uint32_t high, low;
};

__device__ inline Split split_tf32(float value) {
  const uint32_t high = to_tf32(value) & 0xffffe000;  // as the tensor cores will see it
  return {high, to_tf32(value - bit_cast<float>(high))};
}

// d += a b with both split: all but low low, about as exact as float32. The tensor cores cut off what does not fit into
// their sums, always towards zero, and over thousands of pixels that adds up: here each product starts at zero, and the
// sum is rounded to nearest.
__device__ inline void mma_3xtf32(float (&d)[4], const uint32_t (&a_high)[4], const uint32_t (&a_low)[4],
                                  const uint32_t (&b_high)[2], const uint32_t (&b_low)[2]) {
  float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mma_tf32(part, a_low, b_high);
  mma_tf32(part, a_high, b_low);
  mma_tf32(part, a_high, b_high);
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] += part[i];
}

template <typename T>
__device__ Split split_pair(float first, float second) {
  const T high_first = from_float<T>(first), high_second = from_float<T>(second);
  return {pack(high_first, high_second),
          pack(from_float<T>(first - to_float(high_first)), from_float<T>(second - to_float(high_second)))};
}

}  // namespace intarsia

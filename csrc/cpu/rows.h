// Loops over one row of memory: the only code here that has to be vectorised. Each is compiled for several instruction
// sets and the processor's own is chosen at load time, so that one build serves every machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define INTARSIA_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define INTARSIA_CLONES
#endif

namespace intarsia {

// bfloat16 as it lies in memory.
struct Bfloat16 {
  uint16_t bits;
};

namespace {

// A value as a summand; bfloat16 is the upper half of a float32.
template <typename T>
inline auto load(T value) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
  } else {
    return value;
  }
}

// A sum as a value; to nearest, ties to even, NaN stays NaN.
template <typename T, typename A>
inline T store(A value) {
  if constexpr (std::is_same_v<T, Bfloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return {static_cast<uint16_t>(value != value ? 0x7fc0 : rounded)};
  } else {
    return value;
  }
}

// out = in
template <typename T, typename S>
INTARSIA_CLONES void copy_row(T* __restrict out, const S* __restrict in, int64_t count) {
  if constexpr (std::is_same_v<T, S>) {
    std::memcpy(out, in, count * sizeof(T));
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = store<T>(load(in[i]));
  }
}

// out += in
template <typename T>
INTARSIA_CLONES void add_row(T* __restrict out, const T* __restrict in, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += in[i];
}

// out = in * factor
template <typename T>
INTARSIA_CLONES void scale_row(T* out, const T* in, T factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = in[i] * factor;
}

// out = in * factors
template <typename T>
INTARSIA_CLONES void multiply_row(T* __restrict out, const T* __restrict in, const T* __restrict factors,
                                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = in[i] * factors[i];
}

// Sums keep 16 lanes: an order that vectorises and is the same on every run.
template <typename T>
INTARSIA_CLONES T sum_row(const T* in, int64_t count) {
  T lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int lane = 0; lane < 16; ++lane) lanes[lane] += in[i + lane];
  for (; i < count; ++i) lanes[0] += in[i];
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

// values = values * factor - target; the sum of the results' squares.
template <typename T>
INTARSIA_CLONES T difference_row(T* __restrict values, const T* __restrict target, T factor, int64_t count) {
  T lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) {
      const T value = values[i + lane] * factor - target[i + lane];
      values[i + lane] = value;
      lanes[lane] += value * value;
    }
  }
  for (; i < count; ++i) {
    values[i] = values[i] * factor - target[i];
    lanes[0] += values[i] * values[i];
  }
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  return sum;
}

// out = weights (in * factor + shift) with the weights of the row's pixels (null: 1); `add` to what is there.
template <typename T, typename P, typename A>
INTARSIA_CLONES void store_channel(T* __restrict out, const P* __restrict in, A factor, A shift,
                                   const A* __restrict weights, bool add, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const A value = (load(in[i]) * factor + shift) * (weights == nullptr ? A(1) : weights[i]);
    out[i] = store<T>(add ? static_cast<A>(load(out[i]) + value) : value);
  }
}

// out = in * factor + shifts (null: 0), along one pixel's channels; `add` to what is there.
template <typename T, typename P, typename A>
INTARSIA_CLONES void store_pixel(T* __restrict out, const P* __restrict in, A factor, const A* __restrict shifts,
                                 A shift_factor, bool add, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const A value = load(in[i]) * factor + (shifts == nullptr ? A(0) : shifts[i] * shift_factor);
    out[i] = store<T>(add ? static_cast<A>(load(out[i]) + value) : value);
  }
}

// Square matrices are transposed in tiles of one cache line a row: rows that are a power of two apart compete for the
// same few lines of the cache.
constexpr int64_t kSide = 16;

// out = transpose of in, 4 x 4.
template <typename T>
inline void transpose_4x4(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
  typedef T Vector __attribute__((vector_size(4 * sizeof(T))));
  Vector rows[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], in + i * in_stride, sizeof(Vector));
  const Vector low01 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const Vector high01 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const Vector low23 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const Vector high23 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) std::memcpy(out + i * out_stride, &rows[i], sizeof(Vector));
}

// out = transpose of in, [rows, columns], both at most kSide.
template <typename T>
inline void transpose_tile(const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t rows, int64_t columns) {
  if (rows == kSide && columns == kSide) {
    for (int64_t i = 0; i < kSide; i += 4)
      for (int64_t j = 0; j < kSide; j += 4)
        transpose_4x4(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
    return;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) out[j * out_stride + i] = in[i * in_stride + j];
}

inline int64_t at_most_side(int64_t left) { return left < kSide ? left : kSide; }

// out = in, past the cache where that can be done: what is written once and read much later would first be read from
// memory, to fill its lines. Followed by `streamed`, before other threads read.
template <typename T>
inline void stream_row(T* out, const T* in, int64_t count) {
#if defined(__SSE2__)
  constexpr int64_t kStep = 16 / sizeof(T);
  if (reinterpret_cast<uintptr_t>(out) % 16 == 0 && count % kStep == 0) {
    for (int64_t i = 0; i < count; i += kStep)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
    return;
  }
#endif
  std::memcpy(out, in, count * sizeof(T));
}

inline void streamed() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Copies a block of the lower triangle of a square matrix to its mirror image; a block on the diagonal, the part below
// the diagonal. Blocks begin at multiples of their side, so that tiles lie on the diagonal or off it.
template <typename T>
INTARSIA_CLONES void mirror_block(T* matrix, int64_t size, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  for (int64_t r = row; r < row + rows; r += kSide) {
    const int64_t tile_rows = at_most_side(row + rows - r);
    for (int64_t c = column; c < column + columns && c < r; c += kSide) {
      const int64_t tile_columns = at_most_side(column + columns - c);
      T tile[kSide * kSide];
      transpose_tile(matrix + r * size + c, size, tile, kSide, tile_rows, tile_columns);
      for (int64_t j = 0; j < tile_columns; ++j) stream_row(matrix + (c + j) * size + r, tile + j * kSide, tile_rows);
    }
    if (row != column) continue;
    for (int64_t i = 1; i < tile_rows; ++i)
      for (int64_t j = 0; j < i; ++j) matrix[(r + j) * size + r + i] = matrix[(r + i) * size + r + j];
  }
  streamed();
}

// out = matrix + its transpose.
template <typename T>
INTARSIA_CLONES void add_transposed(T* __restrict out, const T* __restrict matrix, int64_t size) {
  for (int64_t r = 0; r < size; r += kSide) {
    const int64_t rows = at_most_side(size - r);
    for (int64_t c = 0; c <= r; c += kSide) {
      const int64_t columns = at_most_side(size - c);
      T tile[kSide * kSide];
      transpose_tile(matrix + c * size + r, size, tile, kSide, columns, rows);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) tile[i * kSide + j] += matrix[(r + i) * size + c + j];
      for (int64_t i = 0; i < rows; ++i) std::memcpy(out + (r + i) * size + c, tile + i * kSide, columns * sizeof(T));
      transpose_tile(tile, kSide, out + c * size + r, size, rows, columns);
    }
  }
}

}  // namespace
}  // namespace intarsia

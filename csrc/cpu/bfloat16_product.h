// Products of bfloat16 panels with their own transposes, summed in float32, on the processor's bfloat16 unit. torch has
// no such product: its own rounds every sum to bfloat16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "rows.h"

// INTARSIA_PORTABLE: as where there is no such unit.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(INTARSIA_PORTABLE)
#include <immintrin.h>
#define INTARSIA_BFLOAT16_UNIT __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace intarsia {
namespace {

inline bool has_bfloat16_unit() {
#ifdef INTARSIA_BFLOAT16_UNIT
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

#ifdef INTARSIA_BFLOAT16_UNIT

// The unit multiplies pairs: a lane of 32 bits holds a channel's values at two pixels. A panel holds the pairs of
// 16 channels side by side, [channels / 16][pairs][16], so that a product reads it in the order in which it lies.
constexpr int64_t kLanes = 16;

// Lanes are the sums of 12 channels of the left panel by 32 of the right one: 24 registers of 32.
constexpr int64_t kProductRows = 12;
constexpr int64_t kProductColumns = 32;

// Channels of a panel with room for whole products; those beyond `channels` hold anything.
inline int64_t panel_channels(int64_t channels) {
  return (channels + kProductColumns - 1) / kProductColumns * kProductColumns;
}

// Two pixels of 16 channels, side by side.
INTARSIA_BFLOAT16_UNIT inline __m512i pair_lanes(__m256i even, __m256i odd) {
  const __m512i low = _mm512_cvtepu16_epi32(even);
  const __m512i high = _mm512_cvtepu16_epi32(odd);
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

INTARSIA_BFLOAT16_UNIT inline __m256i scaled_lanes(__m256i values, float factor) {
  const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
  return (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(wide, _mm512_set1_ps(factor)));
}

// Writes pixels `even` and `odd` (null: zeros) as the panel's pair number `pair` of `pairs`; with `weighted`, also
// their product with a weight each.
INTARSIA_BFLOAT16_UNIT inline void pack_pair(const Bfloat16* even, const Bfloat16* odd, int64_t channels, int64_t pair,
                                             int64_t pairs, uint32_t* panel, const float* weights, uint32_t* weighted) {
  for (int64_t c = 0; c < channels; c += kLanes) {
    const __mmask16 mask = channels - c < kLanes ? (1u << (channels - c)) - 1 : 0xffff;
    const __m256i first = _mm256_maskz_loadu_epi16(mask, even + c);
    const __m256i second = odd == nullptr ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi16(mask, odd + c);
    const int64_t at = (c / kLanes * pairs + pair) * kLanes;
    _mm512_storeu_si512(panel + at, pair_lanes(first, second));
    if (weighted != nullptr)
      _mm512_storeu_si512(weighted + at, pair_lanes(scaled_lanes(first, weights[0]),
                                                    scaled_lanes(second, odd == nullptr ? 0.0f : weights[1])));
  }
}

// sum[i, j] += (or =) sum over pairs of left channel row + i by right channel column + j, for `rows` by `columns` of
// them; `stride` between rows of the sum.
template <int kRows>
INTARSIA_BFLOAT16_UNIT void multiply_tile(const uint32_t* left, const uint32_t* right, int64_t pairs, int64_t row,
                                          int64_t column, float* sum, int64_t stride, int64_t columns, bool add) {
  __m512 low[kRows], high[kRows];
  for (int i = 0; i < kRows; ++i) low[i] = high[i] = _mm512_setzero_ps();
  const uint32_t* first = right + column * pairs;
  const uint32_t* second = first + kLanes * pairs;
  const uint32_t* rows[kRows];
  for (int i = 0; i < kRows; ++i) rows[i] = left + (row + i) / kLanes * kLanes * pairs + (row + i) % kLanes;
  for (int64_t k = 0; k < pairs * kLanes; k += kLanes) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(first + k);
    const __m512bh b1 = (__m512bh)_mm512_loadu_si512(second + k);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(static_cast<int>(rows[i][k]));
      low[i] = _mm512_dpbf16_ps(low[i], b0, a);
      high[i] = _mm512_dpbf16_ps(high[i], b1, a);
    }
  }
  const __mmask16 mask0 = columns < kLanes ? (1u << columns) - 1 : 0xffff;
  const int64_t rest = columns - kLanes;
  const __mmask16 mask1 = rest <= 0 ? 0 : rest < kLanes ? (1u << rest) - 1 : 0xffff;
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    float* out = sum + i * stride;
    if (add) {
      low[i] = _mm512_add_ps(low[i], _mm512_maskz_loadu_ps(mask0, out));
      high[i] = _mm512_add_ps(high[i], _mm512_maskz_loadu_ps(mask1, out + kLanes));
    }
    _mm512_mask_storeu_ps(out, mask0, low[i]);
    _mm512_mask_storeu_ps(out + kLanes, mask1, high[i]);
  }
}

using MultiplyTile = void (*)(const uint32_t*, const uint32_t*, int64_t, int64_t, int64_t, float*, int64_t, int64_t,
                              bool);

template <int... kRows>
MultiplyTile multiply_tile_of(int64_t rows, std::integer_sequence<int, kRows...>) {
  static constexpr MultiplyTile kTiles[] = {&multiply_tile<kRows + 1>...};
  return kTiles[rows - 1];
}

// Rows begin to end - 1 of the lower triangle of the sum [channels, channels]; what lies above the diagonal is written
// to or not.
inline void multiply_rows(const uint32_t* left, const uint32_t* right, int64_t pairs, int64_t begin, int64_t end,
                          float* sum, int64_t channels, bool add) {
  for (int64_t row = begin; row < end; row += kProductRows) {
    const int64_t rows = std::min(kProductRows, end - row);
    const MultiplyTile multiply = multiply_tile_of(rows, std::make_integer_sequence<int, kProductRows>());
    for (int64_t column = 0; column < row + rows; column += kProductColumns)
      multiply(left, right, pairs, row, column, sum + row * channels + column, channels, channels - column, add);
  }
}

#endif

}  // namespace
}  // namespace intarsia

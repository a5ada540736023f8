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

// Products with a factor as the sum of two bfloat16 values: one alone would round away what its features hold.
struct SplitLanes {
  __m256i high, low;
};

INTARSIA_BFLOAT16_UNIT inline SplitLanes scaled_lanes(__m256i values, float factor) {
  const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
  const __m512 product = _mm512_mul_ps(wide, _mm512_set1_ps(factor));
  const __m256i high = (__m256i)_mm512_cvtneps_pbh(product);
  const __m512 rounded = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
  return {high, (__m256i)_mm512_cvtneps_pbh(_mm512_sub_ps(product, rounded))};
}

// Writes pixels `even` and `odd` (null: zeros) as the panel's pair number `pair` of `pairs`; with `high` and `low`,
// also their products with a weight each, split in two.
INTARSIA_BFLOAT16_UNIT inline void pack_pair(const Bfloat16* even, const Bfloat16* odd, int64_t channels, int64_t pair,
                                             int64_t pairs, uint32_t* panel, const float* weights, uint32_t* high,
                                             uint32_t* low) {
  int64_t c = 0;
  if (weights == nullptr && odd != nullptr) {
    // Values 0, 32, 1, 33, ... of two registers: a lane of each pixel in turn.
    const __m512i first_half = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38,
                                                6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second_half = _mm512_add_epi16(first_half, _mm512_set1_epi16(16));
    for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
      const __m512i first = _mm512_loadu_si512(even + c);
      const __m512i second = _mm512_loadu_si512(odd + c);
      const int64_t at = (c / kLanes * pairs + pair) * kLanes;
      _mm512_storeu_si512(panel + at, _mm512_permutex2var_epi16(first, first_half, second));
      _mm512_storeu_si512(panel + at + pairs * kLanes, _mm512_permutex2var_epi16(first, second_half, second));
    }
  }
  for (; c < channels; c += kLanes) {
    const __mmask16 mask = channels - c < kLanes ? (1u << (channels - c)) - 1 : 0xffff;
    const __m256i first = _mm256_maskz_loadu_epi16(mask, even + c);
    const __m256i second = odd == nullptr ? _mm256_setzero_si256() : _mm256_maskz_loadu_epi16(mask, odd + c);
    const int64_t at = (c / kLanes * pairs + pair) * kLanes;
    _mm512_storeu_si512(panel + at, pair_lanes(first, second));
    if (weights == nullptr) continue;
    const SplitLanes one = scaled_lanes(first, weights[0]);
    const SplitLanes other = scaled_lanes(second, odd == nullptr ? 0.0f : weights[1]);
    _mm512_storeu_si512(high + at, pair_lanes(one.high, other.high));
    _mm512_storeu_si512(low + at, pair_lanes(one.low, other.low));
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

// A symmetric matrix for products with pixels: bfloat16 values of two rows side by side, [columns / 32][rows / 2][32].
INTARSIA_BFLOAT16_UNIT inline void pack_matrix(const float* matrix, int64_t channels, float factor, uint32_t* packed) {
  const __m512 scale = _mm512_set1_ps(factor);
  const auto rounded = [&](const float* from) INTARSIA_BFLOAT16_UNIT {
    return (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(from), scale));
  };
  for (int64_t column = 0; column < channels; column += kProductColumns)
    for (int64_t row = 0; row < channels; row += 2)
      for (int64_t half = 0; half < kProductColumns; half += kLanes, packed += kLanes) {
        const float* from = matrix + row * channels + column + half;
        _mm512_storeu_si512(packed, pair_lanes(rounded(from), rounded(from + channels)));
      }
}

// For each of kRows pixels, a row of `channels` bfloat16 values: 32 columns of their product with the packed matrix,
// times the pixel's weight (null: 1), written to or added to `out`.
template <int kRows>
INTARSIA_BFLOAT16_UNIT void multiply_pixels(const Bfloat16* features, const int32_t* pixels, const float* weights,
                                            const uint32_t* matrix, int64_t channels, int64_t column, Bfloat16* out,
                                            bool add) {
  __m512 low[kRows], high[kRows];
  const char* rows[kRows];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    low[i] = high[i] = _mm512_setzero_ps();
    rows[i] = reinterpret_cast<const char*>(features + pixels[i] * channels);
  }
  const uint32_t* tile = matrix + column * (channels / 2);
  for (int64_t k = 0; k < channels / 2; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(tile + k * kProductColumns);
    const __m512bh b1 = (__m512bh)_mm512_loadu_si512(tile + k * kProductColumns + kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      int32_t pair;
      std::memcpy(&pair, rows[i] + k * sizeof(pair), sizeof(pair));
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
      low[i] = _mm512_dpbf16_ps(low[i], b0, a);
      high[i] = _mm512_dpbf16_ps(high[i], b1, a);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    Bfloat16* to = out + pixels[i] * channels + column;
    if (weights != nullptr) {
      const __m512 weight = _mm512_set1_ps(weights[i]);
      low[i] = _mm512_mul_ps(low[i], weight);
      high[i] = _mm512_mul_ps(high[i], weight);
    }
    if (add) {
      const __m512i before = _mm512_loadu_si512(to);
      const auto wide = [](__m256i values) INTARSIA_BFLOAT16_UNIT {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
      };
      low[i] = _mm512_add_ps(low[i], wide(_mm512_castsi512_si256(before)));
      high[i] = _mm512_add_ps(high[i], wide(_mm512_extracti64x4_epi64(before, 1)));
    }
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high[i], low[i]));
  }
}

using MultiplyPixels = void (*)(const Bfloat16*, const int32_t*, const float*, const uint32_t*, int64_t, int64_t,
                                Bfloat16*, bool);

template <int... kRows>
MultiplyPixels multiply_pixels_of(int64_t rows, std::integer_sequence<int, kRows...>) {
  static constexpr MultiplyPixels kTiles[] = {&multiply_pixels<kRows + 1>...};
  return kTiles[rows - 1];
}

#endif

}  // namespace
}  // namespace intarsia

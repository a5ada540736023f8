// What those kernels share that go over memory number by number: wide accesses, and sums in a fixed order.
#pragma once

#include "operands.cuh"

namespace intarsia {

// Numbers side by side that are read and written as one.
template <typename T, int kCount>
struct alignas(kCount * sizeof(T)) Vector {
  T values[kCount];
};

// Sum of a block's threads, in thread 0. shared: kWarps floats.
__device__ inline float block_sum(float value, float* shared) {
  value = warp_sum(value);
  if (thread_index().x % 32 == 0) shared[thread_index().x / 32] = value;
  barrier();
  float sum = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}

constexpr size_t kBlockSumBytes = kWarps * sizeof(float);

// result = scale * the sum of the numbers. One block.
static __global__ void scaled_sum(const float* numbers, int count, float scale, float* result) {
  float sum = 0.0f;
#pragma unroll 8
  for (int i = thread_index().x; i < count; i += kThreads) sum += numbers[i];
  sum = block_sum(sum, shared_memory<float>());
  if (thread_index().x == 0) *result = scale * sum;
}

}  // namespace intarsia

// The machine as the kernels see it. Everything that is PTX, a launch or a vendor type goes through this file, so that
// the kernels themselves are plain C++: nvcc compiles them with the bodies below, and a host compiler compiles the very
// same source with the bodies of the emulator, which runs it without a GPU.
//
// Both sides define: __global__, __device__, __host__, __forceinline__, __launch_bounds__, __restrict__, cudaStream_t,
// uint2, uint4, float2, float4 (aligned to their size), dim3, and in namespace intarsia the functions below.
#pragma once

#ifdef INTARSIA_EMULATOR
#include "../tests/emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

// Launches a kernel and reports a bad launch at once. More than 48 KiB of shared memory have to be asked for.
#define INTARSIA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                            \
  do {                                                                                                             \
    const int intarsia_bytes = static_cast<int>(shared_bytes);                                                     \
    if (intarsia_bytes > 48 * 1024) {                                                                              \
      ::intarsia::check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, intarsia_bytes), \
                        #kernel);                                                                                  \
    }                                                                                                              \
    kernel<<<grid, block, intarsia_bytes, stream>>>(__VA_ARGS__);                                                  \
    ::intarsia::check(cudaGetLastError(), #kernel);                                                                \
  } while (false)

namespace intarsia {

using Bfloat16 = __nv_bfloat16;
using Half = __half;

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

__device__ inline uint3 thread_index() { return threadIdx; }
__device__ inline uint3 block_index() { return blockIdx; }
__device__ inline dim3 block_size() { return blockDim; }
__device__ inline dim3 grid_size() { return gridDim; }

// float <-> storage type, rounding to nearest even.
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(Half value) { return __half2float(value); }
template <typename T>
__device__ T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline Bfloat16 from_float<Bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline Half from_float<Half>(float value) {
  return __float2half_rn(value);
}

// The block's dynamic shared memory, 16-byte aligned. Kernels use no other shared memory.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ uint4 intarsia_shared[];
  return reinterpret_cast<T*>(intarsia_shared);
}

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies kBytes from global to shared memory in the background; writes zeros, and reads nothing, when not valid.
template <int kBytes>
__device__ void cp_async(void* shared, const void* global, bool valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {  // .cg: past L1, where a copy that is read once would only push out others
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(bytes)
                 : "memory");
  }
}

// Closes this thread's group of copies.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most the kPending newest of this thread's groups are under way. Others see them after a barrier.
template <int kPending>
__device__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

__device__ inline void barrier() { __syncthreads(); }

// Rounds to TF32 (10 bits of mantissa), ties away from zero. The tensor cores do not look at the 13 low bits, so that
// half a unit is all that has to be added. The same as cvt.rna.tf32, but one instruction instead of two on sm_90: the
// maximum keeps the NaN that is all ones, and what the sum makes of infinity the tensor cores still take for infinity.
__device__ inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  return max(static_cast<int>(bits + 0x1000), static_cast<int>(bits));
}

// d += a b for one 16 x 8 tile; a is 16 x 8 and b 8 x 8 (tf32), or a is 16 x 16 and b 16 x 8 (16 bits).
__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <typename T>
__device__ void mma_16bit(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ inline void mma_16bit<Bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ inline void mma_16bit<Half>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 16 byte matrices from shared memory: lane l gives the address of row l % 8 of matrix l / 8, 16-byte aligned,
// and gets 4 bytes of each, from row l / 4 at byte 4 (l % 4); transposed: 2-byte column l / 4, rows 2 (l % 4) and + 1.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

// Sum over the warp, the same in all 32 lanes; always added in the same order.
__device__ inline float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

}  // namespace intarsia

#endif

// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Lets a C++ compiler take a CUDA file and runs its kernels on the CPU, in place of CUDA's header of this name. For
// tests: slow, and only what `wkv7.cu` uses.
//
// The threads of a block are fibers on one thread of the CPU. A fiber runs until it has to wait for others: for its
// block at __syncthreads, for its warp at a shuffle. Where kernels go wrong without failing on a GPU every time, they
// fail here: shared memory is NaN when a block starts, too little of it is an error, threads that wait at different
// barriers are one, and each warp runs as far ahead of the others as it can, the last one first where
// `cuda_on_host_reversed` is set, which shows a barrier that is missing.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using __half = _Float16;
inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return static_cast<__half>(x); }

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof x);
  return {uint16_t(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// ------------------------------------------------------------------------------------------------------------ fibers

constexpr size_t kMaxSharedBytes = 99 * 1024;  // of a block on sm_86 and sm_89, the least from sm_80 on
constexpr size_t kStackBytes = 64 * 1024;
constexpr int kLanesOfWarp = 32;

alignas(16) float4 shared_memory[kMaxSharedBytes / sizeof(float4)];
dim3 threadIdx(0), blockIdx(0), blockDim(0);

extern "C" {
int cuda_on_host_reversed = 0;
}

enum class Waits { kNot, kForWarp, kForBlock, kFinished };

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  bool started = false;
  Waits waits = Waits::kNot;
  int shuffles = 0;
  float given[2];  // in a shuffle; in turn, so that nobody overwrites what has not been read
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
};

std::vector<Fiber> fibers;
jmp_buf scheduler;
void (*run_thread)(const void*);
const void* run_argument;

inline Fiber& current() { return fibers[threadIdx.x]; }

// Saving the place by `_setjmp` costs no system call, which swapcontext would, a million times a test.
inline void wait(Waits waits) {
  current().waits = waits;
  if (!_setjmp(current().place)) _longjmp(scheduler, 1);
}

inline void enter_fiber() {
  run_thread(run_argument);
  current().waits = Waits::kFinished;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned thread) {
  threadIdx.x = thread;
  Fiber& fiber = fibers[thread];
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.start, enter_fiber, 0);
  setcontext(&fiber.start);
}

// Fibers from `first` on; lets them go on if all have come to the barrier. False if they have not.
inline bool release(int first, int count, Waits barrier) {
  for (int i = first; i < first + count; i++)
    if (fibers[i].waits != barrier) return false;
  for (int i = first; i < first + count; i++) fibers[i].waits = Waits::kNot;
  return true;
}

inline int in_order(int i, int count) { return cuda_on_host_reversed ? count - 1 - i : i; }

// Runs a warp as far as it comes without the others.
inline void run_warp(int first) {
  do {
    for (int i = 0; i < kLanesOfWarp; i++) {
      const int thread = first + in_order(i, kLanesOfWarp);
      if (fibers[thread].waits == Waits::kNot) resume(thread);
    }
  } while (release(first, kLanesOfWarp, Waits::kForWarp));
}

// False if the threads wait for each other for ever.
inline bool run_block(int threads) {
  fibers = std::vector<Fiber>(threads);
  std::memset(shared_memory, 0xff, sizeof shared_memory);  // NaN
  const int warps = threads / kLanesOfWarp;
  do {
    for (int i = 0; i < warps; i++) run_warp(in_order(i, warps) * kLanesOfWarp);
  } while (release(0, threads, Waits::kForBlock));
  return release(0, threads, Waits::kFinished);
}

inline void __syncthreads() { wait(Waits::kForBlock); }

inline float __shfl_xor_sync(unsigned, float x, int distance) {
  const int turn = current().shuffles++ % 2;
  current().given[turn] = x;
  wait(Waits::kForWarp);
  return fibers[threadIdx.x ^ distance].given[turn];
}

// ----------------------------------------------------------------------------------------------------------- runtime

using cudaStream_t = struct Stream*;
enum cudaError_t { cudaSuccess, kTooMuchSharedMemory, kDeadlock, kSharedMemoryOverrun };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return size_t(bytes) > kMaxSharedBytes ? kTooMuchSharedMemory : cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  const char* names[] = {"no error", "too much shared memory", "threads wait at different barriers",
                         "more shared memory used than asked for"};
  return names[error];
}

inline bool is_untouched(size_t bytes) {
  const char* memory = reinterpret_cast<const char*>(shared_memory);
  for (size_t i = bytes; i < sizeof shared_memory; i++)
    if (memory[i] != char(0xff)) return false;
  return true;
}

template <typename Argument>
cudaError_t cudaLaunchKernel(void (*kernel)(Argument), dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t) {
  static void (*launched)(Argument);
  launched = kernel;
  run_thread = [](const void* argument) { launched(*static_cast<const std::remove_const_t<Argument>*>(argument)); };
  run_argument = arguments[0];
  blockDim = block;
  for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
      if (!run_block(block.x)) return kDeadlock;
      if (!is_untouched(shared_bytes)) return kSharedMemoryOverrun;
    }
  return cudaSuccess;
}

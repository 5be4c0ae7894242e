// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// WKV-7 for heads of 64 on NVIDIA GPUs, forward and backward, as a library of C functions; `wkv7.py` builds and
// calls it.
//
// Per head, with K key and V value dimensions and state S (value, key), every token does
//
//     S <- S diag(exp(w)) + (S a) b^T + v k^T        y = S r
//
// A state stays in the registers of its block for the whole sequence. Rows of S (one per value dimension) never mix,
// so S a and S r are sums over the few neighbouring threads that share a row. Tokens are staged in shared memory as
// float32, some at a time.
//
// The backward pass recomputes states from the checkpoint before them. It never divides by the decay, which would lose
// all digits after some tens of tokens of strong decay. All sums are taken in a fixed order.
//
// Kernels are launched by cudaLaunchKernel and not by <<<>>>, and share memory through one array, so that a C++
// compiler takes this file too: the tests run it on the CPU (tests/kernels/cuda_on_host).

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

extern __shared__ float4 shared_memory[];

// Not in the namespace below: nvcc leaves functions out of the library that take what is.
extern "C" {

// Contiguous rows (tokens, heads, 64).
struct Rows {
  void* data;
  int64_t dtype;
};

// What forward and backward share. Sequence s holds the tokens boundaries[s] to boundaries[s + 1], or, where there are
// no boundaries, an equal share. The checkpoints of a sequence start at slot `begin / kInterval + s`, which never
// overlaps the slots of the sequence before. A slot is (heads, value, key). States lie on multiples of 16 bytes.
struct Problem {
  int64_t sequences, tokens, heads;
  Rows r, w, k, v, a, b;
  const int64_t* boundaries;  // (sequences + 1,) or null
  const uint8_t* mask;        // (tokens,) or null
  float* checkpoints;         // or null
};

// States are (sequences, heads, value, key).
struct Forward {
  Problem problem;
  const float* initial_state;  // or null for zero
  Rows y;
  float* final_state;
};

struct Backward {
  Problem problem;
  Rows dy;
  const float* d_final;  // or null for zero
  Rows dr, dw, dk, dv, da, db;
  float* d_initial;
};

}  // extern "C"

namespace {

constexpr int kSize = 64;      // of a head, keys and values alike
constexpr int kInterval = 15;  // tokens between checkpoints, and staged at a time
constexpr int kKept = 3;       // states kept at a time on the way back: as many as the 99 KB of sm_86 have room for
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

enum DType : int64_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// ----------------------------------------------------------------------------------------------------------- numbers

__device__ float to_float(float x) { return x; }
__device__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ float to_float(__half x) { return __half2float(x); }

__device__ void store_number(const Rows& rows, int64_t at, float x) {
  if (rows.dtype == kFloat32) static_cast<float*>(rows.data)[at] = x;
  else if (rows.dtype == kBFloat16) static_cast<__nv_bfloat16*>(rows.data)[at] = __float2bfloat16(x);
  else static_cast<__half*>(rows.data)[at] = __float2half(x);
}

// Two chains of additions, for half the latency.
template <int n>
__device__ float dot(const float (&x)[n], const float (&y)[n]) {
  float even = 0, odd = 0;
#pragma unroll
  for (int i = 0; i < n; i += 2) {
    even += x[i] * y[i];
    odd += x[i + 1] * y[i + 1];
  }
  return even + odd;
}

// ------------------------------------------------------------------------------------------------------ one sequence

// One head of one sequence, and where its rows, state and checkpoints lie.
struct Head {
  const Problem& p;
  int64_t sequence, head, begin, end;

  __device__ Head(const Problem& p, int64_t index) : p(p), sequence(index / p.heads), head(index % p.heads) {
    const int64_t length = p.boundaries ? 0 : p.tokens / p.sequences;
    begin = p.boundaries ? p.boundaries[sequence] : sequence * length;
    end = p.boundaries ? p.boundaries[sequence + 1] : begin + length;
  }
  __device__ int64_t row(int64_t token) const { return (token * p.heads + head) * kSize; }
  __device__ bool masked(int64_t token) const { return p.mask && !p.mask[token]; }
  __device__ int64_t state() const { return (sequence * p.heads + head) * kSize * kSize; }
  __device__ float* checkpoint(int64_t token) const {
    const int64_t slot = begin / kInterval + sequence + (token - begin) / kInterval;
    return p.checkpoints + (slot * p.heads + head) * kSize * kSize;
  }
  // How many tokens from `start` are staged together.
  __device__ int staged_from(int64_t start) const { return int(end - start < kInterval ? end - start : kInterval); }
};

using StagedRows = float[kInterval][kSize];

// The inputs of some tokens in float32, `w` already the decay.
struct Inputs {
  StagedRows r, w, k, v, a, b;
};

template <typename T>
__device__ void stage_as(const void* rows, const Head& h, int64_t start, int count, StagedRows& staged) {
  for (int i = threadIdx.x; i < count * kSize; i += blockDim.x) {
    const int64_t at = h.row(start + i / kSize) + i % kSize;
    staged[i / kSize][i % kSize] = to_float(static_cast<const T*>(rows)[at]);
  }
}

__device__ void stage(const Rows& rows, const Head& h, int64_t start, int count, StagedRows& staged) {
  if (rows.dtype == kFloat32) stage_as<float>(rows.data, h, start, count, staged);
  else if (rows.dtype == kBFloat16) stage_as<__nv_bfloat16>(rows.data, h, start, count, staged);
  else stage_as<__half>(rows.data, h, start, count, staged);
}

__device__ void stage_inputs(const Head& h, int64_t start, int count, Inputs& x) {
  stage(h.p.r, h, start, count, x.r);
  stage(h.p.w, h, start, count, x.w);
  stage(h.p.k, h, start, count, x.k);
  stage(h.p.v, h, start, count, x.v);
  stage(h.p.a, h, start, count, x.a);
  stage(h.p.b, h, start, count, x.b);
  for (int i = threadIdx.x; i < count * kSize; i += blockDim.x) {  // what this thread has just written
    float& w = x.w[i / kSize][i % kSize];
    w = expf(w);
  }
}

// The part of a state that one thread holds: kRows rows times every kLanes-th group of four keys. The kLanes threads
// that share rows are neighbours in a warp.
template <int kLanes, int kRows>
struct Tile {
  static constexpr int kKeys = kSize / kLanes;
  using Keys = float[kKeys];

  float s[kRows][kKeys];

  static __device__ int lane() { return threadIdx.x % kLanes; }
  static __device__ int first_row() { return threadIdx.x / kLanes * kRows; }
  static __device__ int key(int group) { return (group * kLanes + lane()) * 4; }

  static __device__ void load_keys(const float* row, float* keys) {
#pragma unroll
    for (int group = 0; group < kKeys / 4; group++) {
      const float4 x = *reinterpret_cast<const float4*>(row + key(group));
      keys[group * 4] = x.x, keys[group * 4 + 1] = x.y, keys[group * 4 + 2] = x.z, keys[group * 4 + 3] = x.w;
    }
  }
  // The sum over the threads that share a row, in all of them.
  static __device__ float row_sum(float x) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
  }

  // `state` is where the rows of the block begin, or null for zero.
  __device__ void load(const float* state) {
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      if (state) {
        load_keys(state + (first_row() + i) * kSize, s[i]);
      } else {
#pragma unroll
        for (int j = 0; j < kKeys; j++) s[i][j] = 0;
      }
    }
  }
  __device__ void store(float* state) const {
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
      for (int group = 0; group < kKeys / 4; group++)
        *reinterpret_cast<float4*>(state + (first_row() + i) * kSize + key(group)) =
            make_float4(s[i][group * 4], s[i][group * 4 + 1], s[i][group * 4 + 2], s[i][group * 4 + 3]);
  }
  // A row vector times the thread's rows.
  __device__ void times(const Keys& x, float (&product)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kRows; i++) product[i] = row_sum(dot(s[i], x));
  }
  // One token; `v` are its values from the first row of the block on.
  __device__ void advance(const Inputs& x, int t, const float* v) {
    Keys w, k, a, b;
    load_keys(x.a[t], a);
    float removed[kRows];
    times(a, removed);
    load_keys(x.w[t], w);
    load_keys(x.k[t], k);
    load_keys(x.b[t], b);
#pragma unroll
    for (int i = 0; i < kRows; i++) {
      const float value = v[first_row() + i];
#pragma unroll
      for (int j = 0; j < kKeys; j++) s[i][j] = s[i][j] * w[j] + removed[i] * b[j] + value * k[j];
    }
  }
};

// ----------------------------------------------------------------------------------------------------------- forward

// One block for kBlockRows rows of the state of a head.
template <int kLanes, int kRows, int kBlockRows>
__global__ void __launch_bounds__(kBlockRows / kRows* kLanes) forward_kernel(const Forward f) {
  using State = Tile<kLanes, kRows>;
  Inputs& x = *reinterpret_cast<Inputs*>(shared_memory);
  const Head h(f.problem, blockIdx.x);
  const int block_row = blockIdx.y * kBlockRows;
  State state;
  state.load(f.initial_state ? f.initial_state + h.state() + block_row * kSize : nullptr);
  for (int64_t start = h.begin; start < h.end; start += kInterval) {
    if (f.problem.checkpoints) state.store(h.checkpoint(start) + block_row * kSize);
    const int count = h.staged_from(start);
    __syncthreads();  // all threads are done with the tokens before
    stage_inputs(h, start, count, x);
    __syncthreads();
    for (int t = 0; t < count; t++) {
      float y[kRows] = {};
      if (!h.masked(start + t)) {
        state.advance(x, t, x.v[t] + block_row);
        typename State::Keys r;
        State::load_keys(x.r[t], r);
        state.times(r, y);
      }
#pragma unroll
      for (int i = 0; i < kRows; i++)
        if (State::lane() == 0) store_number(f.y, h.row(start + t) + block_row + State::first_row() + i, y[i]);
    }
  }
  state.store(f.final_state + h.state() + block_row * kSize);
}

// ---------------------------------------------------------------------------------------------------------- backward

constexpr int kBackwardLanes = 8, kBackwardRows = 2;
constexpr int kBackwardThreads = kSize / kBackwardRows * kBackwardLanes;
constexpr int kBackwardWarps = kBackwardThreads / kWarp;
constexpr int kBackwardBlocks = 2;  // at once on a processor of sm_90, whose shared memory has room for no more

using State = Tile<kBackwardLanes, kBackwardRows>;

// Gradients that are sums over the rows of a state.
enum ColumnSum { kOfR, kOfW, kOfK, kOfA, kOfB, kColumnSums };

// The parts of one token's gradients that each warp has.
struct Parts {
  float sums[kBackwardWarps][kColumnSums][kSize];
  float of_v[kSize];
};

struct Workspace {
  Inputs inputs;
  StagedRows dy;
  float states[kKept][kSize * kSize];
  Parts parts[2];  // used in turn, so that one barrier a token is enough
};

// Adds up `x` over the rows of a warp and writes the sums. At each step a thread keeps half of the keys it has and
// gives the other half to the thread that keeps those.
__device__ void write_column_sums(State::Keys& x, float* sums) {
  int kept = State::kKeys, first = 0;
#pragma unroll
  for (int distance = kWarp / 2; distance >= kBackwardLanes; distance /= 2) {
    kept /= 2;
    const bool upper = threadIdx.x & distance;
    if (upper) first += kept;
#pragma unroll
    for (int j = 0; j < kept; j++) {
      const float given = upper ? x[j] : x[kept + j], own = upper ? x[kept + j] : x[j];
      x[j] = own + __shfl_xor_sync(kAllLanes, given, distance);
    }
  }
#pragma unroll
  for (int j = 0; j < State::kKeys * kBackwardLanes / kWarp; j++)
    sums[State::key((first + j) / 4) + (first + j) % 4] = x[j];
}

// What the sum over rows of factor[row] * tile[row][key] is, of the rows of this warp.
__device__ void write_products(const float (&factor)[kBackwardRows], const State& tile, float* sums) {
  State::Keys x;
#pragma unroll
  for (int j = 0; j < State::kKeys; j++) {
    x[j] = 0;
#pragma unroll
    for (int i = 0; i < kBackwardRows; i++) x[j] += factor[i] * tile.s[i][j];
  }
  write_column_sums(x, sums);
}

__device__ void load_rows(const float* row, float (&x)[kBackwardRows]) {
#pragma unroll
  for (int i = 0; i < kBackwardRows; i++) x[i] = row[State::first_row() + i];
}

// The way back over one token. `state` is the one after it and becomes the one `before`; `d`, the gradient of the
// state after it, becomes that of the state before it.
__device__ void retreat(State& state, State& d, const float* before, const Workspace& space, int t, Parts& parts) {
  const Inputs& x = space.inputs;
  float(&sums)[kColumnSums][kSize] = parts.sums[threadIdx.x / kWarp];
  float dy[kBackwardRows], v[kBackwardRows], removed[kBackwardRows], dv[kBackwardRows], d_removed[kBackwardRows];
  State::Keys keys, decay;
  load_rows(space.dy[t], dy);
  load_rows(x.v[t], v);

  write_products(dy, state, sums[kOfR]);
  State::load_keys(x.r[t], keys);
#pragma unroll
  for (int i = 0; i < kBackwardRows; i++)
#pragma unroll
    for (int j = 0; j < State::kKeys; j++) d.s[i][j] += dy[i] * keys[j];

  state.load(before);
#pragma unroll
  for (int j = 0; j < State::kKeys; j++) {
    keys[j] = 0;
#pragma unroll
    for (int i = 0; i < kBackwardRows; i++) keys[j] += state.s[i][j] * d.s[i][j];
  }
  write_column_sums(keys, sums[kOfW]);
  write_products(v, d, sums[kOfK]);
  State::load_keys(x.a[t], keys);
  state.times(keys, removed);
  write_products(removed, d, sums[kOfB]);

  State::load_keys(x.k[t], keys);
  d.times(keys, dv);
  State::load_keys(x.b[t], keys);
  d.times(keys, d_removed);
  write_products(d_removed, state, sums[kOfA]);
#pragma unroll
  for (int i = 0; i < kBackwardRows; i++)
    if (State::lane() == 0) parts.of_v[State::first_row() + i] = dv[i];

  State::load_keys(x.a[t], keys);
  State::load_keys(x.w[t], decay);
#pragma unroll
  for (int i = 0; i < kBackwardRows; i++)
#pragma unroll
    for (int j = 0; j < State::kKeys; j++) d.s[i][j] = d.s[i][j] * decay[j] + d_removed[i] * keys[j];
}

__device__ float sum_over_warps(const Parts& parts, int which, int j) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kBackwardWarps; warp++) sum += parts.sums[warp][which][j];
  return sum;
}

__device__ void store_gradients(const Backward& g, int64_t row, const Parts& parts, const float* decay) {
  const int j = threadIdx.x % kSize;
  switch (threadIdx.x / kSize) {  // a quarter of the threads each
    case 0:
      store_number(g.dr, row + j, sum_over_warps(parts, kOfR, j));
      store_number(g.dv, row + j, parts.of_v[j]);
      break;
    case 1:
      store_number(g.dw, row + j, sum_over_warps(parts, kOfW, j) * decay[j]);  // d exp(w) / dw = exp(w)
      break;
    case 2:
      store_number(g.dk, row + j, sum_over_warps(parts, kOfK, j));
      break;
    default:
      store_number(g.da, row + j, sum_over_warps(parts, kOfA, j));
      store_number(g.db, row + j, sum_over_warps(parts, kOfB, j));
  }
}

__device__ void store_no_gradients(const Backward& g, int64_t row) {
  if (threadIdx.x < kSize)
    for (const Rows* rows : {&g.dr, &g.dw, &g.dk, &g.dv, &g.da, &g.db}) store_number(*rows, row + threadIdx.x, 0);
}

// One block for a head. Between two checkpoints it goes back by kKept tokens at a time: recomputes the states up to
// them, keeps those before each, then retreats.
__global__ void __launch_bounds__(kBackwardThreads, kBackwardBlocks) backward_kernel(const Backward g) {
  Workspace& space = *reinterpret_cast<Workspace*>(shared_memory);
  const Head h(g.problem, blockIdx.x);
  State state, d;
  d.load(g.d_final ? g.d_final + h.state() : nullptr);
  int turn = 0;
  for (int64_t stretch = (h.end - h.begin + kInterval - 1) / kInterval - 1; stretch >= 0; stretch--) {
    const int64_t start = h.begin + stretch * kInterval;
    const int count = h.staged_from(start);
    __syncthreads();  // all threads are done with the tokens after
    stage_inputs(h, start, count, space.inputs);
    stage(g.dy, h, start, count, space.dy);
    __syncthreads();
    for (int first = (count - 1) / kKept * kKept; first >= 0; first -= kKept) {
      const int end = first + kKept < count ? first + kKept : count;
      state.load(h.checkpoint(start));
      for (int t = 0; t < end; t++) {
        if (t >= first) state.store(space.states[t - first]);  // read by the same thread only
        if (!h.masked(start + t)) state.advance(space.inputs, t, space.inputs.v[t]);
      }
      for (int t = end - 1; t >= first; t--) {
        if (h.masked(start + t)) {
          store_no_gradients(g, h.row(start + t));
          continue;
        }
        Parts& parts = space.parts[turn];
        turn = 1 - turn;
        retreat(state, d, space.states[t - first], space, t, parts);
        __syncthreads();
        store_gradients(g, h.row(start + t), parts, space.inputs.w[t]);
      }
    }
  }
  d.store(g.d_initial + h.state());
}

// ------------------------------------------------------------------------------------------------------------ launch

// Training and long prompts: a whole head in a block. Two rows a thread halve what is read from shared memory.
constexpr int kLanes = 4;
constexpr int kWholeRows = 2;
constexpr auto kWholeKernel = forward_kernel<kLanes, kWholeRows, kSize>;
// Decoding, short prompts, few heads: a quarter of a head in a block, which keeps more of the GPU busy. The sums are
// the same, so that the results are.
constexpr int kSplitBlockRows = 16;
constexpr auto kSplitKernel = forward_kernel<kLanes, 1, kSplitBlockRows>;

template <typename Kernel>
cudaError_t make_room(Kernel kernel, size_t shared_bytes, int device) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
}

template <typename Argument>
int launch(void (*kernel)(Argument), dim3 grid, int threads, size_t shared_bytes, Argument argument, int device,
           void* stream) {
  if (grid.x == 0) return cudaSuccess;
  const cudaError_t error = make_room(kernel, shared_bytes, device);
  if (error != cudaSuccess) return error;
  void* arguments[] = {&argument};
  return cudaLaunchKernel(kernel, grid, dim3(threads), arguments, shared_bytes, static_cast<cudaStream_t>(stream));
}

}  // namespace

// The functions return 0 or the number of an error. Outputs are written in full.
extern "C" {

int wkv7_forward(const Forward* f, int split, int device, void* stream) {
  const unsigned tasks = unsigned(f->problem.sequences * f->problem.heads);
  const dim3 grid(tasks, split ? kSize / kSplitBlockRows : 1);
  const int threads = split ? kSplitBlockRows * kLanes : kSize / kWholeRows * kLanes;
  return launch(split ? kSplitKernel : kWholeKernel, grid, threads, sizeof(Inputs), *f, device, stream);
}

int wkv7_backward(const Backward* g, int device, void* stream) {
  const unsigned tasks = unsigned(g->problem.sequences * g->problem.heads);
  return launch(backward_kernel, dim3(tasks), kBackwardThreads, sizeof(Workspace), *g, device, stream);
}

// Whether the kernels can run on a device, which may be too old for them, or its driver for the compiler.
int wkv7_check(int device) { return make_room(backward_kernel, sizeof(Workspace), device); }

const char* wkv7_error(int error) { return cudaGetErrorString(cudaError_t(error)); }

}  // extern "C"

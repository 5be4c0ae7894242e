// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// WKV-7 over whole sequences on a CPU: what kernels share that run it. Per head, with K key and V value dimensions and
// state S (value, key), every token does
//
//     S <- S diag(exp(w)) + (S a) b^T + v k^T        y = S r
//
// Rows of S (one per value dimension) never mix, so a head may be cut into blocks of value dimensions. A block's state
// is held transposed, `tile[key][value]`, with values in SIMD lanes: S a and S r are then sums over the outer loop and
// need no horizontal additions. A tile of 64 x 64 floats stays in the first-level cache for the whole sequence.
//
// How it is vectorised stands in `cpu_numbers.h`.

#pragma once

#include <ATen/Parallel.h>

#include <memory>

#include "time_mix_head.h"

namespace {

constexpr int64_t kPrefetchTokens = 6;     // rows of a head lie apart by heads * size, too far for hardware prefetch
constexpr int64_t kElementsPerThread = 131072;  // state elements times tokens below which a thread is not worth waking

extern "C" {

// What forward and backward share. Rows are (tokens, heads, size). Sequence s holds the tokens boundaries[s] to
// boundaries[s + 1], or, where there are no boundaries, an equal share. The checkpoints of a sequence start at slot
// `begin / interval + s`, which never overlaps the slots of the sequence before. A slot is (heads, key, value).
struct Problem {
  int64_t sequences, tokens, heads, size;
  int64_t block;     // value dimensions of a block: 16, 32 or 64, divides size
  int64_t interval;  // tokens between checkpoints
  Rows r, w, k, v, a, b;
  const int64_t* boundaries;   // (sequences + 1,) or null
  const uint8_t* mask;         // (tokens,) or null
  const float* initial_state;  // (sequences, heads, value, key) or null for zero
  float* checkpoints;          // or null
};

}  // extern "C"

inline void prefetch_row(const Rows& rows, int64_t at, int64_t n) {
  const int64_t width = rows.dtype == kFloat32 ? 4 : 2;
  const char* start = static_cast<const char*>(rows.data) + at * width;
  for (int64_t i = 0; i < n * width; i += 64) __builtin_prefetch(start + i);
}

// One head of one sequence, and where its rows, state and checkpoints lie.
struct Head {
  const Problem& p;
  int64_t sequence, head, begin, end;

  Head(const Problem& p, int64_t sequence, int64_t head) : p(p), sequence(sequence), head(head) {
    const int64_t length = p.boundaries ? 0 : p.tokens / p.sequences;
    begin = p.boundaries ? p.boundaries[sequence] : sequence * length;
    end = p.boundaries ? p.boundaries[sequence + 1] : begin + length;
  }
  int64_t row(int64_t token) const { return (token * p.heads + head) * p.size; }
  bool masked(int64_t token) const { return p.mask && !p.mask[token]; }
  int64_t state() const { return (sequence * p.heads + head) * p.size * p.size; }
  float* checkpoint(int64_t token) const {
    const int64_t slot = begin / p.interval + sequence + (token - begin) / p.interval;
    return p.checkpoints + (slot * p.heads + head) * p.size * p.size;
  }
};

// Numbers that begin where a cache line does.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t n) : memory(new float[n + kLanes]) {}
  float* data() const {
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t(63));
  }

 private:
  std::unique_ptr<float[]> memory;
};

template <int V>
void tile_from_state(const float* state, int64_t size, int64_t first_value, float* __restrict__ tile) {
  if (!state) {
    std::fill(tile, tile + size * V, 0.0f);
    return;
  }
  for (int64_t j = 0; j < size; j++)
    for (int i = 0; i < V; i++) tile[j * V + i] = state[(first_value + i) * size + j];
}

template <int V>
void state_from_tile(const float* __restrict__ tile, int64_t size, int64_t first_value, float* state) {
  for (int i = 0; i < V; i++)
    for (int64_t j = 0; j < size; j++) state[(first_value + i) * size + j] = tile[j * V + i];
}

// V columns of a matrix into those of another with as many rows.
template <int V>
void copy_columns(const float* __restrict__ from, int64_t from_stride, float* __restrict__ to, int64_t to_stride,
                  int64_t rows) {
  for (int64_t j = 0; j < rows; j++) std::memcpy(to + j * to_stride, from + j * from_stride, V * sizeof(float));
}

// removed = S a
template <int V>
inline void removals(const float* tile, const float* a, int64_t size, float* removed) {
  constexpr int C = V / kLanes;
  Lanes even[C] = {}, odd[C] = {};
  for (int64_t j = 0; j < size; j += 2) {
    const float* s = tile + j * V;
    for (int c = 0; c < C; c++) {
      even[c] += lanes(s, c) * a[j];
      odd[c] += lanes(s + V, c) * a[j + 1];
    }
  }
  for (int c = 0; c < C; c++) lanes(removed, c) = even[c] + odd[c];
}

// One token: `after` may be `before`. y = S r of the new state, unless null.
template <int V>
inline void advance(const float* before, float* after, const Token& x, int64_t first_value, int64_t size,
                    float* removed, float* y) {
  constexpr int C = V / kLanes;
  removals<V>(before, x.a, size, removed);
  Lanes gone[C], value[C], even[C] = {}, odd[C] = {};
  for (int c = 0; c < C; c++) {
    gone[c] = lanes(removed, c);
    value[c] = lanes(x.v + first_value, c);
  }
  for (int64_t j = 0; j < size; j += 2) {
    const float *s = before + j * V, *w = x.w + j, *b = x.b + j, *k = x.k + j, *r = x.r + j;
    float* out = after + j * V;
    for (int c = 0; c < C; c++) {
      const Lanes s0 = lanes(s, c) * w[0] + gone[c] * b[0] + value[c] * k[0];
      const Lanes s1 = lanes(s + V, c) * w[1] + gone[c] * b[1] + value[c] * k[1];
      lanes(out, c) = s0;
      lanes(out + V, c) = s1;
      if (y) {
        even[c] += s0 * r[0];
        odd[c] += s1 * r[1];
      }
    }
  }
  if (y)
    for (int c = 0; c < C; c++) lanes(y, c) = even[c] + odd[c];
}

// Sequences vary fastest, so that threads share sequences of unequal lengths evenly.
template <typename Task>
void for_each_task(const Problem& p, int64_t parts, const Task& task) {
  const int64_t tasks = p.sequences * p.heads * parts;
  if (tasks == 0) return;
  const int64_t elements = p.tokens * p.heads * p.size * p.size / tasks;  // of an average task
  at::parallel_for(0, tasks, 1 + kElementsPerThread / (elements + 1), [&](int64_t first, int64_t last) {
    task(first, last, [&](int64_t index, int64_t& part) {
      part = index / p.sequences % parts;
      return Head(p, index % p.sequences, index / p.sequences / parts);
    });
  });
}

// Whether every sequence is of one token, and no checkpoints are wanted.
inline bool has_single_tokens(const Problem& p) {
  return !p.boundaries && p.tokens == p.sequences && !p.checkpoints;
}

// The one token of a sequence. y is zero if it is masked.
inline void advance_single(const Head& h, const Token& x, float* final_state, float* y) {
  const int64_t size = h.p.size;
  const float* state = h.p.initial_state ? h.p.initial_state + h.state() : nullptr;
  float* new_state = final_state + h.state();
  if (!h.masked(h.begin)) {
    advance_one_token(state, new_state, size, x, y);
    return;
  }
  std::fill(y, y + size, 0.0f);
  if (state) std::memcpy(new_state, state, size * size * sizeof(float));
  else std::fill(new_state, new_state + size * size, 0.0f);
}

// Calls `run` with the width of the problem's blocks as a constant.
template <typename Run>
void with_block(const Problem& p, const Run& run) {
  if (p.block == 64) run(std::integral_constant<int, 64>());
  else if (p.block == 32) run(std::integral_constant<int, 32>());
  else run(std::integral_constant<int, 16>());
}

}  // namespace

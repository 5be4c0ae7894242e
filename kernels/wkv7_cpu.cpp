// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// WKV-7 on a CPU, forward and backward, as a library of two C functions; `wkv7_cpu.py` builds and calls it.
//
// Per head, with K key and V value dimensions and state S (value, key), every token does
//
//     S <- S diag(exp(w)) + (S a) b^T + v k^T        y = S r
//
// Rows of S (one per value dimension) never mix, so a head may be cut into blocks of value dimensions. A block's state is
// held transposed, `tile[key][value]`, with values in SIMD lanes: S a and S r are then sums over the outer loop and need
// no horizontal additions. A tile of 64 x 64 floats stays in the first-level cache for the whole sequence.
//
// The backward pass recomputes the states of a stretch of tokens from the checkpoint at its start. It never divides by
// the decay, which would lose all digits after some tens of tokens of strong decay.
//
// How it is vectorised stands in `cpu_numbers.h`.

#include <ATen/Parallel.h>

#include <memory>

#include "cpu_numbers.h"

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

void prefetch_row(const Rows& rows, int64_t at, int64_t n) {
  const int64_t width = rows.dtype == kFloat32 ? 4 : 2;
  const char* start = static_cast<const char*>(rows.data) + at * width;
  for (int64_t i = 0; i < n * width; i += 64) __builtin_prefetch(start + i);
}

// ------------------------------------------------------------------------------------------------------ one sequence

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

// The inputs of one token in float32, `w` already the decay.
struct Token {
  alignas(64) float r[kMaxSize], w[kMaxSize], k[kMaxSize], v[kMaxSize], a[kMaxSize], b[kMaxSize];

  void load(const Head& h, int64_t token) {
    const Problem& p = h.p;
    const int64_t at = h.row(token), n = p.size;
    if (token + kPrefetchTokens < h.end) {
      const int64_t ahead = h.row(token + kPrefetchTokens);
      for (const Rows* rows : {&p.r, &p.w, &p.k, &p.v, &p.a, &p.b}) prefetch_row(*rows, ahead, n);
    }
    load_row(p.r, at, n, r);
    load_row(p.w, at, n, w);
    load_row(p.k, at, n, k);
    load_row(p.v, at, n, v);
    load_row(p.a, at, n, a);
    load_row(p.b, at, n, b);
    for (int64_t j = 0; j < n; j++) w[j] = exp_float(w[j]);
  }
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

template <int V>
void forward_block(const Head& h, int64_t block, const Rows& y, float* final_state) {
  const Problem& p = h.p;
  const int64_t first_value = block * V;
  alignas(64) float tile[kMaxSize * V], removed[V], out[V];
  Token x;
  tile_from_state<V>(p.initial_state ? p.initial_state + h.state() : nullptr, p.size, first_value, tile);
  for (int64_t t = h.begin; t < h.end; t++) {
    if (p.checkpoints && (t - h.begin) % p.interval == 0)
      copy_columns<V>(tile, V, h.checkpoint(t) + first_value, p.size, p.size);
    if (h.masked(t)) {
      std::fill(out, out + V, 0.0f);
    } else {
      x.load(h, t);
      advance<V>(tile, tile, x, first_value, p.size, removed, out);
    }
    store_row(y, h.row(t) + first_value, V, out);
  }
  state_from_tile<V>(tile, p.size, first_value, final_state + h.state());
}

void forward_one_token(const Head& h, const Rows& y, float* final_state) {
  const Problem& p = h.p;
  const int64_t size = p.size;
  alignas(64) float out[kMaxSize] = {0};
  const float* state = p.initial_state ? p.initial_state + h.state() : nullptr;
  float* new_state = final_state + h.state();
  if (h.masked(h.begin)) {
    if (state) std::memcpy(new_state, state, size * size * sizeof(float));
    else std::fill(new_state, new_state + size * size, 0.0f);
  } else {
    Token x;
    x.load(h, h.begin);
    advance_one_token(state, new_state, size, x.r, x.w, x.k, x.v, x.a, x.b, out);
  }
  store_row(y, h.row(h.begin), size, out);
}

// ---------------------------------------------------------------------------------------------------------- backward

// Gradients of one token's inputs, summed over the blocks of a head; `w` is that of the decay.
struct TokenGradient {
  alignas(64) float r[kMaxSize], w[kMaxSize], k[kMaxSize], v[kMaxSize], a[kMaxSize], b[kMaxSize];
};

struct Gradients {
  Rows r, w, k, v, a, b;
};

// The way back over one token. `before` and `after` are the states around it; `d` is the gradient of the state after it
// and becomes that of the state before it.
template <int V>
inline void retreat(const float* before, const float* after, float* d, const Token& x, const float* removed,
                    const float* dy, int64_t first_value, int64_t size, TokenGradient& g) {
  constexpr int C = V / kLanes;
  Lanes d_value[C] = {}, d_removed[C] = {};
  for (int64_t j = 0; j < size; j++) {
    Lanes dr = {}, dw = {}, dk = {}, db = {};
    for (int c = 0; c < C; c++) {
      const Lanes z = lanes(d + j * V, c) + lanes(dy, c) * x.r[j];
      lanes(d + j * V, c) = z;
      dr += lanes(after + j * V, c) * lanes(dy, c);
      dw += lanes(before + j * V, c) * z;
      dk += lanes(x.v + first_value, c) * z;
      db += lanes(removed, c) * z;
      d_value[c] += z * x.k[j];
      d_removed[c] += z * x.b[j];
    }
    g.r[j] += sum(dr);
    g.w[j] += sum(dw);
    g.k[j] += sum(dk);
    g.b[j] += sum(db);
  }
  for (int64_t j = 0; j < size; j++) {
    Lanes da = {};
    for (int c = 0; c < C; c++) {
      da += lanes(before + j * V, c) * d_removed[c];
      lanes(d + j * V, c) = lanes(d + j * V, c) * x.w[j] + d_removed[c] * x.a[j];
    }
    g.a[j] += sum(da);
  }
  for (int c = 0; c < C; c++) lanes(g.v + first_value, c) = d_value[c];
}

// What one thread needs to go back over a stretch of tokens between two checkpoints.
struct Workspace {
  std::unique_ptr<Token[]> tokens;
  std::unique_ptr<TokenGradient[]> gradients;
  std::unique_ptr<int64_t[]> live;     // the stretch's tokens that are not masked
  std::unique_ptr<float[]> buffer;     // owns the three below
  float* states;                       // (interval + 1) tiles
  float* state_gradients;              // (blocks, key, value in block)
  float* removed;                      // (interval, value in block)

  explicit Workspace(const Problem& p)
      : tokens(new Token[p.interval]), gradients(new TokenGradient[p.interval]), live(new int64_t[p.interval]) {
    const int64_t tile = p.size * p.block;
    buffer.reset(new float[(p.interval + 1) * tile + p.size * p.size + p.interval * p.block + kLanes]);
    states = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(buffer.get()) + 63) & ~uintptr_t(63));
    state_gradients = states + (p.interval + 1) * tile;
    removed = state_gradients + p.size * p.size;
  }
};

template <int V>
void backward_stretch(const Head& h, int64_t start, int64_t live, int64_t block, const Rows& dy, Workspace& space) {
  const int64_t size = h.p.size, first_value = block * V, tile = size * V;
  copy_columns<V>(h.checkpoint(start) + first_value, size, space.states, V, size);
  for (int64_t n = 0; n < live; n++) {
    float* before = space.states + n * tile;
    advance<V>(before, before + tile, space.tokens[n], first_value, size, space.removed + n * V, nullptr);
  }
  for (int64_t n = live - 1; n >= 0; n--) {
    alignas(64) float dy_row[V];
    load_row(dy, h.row(space.live[n]) + first_value, V, dy_row);
    const float* before = space.states + n * tile;
    retreat<V>(before, before + tile, space.state_gradients + block * tile, space.tokens[n],
               space.removed + n * V, dy_row, first_value, size, space.gradients[n]);
  }
}

// Writes the gradients of a stretch: zero for masked tokens. Blocks that another task owns are left out of `v`.
void store_gradients(const Head& h, int64_t start, int64_t stop, int64_t live, int64_t first_value, int64_t values,
                     const Gradients& out, int64_t part, Workspace& space) {
  static const TokenGradient zero = {};
  const int64_t size = h.p.size, offset = part * h.p.tokens * h.p.heads * size;
  int64_t n = 0;
  for (int64_t t = start; t < stop; t++) {
    const bool is_live = n < live && space.live[n] == t;
    if (is_live)
      for (int64_t j = 0; j < size; j++) space.gradients[n].w[j] *= space.tokens[n].w[j];  // d exp(w) / dw = exp(w)
    const TokenGradient& g = is_live ? space.gradients[n++] : zero;
    const int64_t at = h.row(t);
    store_row(out.r, offset + at, size, g.r);
    store_row(out.w, offset + at, size, g.w);
    store_row(out.k, offset + at, size, g.k);
    store_row(out.a, offset + at, size, g.a);
    store_row(out.b, offset + at, size, g.b);
    store_row(out.v, at + first_value, values, g.v + first_value);
  }
}

// Blocks [first, last) of one head.
template <int V>
void backward_head(const Head& h, int64_t first, int64_t last, const Rows& dy, const float* d_final,
                   const Gradients& out, int64_t part, float* d_initial, Workspace& space) {
  const Problem& p = h.p;
  const int64_t tile = p.size * V;
  for (int64_t block = first; block < last; block++)
    tile_from_state<V>(d_final ? d_final + h.state() : nullptr, p.size, block * V,
                       space.state_gradients + block * tile);
  const int64_t stretches = (h.end - h.begin + p.interval - 1) / p.interval;
  for (int64_t s = stretches - 1; s >= 0; s--) {
    const int64_t start = h.begin + s * p.interval, stop = std::min(h.end, start + p.interval);
    int64_t live = 0;
    for (int64_t t = start; t < stop; t++) {
      if (h.masked(t)) continue;
      space.tokens[live].load(h, t);
      std::memset(&space.gradients[live], 0, sizeof(TokenGradient));
      space.live[live++] = t;
    }
    for (int64_t block = first; block < last; block++) backward_stretch<V>(h, start, live, block, dy, space);
    store_gradients(h, start, stop, live, first * V, (last - first) * V, out, part, space);
  }
  for (int64_t block = first; block < last; block++)
    state_from_tile<V>(space.state_gradients + block * tile, p.size, block * V, d_initial + h.state());
}

// ------------------------------------------------------------------------------------------------------------- tasks

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

template <int V>
void forward(const Problem& p, const Rows& y, float* final_state) {
  for_each_task(p, p.size / V, [&](int64_t first, int64_t last, auto head_of) {
    for (int64_t index = first; index < last; index++) {
      int64_t block;
      const Head h = head_of(index, block);
      forward_block<V>(h, block, y, final_state);
    }
  });
}

template <int V>
void backward(const Problem& p, const Rows& dy, const float* d_final, const Gradients& out, int64_t parts,
              float* d_initial) {
  const int64_t blocks = p.size / V / parts;  // of a task
  for_each_task(p, parts, [&](int64_t first, int64_t last, auto head_of) {
    Workspace space(p);
    for (int64_t index = first; index < last; index++) {
      int64_t part;
      const Head h = head_of(index, part);
      backward_head<V>(h, part * blocks, (part + 1) * blocks, dy, d_final, out, part, d_initial, space);
    }
  });
}

}  // namespace

extern "C" {

// y: (tokens, heads, size); final_state: (sequences, heads, value, key). Both are written in full.
void wkv7_forward(const Problem* p, Rows y, float* final_state) {
  const bool single = !p->boundaries && p->tokens == p->sequences && !p->checkpoints;
  if (single) {
    for_each_task(*p, 1, [&](int64_t first, int64_t last, auto head_of) {
      int64_t part;
      for (int64_t index = first; index < last; index++) forward_one_token(head_of(index, part), y, final_state);
    });
  } else if (p->block == 64) {
    forward<64>(*p, y, final_state);
  } else if (p->block == 32) {
    forward<32>(*p, y, final_state);
  } else {
    forward<16>(*p, y, final_state);
  }
}

// Gradients r, w, k, a and b come in `parts` slices of (tokens, heads, size) to be added; parts is 1 or size / block.
// d_final may be null for zero.
void wkv7_backward(const Problem* p, Rows dy, const float* d_final, const Gradients* out, int64_t parts,
                   float* d_initial) {
  if (p->block == 64) {
    backward<64>(*p, dy, d_final, *out, parts, d_initial);
  } else if (p->block == 32) {
    backward<32>(*p, dy, d_final, *out, parts, d_initial);
  } else {
    backward<16>(*p, dy, d_final, *out, parts, d_initial);
  }
}

}  // extern "C"

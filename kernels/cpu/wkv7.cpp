// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// WKV-7 on a CPU, forward and backward, as a library of two C functions; `wkv7.py` builds and calls it.
//
// The backward pass recomputes the states of a stretch of tokens from the checkpoint at its start. It never divides by
// the decay, which would lose all digits after some tens of tokens of strong decay.

#include "wkv7_tiles.h"

namespace {

// Reads one token's inputs, and ahead of it the next ones into the cache.
void load_token(const Head& h, int64_t token, Token& x) {
  const Problem& p = h.p;
  const int64_t at = h.row(token), n = p.size;
  if (token + kPrefetchTokens < h.end) {
    const int64_t ahead = h.row(token + kPrefetchTokens);
    for (const Rows* rows : {&p.r, &p.w, &p.k, &p.v, &p.a, &p.b}) prefetch_row(*rows, ahead, n);
  }
  load_row(p.r, at, n, x.r);
  load_row(p.w, at, n, x.w);
  load_row(p.k, at, n, x.k);
  load_row(p.v, at, n, x.v);
  load_row(p.a, at, n, x.a);
  load_row(p.b, at, n, x.b);
  for (int64_t j = 0; j < n; j++) x.w[j] = exp_float(x.w[j]);
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
      load_token(h, t, x);
      advance<V>(tile, tile, x, first_value, p.size, removed, out);
    }
    store_row(y, h.row(t) + first_value, V, out);
  }
  state_from_tile<V>(tile, p.size, first_value, final_state + h.state());
}

void forward_one_token(const Head& h, const Rows& y, float* final_state) {
  alignas(64) float out[kMaxSize];
  Token x;
  load_token(h, h.begin, x);
  advance_single(h, x, final_state, out);
  store_row(y, h.row(h.begin), h.p.size, out);
}

// ---------------------------------------------------------------------------------------------------------- backward

// Gradients of one token's inputs, summed over the blocks of a head; `w` is that of the decay.
struct TokenGradient {
  alignas(64) float r[kMaxSize], w[kMaxSize], k[kMaxSize], v[kMaxSize], a[kMaxSize], b[kMaxSize];
};

// The way back over one token. `before` and `after` are the states around it; `d` is the gradient of the state after
// it and becomes that of the state before it.
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
  AlignedFloats buffer;                // holds the three below
  float* states;                       // (interval + 1) tiles
  float* state_gradients;              // (blocks, key, value in block)
  float* removed;                      // (interval, value in block)

  explicit Workspace(const Problem& p)
      : tokens(new Token[p.interval]),
        gradients(new TokenGradient[p.interval]),
        live(new int64_t[p.interval]),
        buffer((p.interval + 1) * p.size * p.block + p.size * p.size + p.interval * p.block) {
    states = buffer.data();
    state_gradients = states + (p.interval + 1) * p.size * p.block;
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
      load_token(h, t, space.tokens[live]);
      std::memset(&space.gradients[live], 0, sizeof(TokenGradient));
      space.live[live++] = t;
    }
    for (int64_t block = first; block < last; block++) backward_stretch<V>(h, start, live, block, dy, space);
    store_gradients(h, start, stop, live, first * V, (last - first) * V, out, part, space);
  }
  for (int64_t block = first; block < last; block++)
    state_from_tile<V>(space.state_gradients + block * tile, p.size, block * V, d_initial + h.state());
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
const char* wkv7_forward(const Problem* p, Rows y, float* final_state) {
  return guarded([&] {
    if (!has_single_tokens(*p)) {
      with_block(*p, [&](auto block) { forward<block>(*p, y, final_state); });
      return;
    }
    for_each_task(*p, 1, [&](int64_t first, int64_t last, auto head_of) {
      int64_t part;
      for (int64_t index = first; index < last; index++) forward_one_token(head_of(index, part), y, final_state);
    });
  });
}

// Gradients r, w, k, a and b come in `parts` slices of (tokens, heads, size) to be added; parts is 1 or size / block.
// d_final may be null for zero.
const char* wkv7_backward(const Problem* p, Rows dy, const float* d_final, const Gradients* out, int64_t parts,
                          float* d_initial) {
  return guarded([&] {
    with_block(*p, [&](auto block) { backward<block>(*p, dy, d_final, *out, parts, d_initial); });
  });
}

}  // extern "C"

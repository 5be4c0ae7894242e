// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// A time mix between its matrices, in inference on a CPU: from the projections to what the output matrix reads.
//
// What the recurrence reads and writes stays in the first-level cache: a stretch of tokens is prepared, run through
// the blocks of the head and finished before the next one. Where there are fewer heads than threads, blocks of a head
// run on several, and a second pass over the tokens finishes them.

#pragma once

#include "fused_rows.h"
#include "wkv7_tiles.h"

namespace {

constexpr int64_t kStretch = 8;  // tokens

extern "C" {

// What a time mix has beside the recurrence, whose r, w, k, v and a are here its projections, and b is not read.
struct TimeMix {
  Rows v_gate, v_first, g;             // (tokens, hidden); without v_gate, null, the value stays
  Rows k_k, k_a, r_k, weight, bias;    // (hidden,)
  float log_decay_scale, eps;
  Rows out;                            // (tokens, hidden)
  float* final_state;                  // (sequences, heads, value, key)
};

}  // extern "C"

struct Stretch {
  Token tokens[kStretch];
  alignas(64) float y[kStretch][kMaxSize];
};

inline void load_parameters(const TimeMix& m, int64_t head, int64_t size, HeadParameters& out) {
  const int64_t at = head * size;
  load_row(m.k_k, at, size, out.k_k);
  load_row(m.k_a, at, size, out.k_a);
  load_row(m.r_k, at, size, out.r_k);
  load_row(m.weight, at, size, out.scale);
  load_row(m.bias, at, size, out.offset);
}

// Reads and prepares one token of a head, and fetches ahead of it the one that is as far on as a stretch is long.
inline void load_token(const Head& h, const TimeMix& m, const HeadParameters& parameters, int64_t token, Token& x) {
  const Problem& p = h.p;
  const int64_t at = h.row(token), n = p.size;
  if (token + kStretch < h.end) {
    const int64_t ahead = h.row(token + kStretch);
    for (const Rows* rows : {&p.r, &p.w, &p.k, &p.v, &p.a, &m.g}) prefetch_row(*rows, ahead, n);
    if (m.v_gate.data)
      for (const Rows* rows : {&m.v_gate, &m.v_first}) prefetch_row(*rows, ahead, n);
  }
  load_row(p.r, at, n, x.r);
  load_row(p.w, at, n, x.w);
  load_row(p.k, at, n, x.k);
  load_row(p.v, at, n, x.v);
  load_row(p.a, at, n, x.a);
  alignas(64) float v_gate[kMaxSize], v_first[kMaxSize];
  if (m.v_gate.data) {
    load_row(m.v_gate, at, n, v_gate);
    load_row(m.v_first, at, n, v_first);
  }
  prepare_token(parameters, n, m.log_decay_scale, m.v_gate.data ? v_gate : nullptr, v_first, x);
}

inline void store_token(const Head& h, const TimeMix& m, const HeadParameters& parameters, int64_t token,
                        const Token& x, const float* y) {
  alignas(64) float gate[kMaxSize], out[kMaxSize];
  load_row(m.g, h.row(token), h.p.size, gate);
  finish_token(parameters, h.p.size, m.eps, x, y, gate, out);
  store_row(m.out, h.row(token), h.p.size, out);
}

// Blocks [first, last) of a head over all its tokens. `finish(token, x, y)` gets the token's `y`, set for these
// blocks.
template <int V, typename Finish>
void run_blocks(const Head& h, const TimeMix& m, const HeadParameters& parameters, int64_t first, int64_t last,
                const Finish& finish) {
  const Problem& p = h.p;
  const int64_t size = p.size, tile = size * V;
  const AlignedFloats memory((last - first) * tile);
  Stretch stretch;
  const auto tile_of = [&](int64_t block) { return memory.data() + (block - first) * tile; };
  for (int64_t block = first; block < last; block++)
    tile_from_state<V>(p.initial_state ? p.initial_state + h.state() : nullptr, size, block * V, tile_of(block));
  for (int64_t start = h.begin; start < h.end; start += kStretch) {
    const int64_t stop = std::min(h.end, start + kStretch);
    for (int64_t t = start; t < stop; t++) load_token(h, m, parameters, t, stretch.tokens[t - start]);
    for (int64_t block = first; block < last; block++) {
      for (int64_t t = start; t < stop; t++) {
        alignas(64) float removed[V];
        float* y = stretch.y[t - start] + block * V;
        if (h.masked(t)) std::fill(y, y + V, 0.0f);
        else advance<V>(tile_of(block), tile_of(block), stretch.tokens[t - start], block * V, size, removed, y);
      }
    }
    for (int64_t t = start; t < stop; t++) finish(t, stretch.tokens[t - start], stretch.y[t - start]);
  }
  for (int64_t block = first; block < last; block++)
    state_from_tile<V>(tile_of(block), size, block * V, m.final_state + h.state());
}

// Heads side by side, each by one thread.
template <int V>
void run_heads(const Problem& p, const TimeMix& m) {
  for_each_task(p, 1, [&](int64_t first, int64_t last, auto head_of) {
    for (int64_t index = first; index < last; index++) {
      int64_t part;
      const Head h = head_of(index, part);
      HeadParameters parameters;
      load_parameters(m, h.head, p.size, parameters);
      run_blocks<V>(h, m, parameters, 0, p.size / V, [&](int64_t token, const Token& x, const float* y) {
        store_token(h, m, parameters, token, x, y);
      });
    }
  });
}

// Blocks of heads side by side, then all tokens once more.
template <int V>
void run_heads_in_blocks(const Problem& p, const TimeMix& m) {
  const AlignedFloats ys(p.tokens * p.heads * p.size);
  for_each_task(p, p.size / V, [&](int64_t first, int64_t last, auto head_of) {
    for (int64_t index = first; index < last; index++) {
      int64_t block;
      const Head h = head_of(index, block);
      HeadParameters parameters;
      load_parameters(m, h.head, p.size, parameters);
      run_blocks<V>(h, m, parameters, block, block + 1, [&](int64_t token, const Token&, const float* y) {
        std::memcpy(ys.data() + h.row(token) + block * V, y + block * V, V * sizeof(float));
      });
    }
  });
  at::parallel_for(0, p.tokens, 1 + kNumbersPerThread / (p.heads * p.size), [&](int64_t first, int64_t last) {
    HeadParameters parameters;
    Token x;
    for (int64_t head = 0; head < p.heads; head++) {
      Head h(p, 0, head);
      h.end = last;  // of the rows to fetch
      load_parameters(m, head, p.size, parameters);
      for (int64_t t = first; t < last; t++) {
        load_token(h, m, parameters, t, x);
        store_token(h, m, parameters, t, x, ys.data() + h.row(t));
      }
    }
  });
}

// Sequences of one token each.
inline void run_single_tokens(const Problem& p, const TimeMix& m) {
  for_each_task(p, 1, [&](int64_t first, int64_t last, auto head_of) {
    for (int64_t index = first; index < last; index++) {
      int64_t part;
      const Head h = head_of(index, part);
      HeadParameters parameters;
      Token x;
      alignas(64) float y[kMaxSize];
      load_parameters(m, h.head, p.size, parameters);
      load_token(h, m, parameters, h.begin, x);
      advance_single(h, x, m.final_state, y);
      store_token(h, m, parameters, h.begin, x, y);
    }
  });
}

// Writes `out` and `final_state` in full. The final state may be the initial one.
inline void run_time_mix(const Problem& p, const TimeMix& m) {
  if (p.tokens == 0 || p.heads == 0) {
    const int64_t numbers = p.sequences * p.heads * p.size * p.size;
    if (p.initial_state) std::copy(p.initial_state, p.initial_state + numbers, m.final_state);
    else std::fill(m.final_state, m.final_state + numbers, 0.0f);
  } else if (has_single_tokens(p)) {
    run_single_tokens(p, m);
  } else {
    const bool enough_heads = p.sequences * p.heads >= at::get_num_threads();
    with_block(p, [&](auto block) {
      if (enough_heads) run_heads<block>(p, m);
      else run_heads_in_blocks<block>(p, m);
    });
  }
}

}  // namespace

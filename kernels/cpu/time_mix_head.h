// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// One token of one head of a time mix, in float32: from the projections to the inputs of the recurrence, the
// recurrence where the state lies as torch keeps it, and from its output to that of the head.

#pragma once

#include "cpu_numbers.h"

namespace {

constexpr int64_t kMaxSize = 256;  // of a head
constexpr float kSmallestNorm = 1e-12f;  // torch.nn.functional.normalize

// What the recurrence reads, `w` being the decay itself.
struct Token {
  alignas(64) float r[kMaxSize], w[kMaxSize], k[kMaxSize], v[kMaxSize], a[kMaxSize], b[kMaxSize];
};

// A head's share of the parameters: of the keys, the bonus and the norm.
struct HeadParameters {
  alignas(64) float k_k[kMaxSize], k_a[kMaxSize], r_k[kMaxSize], scale[kMaxSize], offset[kMaxSize];
};

// Makes the token of a head from its projections in `x`: w, a and v_gate (null without) before their sigmoids, `b`
// unset.
//
//     w = exp(log_decay_scale sigmoid(w))   v = v + (v_first - v) sigmoid(v_gate)   kk = k k_k / |k k_k|
//     k = k (1 + (sigmoid(a) - 1) k_a)      a = -kk                                 b = kk sigmoid(a)
inline void prepare_token(const HeadParameters& p, int64_t size, float log_decay_scale,
                          const float* __restrict__ v_gate, const float* __restrict__ v_first, Token& x) {
  for (int64_t i = 0; i < size; i++) x.w[i] = exp_float(log_decay_scale * sigmoid(x.w[i]));
  if (v_gate)
    for (int64_t i = 0; i < size; i++) x.v[i] += (v_first[i] - x.v[i]) * sigmoid(v_gate[i]);
  for (int64_t i = 0; i < size; i++) x.b[i] = x.k[i] * p.k_k[i];
  const float inverse = 1.0f / std::max(std::sqrt(dot(x.b, x.b, size)), kSmallestNorm);  // lets NaN through
  for (int64_t i = 0; i < size; i++) {
    const float rate = sigmoid(x.a[i]), direction = x.b[i] * inverse;
    x.k[i] *= 1.0f + (rate - 1.0f) * p.k_a[i];
    x.a[i] = -direction;
    x.b[i] = direction * rate;
  }
}

// The recurrence over one token. The state is read and written where it lies, (value, key), as turning it round twice
// would cost more; `after` may be `before`, which is zero if null.
inline void advance_one_token(const float* before, float* after, int64_t size, const Token& x, float* y) {
  alignas(64) static const float zero[kMaxSize] = {0};
  for (int64_t i = 0; i < size; i++) {
    const float* old = before ? before + i * size : zero;
    float* now = after + i * size;
    const float removed = dot(old, x.a, size), value = x.v[i];
    Lanes r_sums = {};
    for (int64_t j = 0; j < size; j += kLanes) {
      const Lanes s =
          load_lanes(old + j) * load_lanes(x.w + j) + removed * load_lanes(x.b + j) + value * load_lanes(x.k + j);
      store_lanes(now + j, s);
      r_sums += s * load_lanes(x.r + j);
    }
    y[i] = sum(r_sums);
  }
}

// out = (norm(y) + sum(r k r_k) v) gate
inline void finish_token(const HeadParameters& p, int64_t size, float eps, const Token& x, const float* y,
                         const float* __restrict__ gate, float* __restrict__ out) {
  normalize(y, size, eps, p.scale, p.offset, out);
  Lanes sums = {};
  for (int64_t i = 0; i < size; i += kLanes) sums += load_lanes(x.r + i) * load_lanes(x.k + i) * load_lanes(p.r_k + i);
  const float bonus = sum(sums);
  for (int64_t i = 0; i < size; i++) out[i] = (out[i] + bonus * x.v[i]) * gate[i];
}

}  // namespace

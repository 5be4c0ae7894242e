// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// What surrounds the recurrence in a layer, on a CPU: each function reads its inputs once and writes its outputs once,
// token by token, and computes in float32. `fused_cpu.py` builds and calls them.

#include <ATen/Parallel.h>

#include <cmath>
#include <utility>
#include <vector>

#include "cpu_numbers.h"

namespace {

constexpr int64_t kNumbersPerThread = 16384;  // below which a thread is not worth waking
constexpr int64_t kFlatBlock = 2048;
constexpr float kSmallestNorm = 1e-12f;  // torch.nn.functional.normalize

using Floats = std::vector<float>;

inline Floats loaded(const Rows& rows, int64_t n) {
  Floats out(n);
  load_row(rows, 0, n, out.data());
  return out;
}

// `body(begin, end)` over tokens of `size` numbers.
template <class Body>
void over_tokens(int64_t tokens, int64_t size, const Body& body) {
  at::parallel_for(0, tokens, 1 + kNumbersPerThread / size, body);
}

// Sixteen sums that the compiler keeps in vectors; -ffast-math, under which it would find them, is not for us.
template <class Term>
inline float sum_of(int64_t n, const Term& term) {
  float lanes[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; j++) lanes[j] += term(i + j);
  float total = 0.0f;
  for (; i < n; i++) total += term(i);
  for (float lane : lanes) total += lane;
  return total;
}

}  // namespace

extern "C" {

// out = x + (previous - x) mix; x (batch, time, hidden), mix (hidden). Previous is of the shape of x or, if `shifts`,
// holds the token before each row, (batch, hidden): then every other token's is the one before it in x.
void mix_tokens(Rows x, Rows previous, Rows mix, Rows out, int64_t shifts, int64_t time, int64_t tokens,
                int64_t hidden) {
  const Floats share = loaded(mix, hidden);
  over_tokens(tokens, hidden, [&](int64_t begin, int64_t end) {
    Floats now(hidden), before(hidden), mixed(hidden);
    for (int64_t t = begin; t < end; t++) {
      load_row(x, t * hidden, hidden, now.data());
      if (!shifts)
        load_row(previous, t * hidden, hidden, before.data());
      else if (t % time == 0)
        load_row(previous, t / time * hidden, hidden, before.data());
      else if (t == begin)
        load_row(x, (t - 1) * hidden, hidden, before.data());
      for (int64_t i = 0; i < hidden; i++) mixed[i] = now[i] + (before[i] - now[i]) * share[i];
      store_row(out, t * hidden, hidden, mixed.data());
      std::swap(now, before);
    }
  });
}

// log_decay = scale sigmoid(w), rate = sigmoid(a) and, unless `v_gate` is null, value = v + (v_first - v) sigmoid(v_gate);
// all (tokens, hidden). log_decay is float32.
void activate_gates(Rows w, Rows a, Rows v_gate, Rows v, Rows v_first, Rows log_decay, Rows rate, Rows value, float scale,
                    int64_t tokens, int64_t hidden) {
  over_tokens(tokens, hidden * 4, [&](int64_t begin, int64_t end) {
    Floats x(hidden), now(hidden), first(hidden);
    const auto load_sigmoid = [&](const Rows& rows, int64_t at, float factor) {
      load_row(rows, at, hidden, x.data());
      for (int64_t i = 0; i < hidden; i++) x[i] = factor / (1.0f + exp_float(-x[i]));
    };
    for (int64_t at = begin * hidden; at < end * hidden; at += hidden) {
      load_sigmoid(w, at, scale);
      store_row(log_decay, at, hidden, x.data());
      load_sigmoid(a, at, 1.0f);
      store_row(rate, at, hidden, x.data());
      if (!v_gate.data) continue;
      load_sigmoid(v_gate, at, 1.0f);
      load_row(v, at, hidden, now.data());
      load_row(v_first, at, hidden, first.data());
      for (int64_t i = 0; i < hidden; i++) now[i] += (first[i] - now[i]) * x[i];
      store_row(value, at, hidden, now.data());
    }
  });
}

// key = k (1 + (a - 1) k_a), removal = -kk, replacement = kk a, with kk the direction of k k_k in each head.
void prepare_keys(Rows k, Rows a, Rows k_k, Rows k_a, Rows key, Rows removal, Rows replacement, int64_t tokens,
                  int64_t hidden, int64_t head_dim) {
  const Floats scale = loaded(k_k, hidden), share = loaded(k_a, hidden);
  over_tokens(tokens, hidden * 3, [&](int64_t begin, int64_t end) {
    Floats x(hidden), rate(hidden), kk(hidden), out(hidden);
    for (int64_t t = begin; t < end; t++) {
      const int64_t at = t * hidden;
      load_row(k, at, hidden, x.data());
      load_row(a, at, hidden, rate.data());
      for (int64_t i = 0; i < hidden; i++) kk[i] = x[i] * scale[i];
      for (int64_t head = 0; head < hidden; head += head_dim) {
        float* direction = kk.data() + head;
        const float squares = sum_of(head_dim, [&](int64_t i) { return direction[i] * direction[i]; });
        const float length = std::sqrt(squares);
        const float inverse = 1.0f / (length < kSmallestNorm ? kSmallestNorm : length);  // lets NaN through
        for (int64_t i = 0; i < head_dim; i++) direction[i] *= inverse;
      }
      for (int64_t i = 0; i < hidden; i++) out[i] = x[i] * (1.0f + (rate[i] - 1.0f) * share[i]);
      store_row(key, at, hidden, out.data());
      for (int64_t i = 0; i < hidden; i++) out[i] = -kk[i];
      store_row(removal, at, hidden, out.data());
      for (int64_t i = 0; i < hidden; i++) out[i] = kk[i] * rate[i];
      store_row(replacement, at, hidden, out.data());
    }
  });
}

// out = (group_norm(y) + sum(r k r_k) v) g, a group and a sum for each head; all (tokens, hidden).
void gated_output(Rows y, Rows r, Rows k, Rows v, Rows g, Rows r_k, Rows weight, Rows bias, Rows out, float eps,
                  int64_t tokens, int64_t hidden, int64_t head_dim) {
  const Floats bonus = loaded(r_k, hidden), scale = loaded(weight, hidden), offset = loaded(bias, hidden);
  over_tokens(tokens, hidden * 4, [&](int64_t begin, int64_t end) {
    Floats ys(hidden), rs(hidden), ks(hidden), vs(hidden), gs(hidden);
    for (int64_t t = begin; t < end; t++) {
      const int64_t at = t * hidden;
      load_row(y, at, hidden, ys.data());
      load_row(r, at, hidden, rs.data());
      load_row(k, at, hidden, ks.data());
      load_row(v, at, hidden, vs.data());
      load_row(g, at, hidden, gs.data());
      for (int64_t h = 0; h < hidden; h += head_dim) {
        float* x = ys.data() + h;
        const float *rh = rs.data() + h, *kh = ks.data() + h, *bh = bonus.data() + h;
        const float mean = sum_of(head_dim, [&](int64_t i) { return x[i]; }) / float(head_dim);
        const float squares = sum_of(head_dim, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
        const float inverse = 1.0f / std::sqrt(squares / float(head_dim) + eps);
        const float added = sum_of(head_dim, [&](int64_t i) { return rh[i] * kh[i] * bh[i]; });
        for (int64_t i = 0; i < head_dim; i++) {
          const float normed = (x[i] - mean) * inverse * scale[h + i] + offset[h + i];
          x[i] = (normed + added * vs[h + i]) * gs[h + i];
        }
      }
      store_row(out, at, hidden, ys.data());
    }
  });
}

// out = relu(x)^2; may be x itself.
void squared_relu(Rows x, Rows out, int64_t numbers) {
  const int64_t blocks = (numbers + kFlatBlock - 1) / kFlatBlock;
  over_tokens(blocks, kFlatBlock, [&](int64_t begin, int64_t end) {
    Floats buffer(kFlatBlock);
    for (int64_t block = begin; block < end; block++) {
      const int64_t at = block * kFlatBlock, n = std::min(kFlatBlock, numbers - at);
      load_row(x, at, n, buffer.data());
      for (int64_t i = 0; i < n; i++) {
        const float positive = buffer[i] < 0.0f ? 0.0f : buffer[i];  // lets NaN through
        buffer[i] = positive * positive;
      }
      store_row(out, at, n, buffer.data());
    }
  });
}

}  // extern "C"

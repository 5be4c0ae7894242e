// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// What surrounds the matrices of a layer, on a CPU: each function reads its inputs once and writes its outputs once,
// token by token, and computes in float32.

#pragma once

#include <ATen/Parallel.h>

#include <utility>
#include <vector>

#include "cpu_numbers.h"

namespace {

constexpr int64_t kNumbersPerThread = 16384;  // of a pass over tokens, below which a thread is not worth waking
constexpr int64_t kFlatBlock = 2048;

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

// out = x + (previous - x) mix; x (batch, time, hidden), mix (hidden). Previous is of the shape of x or, if `shifts`,
// holds the token before each row, (batch, hidden): then every other token's is the one before it in x.
inline void mix_rows(Rows x, Rows previous, Rows mix, Rows out, int64_t shifts, int64_t time, int64_t tokens,
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

// x += update, unless that is null, and out = norm(x); x, update and out (tokens, hidden), hidden a multiple of
// kLanes. A bias that is null is zero.
inline void add_and_normalize_rows(Rows x, Rows update, Rows weight, Rows bias, Rows out, float eps, int64_t tokens,
                                   int64_t hidden) {
  const Floats scale = loaded(weight, hidden), offset = bias.data ? loaded(bias, hidden) : Floats(hidden);
  over_tokens(tokens, hidden, [&](int64_t begin, int64_t end) {
    Floats row(hidden), added(hidden);
    for (int64_t at = begin * hidden; at < end * hidden; at += hidden) {
      load_row(x, at, hidden, row.data());
      if (update.data) {
        load_row(update, at, hidden, added.data());
        for (int64_t i = 0; i < hidden; i++) row[i] += added[i];
        store_row(x, at, hidden, row.data());
        load_row(x, at, hidden, row.data());  // as rounded
      }
      normalize(row.data(), hidden, eps, scale.data(), offset.data(), added.data());
      store_row(out, at, hidden, added.data());
    }
  });
}

// out = relu(x)^2; may be x itself.
inline void squared_relu_rows(Rows x, Rows out, int64_t numbers) {
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

}  // namespace

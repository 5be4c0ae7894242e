// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// One token through all layers of RWKV-7 on a CPU, as a library of one C function; `decode.py` builds and calls
// it.
//
// The weights are read once, which is what a token costs; the rest is done between, in float32. A layer takes five
// passes by all threads: the products with the mixed token; per head the low-rank maps, the recurrence, the norm and
// the gate; the output; the two products of the channel mix.

#include <initializer_list>

#include "quantized_rows.h"
#include "time_mix_head.h"

namespace {

constexpr int64_t kRowsPerTask = 16;

using Floats = std::vector<float>;

// Vectors for matrices of the model's dtype and, where there are such, for quantised ones.
template <class D>
struct Inputs {
  Inputs(const Model& m, int64_t batch, int64_t size)
      : quantized(m.quantized), own(batch, size), exact(quantized ? batch : 0, size) {}

  void set(int64_t row, const float* x, int64_t size) {
    own.set(row, x, size);
    if (quantized) exact.set(row, x, size);
  }

  const bool quantized;
  Vectors<D> own;
  Vectors<Float32> exact;
};

inline Quantized own_dtype(const void* matrix) { return {static_cast<const uint8_t*>(matrix), nullptr, 0, 0}; }

template <class D>
struct Product {
  Quantized weight;
  int64_t rows, columns;
  const Inputs<D>& x;
  Floats& y;  // (batch, rows)

  void run(int64_t begin, int64_t count, int64_t batch) const {
    if (weight.bits) {
      multiply_quantized(weight, begin, count, columns, x.exact, batch, y.data() + begin, rows);
    } else {
      const auto* w = reinterpret_cast<const typename D::Weight*>(weight.data);
      multiply<D>(w + begin * columns, count, columns, x.own, batch, y.data() + begin, rows);
    }
  }
};

// Products of all vectors of the batch, side by side over the threads.
template <class D>
void run(std::initializer_list<Product<D>> products, int64_t batch) {
  int64_t tasks = 0, multiplications = 0;
  for (const Product<D>& p : products) {
    tasks += (p.rows + kRowsPerTask - 1) / kRowsPerTask;
    multiplications += p.rows * p.columns * batch;
  }
  at::parallel_for(0, tasks, 1 + kMultiplicationsPerThread * tasks / (multiplications + 1),
                   [&](int64_t first, int64_t last) {
    int64_t before = 0;  // tasks of the products so far
    for (const Product<D>& p : products) {
      const int64_t count = (p.rows + kRowsPerTask - 1) / kRowsPerTask;
      for (int64_t task = std::max(first, before); task < std::min(last, before + count); task++) {
        const int64_t begin = (task - before) * kRowsPerTask;
        p.run(begin, std::min(kRowsPerTask, p.rows - begin), batch);
      }
      before += count;
    }
  });
}

// The token of every row of the batch on its way through the layers.
template <class D>
class Step {
 public:
  Step(const Model& model, int64_t batch)
      : m(model), batch(batch), heads(m.hidden / m.head_dim), x(batch * m.hidden), v_first(batch * m.hidden),
        r(batch * m.hidden), k(batch * m.hidden), v(batch * m.hidden), update(batch * m.hidden),
        wide(batch * m.intermediate), normed(m.hidden), delta(m.hidden), weight(m.hidden), bias(m.hidden),
        mixed_r(m, batch, m.hidden), mixed_w(m, batch, m.hidden), mixed_k(m, batch, m.hidden),
        mixed_v(m, batch, m.hidden), mixed_a(m, batch, m.hidden), mixed_g(m, batch, m.hidden),
        gated(m, batch, m.hidden), squares(m, batch, m.intermediate) {}

  void run_all(void* hidden_states, const State* states) {
    load(hidden_states, 0, batch * m.hidden, x.data());
    for (int64_t index = 0; index < m.num_layers; index++) {
      time_mix(m.layers[index], states[index], index == 0);
      channel_mix(m.layers[index], states[index]);
    }
    store_row(Rows{hidden_states, m.dtype}, 0, batch * m.hidden, x.data());
  }

 private:
  void load(void* from, int64_t at, int64_t n, float* to) const { load_row(Rows{from, m.dtype}, at, n, to); }

  // The normalised token, its difference from the token before, and the state that the next token will find.
  void shift(int64_t row, const Norm& norm, void* state) {
    const int64_t C = m.hidden;
    load(norm.weight, 0, C, weight.data());
    if (norm.bias) load(norm.bias, 0, C, bias.data());
    else std::fill(bias.begin(), bias.end(), 0.0f);
    normalize(x.data() + row * C, C, m.norm_eps, weight.data(), bias.data(), normed.data());
    load(state, row * C, C, delta.data());
    for (int64_t i = 0; i < C; i++) delta[i] -= normed[i];
    store_row(Rows{state, m.dtype}, row * C, C, normed.data());
  }

  void mix(int64_t row, void* share, Inputs<D>& out) {
    load(share, 0, m.hidden, weight.data());
    for (int64_t i = 0; i < m.hidden; i++) weight[i] = normed[i] + delta[i] * weight[i];
    out.set(row, weight.data(), m.hidden);
  }

  void time_mix(const Layer& layer, const State& state, bool first) {
    const int64_t C = m.hidden;
    for (int64_t row = 0; row < batch; row++) {
      shift(row, layer.attn_norm, state.time_mix);
      mix(row, layer.x_r, mixed_r);
      mix(row, layer.x_w, mixed_w);
      mix(row, layer.x_k, mixed_k);
      mix(row, layer.x_v, mixed_v);
      mix(row, layer.x_a, mixed_a);
      mix(row, layer.x_g, mixed_g);
    }
    const int64_t v_rank = first ? 0 : layer.v.rank;
    Floats w_inner(batch * layer.w.rank), a_inner(batch * layer.a.rank), v_inner(batch * v_rank),
        g_inner(batch * layer.g.rank);
    run<D>({{layer.receptance, C, C, mixed_r, r},
            {layer.key, C, C, mixed_k, k},
            {layer.value, C, C, mixed_v, v},
            {own_dtype(layer.w.down), layer.w.rank, C, mixed_w, w_inner},
            {own_dtype(layer.a.down), layer.a.rank, C, mixed_a, a_inner},
            {own_dtype(layer.v.down), v_rank, C, mixed_v, v_inner},
            {own_dtype(layer.g.down), layer.g.rank, C, mixed_g, g_inner}},
           batch);
    for (float& value : w_inner) value = tanh_float(value);
    for (float& value : g_inner) value = sigmoid(value);
    const Vectors<D> w = vectors(w_inner, layer.w.rank), a = vectors(a_inner, layer.a.rank),
                     mix_v = vectors(v_inner, v_rank), g = vectors(g_inner, layer.g.rank);
    at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
      Floats low_rank(4 * batch * m.head_dim);
      for (int64_t head = begin; head < end; head++) head_mix(layer, state, first, head, w, a, mix_v, g, low_rank);
    });
    for (int64_t row = 0; row < batch; row++) gated.set(row, update.data() + row * C, C);
    run<D>({{layer.output, C, C, gated, update}}, batch);
    for (int64_t i = 0; i < batch * C; i++) x[i] += update[i];
  }

  Vectors<D> vectors(const Floats& values, int64_t size) const {
    Vectors<D> out(batch, size);
    for (int64_t row = 0; row < batch; row++) out.set(row, values.data() + row * size, size);
    return out;
  }

  // A head from its low-rank maps to its gated output, which goes to `update`.
  void head_mix(const Layer& layer, const State& state, bool first, int64_t head, const Vectors<D>& w,
                const Vectors<D>& a, const Vectors<D>& mix_v, const Vectors<D>& g, Floats& low_rank) {
    const int64_t N = m.head_dim, at = head * N;
    float *decay = low_rank.data(), *rate = decay + batch * N, *share = rate + batch * N, *gate = share + batch * N;
    raise(layer.w, w, at, decay);
    raise(layer.a, a, at, rate);
    if (!first) raise(layer.v, mix_v, at, share);
    raise(layer.g, g, at, gate);

    HeadParameters parameters;
    load(layer.k_k, at, N, parameters.k_k);
    load(layer.k_a, at, N, parameters.k_a);
    load(layer.r_k, at, N, parameters.r_k);
    load(layer.head_norm.weight, at, N, parameters.scale);
    load(layer.head_norm.bias, at, N, parameters.offset);
    for (int64_t row = 0; row < batch; row++) {
      const int64_t here = row * m.hidden + at;
      Token x;
      std::copy_n(r.data() + here, N, x.r);
      std::copy_n(decay + row * N, N, x.w);
      std::copy_n(k.data() + here, N, x.k);
      std::copy_n(v.data() + here, N, x.v);
      std::copy_n(rate + row * N, N, x.a);
      if (first) std::copy_n(x.v, N, v_first.data() + here);
      const float* v_gate = first ? nullptr : share + row * N;
      prepare_token(parameters, N, m.log_decay_scale, v_gate, v_first.data() + here, x);
      alignas(64) float y[kMaxSize];
      float* recurrent = state.recurrent + (row * heads + head) * N * N;
      advance_one_token(recurrent, recurrent, N, x, y);
      finish_token(parameters, N, m.head_norm_eps, x, y, gate + row * N, update.data() + here);
    }
  }

  // The upper half of a low-rank map, for one head: out (batch, head_dim) = up inner + bias.
  void raise(const LowRank& map, const Vectors<D>& inner, int64_t at, float* out) const {
    const int64_t N = m.head_dim;
    multiply<D>(static_cast<const typename D::Weight*>(map.up) + at * map.rank, N, map.rank, inner, batch, out, N);
    if (!map.bias) return;
    alignas(64) float added[kMaxSize];
    load(map.bias, at, N, added);
    for (int64_t row = 0; row < batch; row++)
      for (int64_t i = 0; i < N; i++) out[row * N + i] += added[i];
  }

  void channel_mix(const Layer& layer, const State& state) {
    const int64_t C = m.hidden, F = m.intermediate;
    for (int64_t row = 0; row < batch; row++) {
      shift(row, layer.ffn_norm, state.channel_mix);
      mix(row, layer.ffn_x_k, mixed_k);
    }
    run<D>({{layer.ffn_key, F, C, mixed_k, wide}}, batch);
    for (float& value : wide) value = value > 0.0f ? value * value : std::isnan(value) ? value : 0.0f;
    for (int64_t row = 0; row < batch; row++) squares.set(row, wide.data() + row * F, F);
    run<D>({{layer.ffn_value, C, F, squares, update}}, batch);
    for (int64_t i = 0; i < batch * C; i++) x[i] += update[i];
  }

  const Model& m;
  const int64_t batch, heads;
  Floats x, v_first, r, k, v, update, wide;     // (batch, hidden or intermediate)
  Floats normed, delta, weight, bias;           // (hidden,)
  Inputs<D> mixed_r, mixed_w, mixed_k, mixed_v, mixed_a, mixed_g, gated, squares;
};

}  // namespace

extern "C" {

// hidden_states (batch, hidden), contiguous and of the model's dtype, before and after the layers. states: one a
// layer.
const char* decode_token(const Model* model, void* hidden_states, const State* states, int64_t batch) {
  return guarded([&] {
    with_dtype(model->dtype, [&](auto dtype) {
      Step<decltype(dtype)>(*model, batch).run_all(hidden_states, states);
    });
  });
}

}  // extern "C"

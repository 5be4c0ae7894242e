// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// Many tokens through all layers of RWKV-7 on a CPU, as a library of one C function; `prefill.py` builds and calls
// it.
//
// The products are torch's, in the model's dtype; what stands between them runs in float32 and in as few passes over
// the tokens as there can be. Each mix is made right before the product that reads it, which then finds it in the
// cache.

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>

#include "quantized_rows.h"
#include "time_mix.h"

namespace {

using Bias = std::optional<at::Tensor>;

at::Tensor pointwise_linear(const at::Tensor& x, const at::Tensor& weight, const Bias& bias) {
  using Scalars = c10::List<std::optional<at::Scalar>>;
  using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const Bias&, c10::string_view, Scalars,
                               std::optional<c10::string_view>);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Signature>();
  return op.call(x, weight, bias, "none", Scalars(), "");
}

// The tokens of a batch on their way through the layers. All tensors are (batch * time, features).
class Prefill {
 public:
  Prefill(const Model& model, const Settings& settings, int64_t batch, int64_t time)
      : m(model), settings(settings), batch(batch), time(time), tokens(batch * time) {}

  void run_all(void* hidden_states, const State* states) {
    at::Tensor x = at::from_blob(hidden_states, {tokens, m.hidden}, at::TensorOptions(dtype()));
    at::Tensor update, v_first, normed = at::empty_like(x);
    for (int64_t index = 0; index < m.num_layers; index++) {
      const Layer& layer = m.layers[index];
      normalize(x, update, layer.attn_norm, normed);
      update = time_mix(layer, states[index], normed, v_first);
      normalize(x, update, layer.ffn_norm, normed);
      update = channel_mix(layer, states[index], normed);
    }
    if (update.defined()) x.add_(update);
  }

 private:
  at::ScalarType dtype() const {
    return m.dtype == kFloat32 ? at::kFloat : m.dtype == kBFloat16 ? at::kBFloat16 : at::kHalf;
  }
  Rows rows(const at::Tensor& x) const { return {x.defined() ? x.data_ptr() : nullptr, m.dtype}; }
  Rows rows(void* x) const { return {x, m.dtype}; }

  at::Tensor product(const at::Tensor& x, const void* matrix, int64_t size, void* bias = nullptr) const {
    const auto tensor = [&](const void* data, at::IntArrayRef shape) {
      return at::from_blob(const_cast<void*>(data), shape, at::TensorOptions(dtype()));
    };
    const at::Tensor weight = tensor(matrix, {size, x.size(1)});
    const Bias offset = bias ? Bias(tensor(bias, {size})) : Bias();
    if (!settings.in_float32) return multiply(x, weight, offset);
    const Bias wide = offset ? Bias(offset->to(at::kFloat)) : Bias();
    return multiply(x.to(at::kFloat), weight.to(at::kFloat), wide).to(dtype());
  }

  at::Tensor multiply(const at::Tensor& x, const at::Tensor& weight, const Bias& bias) const {
    return settings.pointwise ? pointwise_linear(x, weight, bias) : at::linear(x, weight, bias);
  }

  void normalize(const at::Tensor& x, const at::Tensor& update, const Norm& norm, const at::Tensor& out) const {
    add_and_normalize_rows(rows(x), rows(update), rows(norm.weight), rows(norm.bias), rows(out), m.norm_eps, tokens,
                           m.hidden);
  }

  // `carried` holds the token before each row of the batch.
  at::Tensor mix(const at::Tensor& x, void* carried, void* share) const {
    at::Tensor out = at::empty_like(x);
    mix_rows(rows(x), rows(carried), rows(share), rows(out), 1, time, tokens, m.hidden);
    return out;
  }

  // Leaves the last token of each row in `carried`.
  void carry(const at::Tensor& x, void* carried) const {
    const int64_t bytes = m.hidden * x.element_size();
    const char* last = static_cast<const char*>(x.data_ptr()) + (time - 1) * bytes;
    for (int64_t row = 0; row < batch; row++)
      std::memcpy(static_cast<char*>(carried) + row * bytes, last + row * time * bytes, bytes);
  }

  enum class Activation { kNone, kTanh, kSigmoid };

  at::Tensor low_rank(const LowRank& map, const at::Tensor& x, Activation activation) const {
    at::Tensor inner = product(x, map.down, map.rank);
    if (activation == Activation::kTanh) inner.tanh_();
    if (activation == Activation::kSigmoid) inner.sigmoid_();
    return product(inner, map.up, m.hidden, map.bias);
  }

  // `v_first` is set by the first layer.
  at::Tensor time_mix(const Layer& layer, const State& state, const at::Tensor& x, at::Tensor& v_first) const {
    const auto mixed = [&](void* share) { return mix(x, state.time_mix, share); };
    const at::Tensor r = product(mixed(layer.x_r), layer.receptance.data, m.hidden);
    const at::Tensor k = product(mixed(layer.x_k), layer.key.data, m.hidden);
    const at::Tensor x_v = mixed(layer.x_v), v = product(x_v, layer.value.data, m.hidden);
    at::Tensor v_gate;
    if (v_first.defined()) v_gate = low_rank(layer.v, x_v, Activation::kNone);
    else v_first = v;
    const at::Tensor w = low_rank(layer.w, mixed(layer.x_w), Activation::kTanh);
    const at::Tensor a = low_rank(layer.a, mixed(layer.x_a), Activation::kNone);
    const at::Tensor g = low_rank(layer.g, mixed(layer.x_g), Activation::kSigmoid);
    carry(x, state.time_mix);

    const at::Tensor out = at::empty_like(r);
    const int64_t heads = m.hidden / m.head_dim;
    const Problem problem{batch, tokens, heads, m.head_dim, settings.block, 0,
                          rows(r), rows(w), rows(k), rows(v), rows(a), rows(nullptr),
                          nullptr, nullptr, state.recurrent, nullptr};
    const TimeMix between{rows(v_gate), rows(v_first), rows(g), rows(layer.k_k), rows(layer.k_a), rows(layer.r_k),
                          rows(layer.head_norm.weight), rows(layer.head_norm.bias), m.log_decay_scale,
                          m.head_norm_eps, rows(out), state.recurrent};
    run_time_mix(problem, between);
    return product(out, layer.output.data, m.hidden);
  }

  at::Tensor channel_mix(const Layer& layer, const State& state, const at::Tensor& x) const {
    const at::Tensor key = product(mix(x, state.channel_mix, layer.ffn_x_k), layer.ffn_key.data, m.intermediate);
    carry(x, state.channel_mix);
    squared_relu_rows(rows(key), rows(key), key.numel());
    return product(key, layer.ffn_value.data, m.hidden);
  }

  const Model& m;
  const Settings& settings;
  const int64_t batch, time, tokens;
};

}  // namespace

extern "C" {

// hidden_states (batch, time, hidden), contiguous and of the model's dtype, before and after the layers. states: one a
// layer.
const char* prefill(const Model* model, const Settings* settings, void* hidden_states, const State* states,
                    int64_t batch, int64_t time) {
  return guarded([&] { Prefill(*model, *settings, batch, time).run_all(hidden_states, states); });
}

}  // extern "C"

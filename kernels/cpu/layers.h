// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// The layers of RWKV-7 as the kernels know them that run all of them in one call; `layers_cpu.py` fills these.

#pragma once

#include "quantized_rows.h"

namespace {

extern "C" {

// All weights are contiguous and of the model's dtype, matrices as (out, in); what a layer lacks is null. A large
// matrix may be quantised; with 0 bits it is of the model's dtype as well.

struct Norm {
  void *weight, *bias;  // (hidden,)
};

struct LowRank {
  void *down, *up, *bias;
  int64_t rank;
};

struct Layer {
  void *x_r, *x_w, *x_k, *x_v, *x_a, *x_g, *k_k, *k_a, *r_k;
  Quantized receptance, key, value, output;
  LowRank w, a, v, g;  // `v` is missing in layer 0
  Norm attn_norm, head_norm, ffn_norm;
  void* ffn_x_k;
  Quantized ffn_key, ffn_value;
};

struct Model {
  const Layer* layers;
  int64_t num_layers, dtype, quantized, hidden, head_dim, intermediate;  // quantized: whether any matrix is
  float norm_eps, head_norm_eps, log_decay_scale;
};

// What a layer carries from token to token, read and overwritten.
struct State {
  void *time_mix, *channel_mix;  // last token, (batch, hidden), of the model's dtype
  float* recurrent;              // (batch, heads, value, key)
};

}  // extern "C"

}  // namespace

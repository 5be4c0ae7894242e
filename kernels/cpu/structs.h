// Copyright 2026 The rwkv7-world authors.
// SPDX-License-Identifier: Apache-2.0
//
// The structures that Python and C++ share. Their fields stand here once: C++ makes its structures of the lists below,
// `structs.py` reads the lists from this file, and compares sizes and offsets when a library is loaded.
//
// A field is (kind, name); a kind is a name of the list of types, or a structure from further up.

#pragma once

#include <cstddef>
#include <cstdint>

// Contiguous rows of one dtype; whoever holds them knows their shape.
#define RWKV7_FIELDS_Rows(field) field(address, data) field(integer, dtype)

// A matrix (rows, columns) as `quantized_linear.py` makes it: (rows, blocks, bytes of a block) and (rows, groups) of
// bfloat16. A group is so many weights of a row, a multiple of kBlock. With 0 bits `data` is of the model's dtype.
#define RWKV7_FIELDS_Quantized(field) \
  field(bytes, data) field(halves, scales) field(integer, bits) field(integer, group)

// What forward and backward of WKV-7 share. Rows are (tokens, heads, size). Sequence s holds the tokens boundaries[s]
// to boundaries[s + 1], or, where there are no boundaries, an equal share. The checkpoints of a sequence start at slot
// `begin / interval + s`, which never overlaps the slots of the sequence before. A slot is (heads, key, value).
//   block          value dimensions of a block: 16, 32 or 64, divides size
//   interval       tokens between checkpoints
//   boundaries     (sequences + 1,) or null
//   mask           (tokens,) or null
//   initial_state  (sequences, heads, value, key) or null for zero
//   checkpoints    or null
#define RWKV7_FIELDS_Problem(field)                                                                     \
  field(integer, sequences) field(integer, tokens) field(integer, heads) field(integer, size)           \
  field(integer, block) field(integer, interval)                                                        \
  field(Rows, r) field(Rows, w) field(Rows, k) field(Rows, v) field(Rows, a) field(Rows, b)             \
  field(integers, boundaries) field(bytes, mask) field(const_floats, initial_state) field(floats, checkpoints)

// Where the gradients of WKV-7 go.
#define RWKV7_FIELDS_Gradients(field) \
  field(Rows, r) field(Rows, w) field(Rows, k) field(Rows, v) field(Rows, a) field(Rows, b)

// What a time mix has beside the recurrence, whose r, w, k, v and a are here its projections, and b is not read.
// Gates and output are (tokens, hidden); without v_gate, null, the value stays. Parameters are (hidden,).
// The final state is (sequences, heads, value, key).
#define RWKV7_FIELDS_TimeMix(field)                                                             \
  field(Rows, v_gate) field(Rows, v_first) field(Rows, g)                                       \
  field(Rows, k_k) field(Rows, k_a) field(Rows, r_k) field(Rows, weight) field(Rows, bias)      \
  field(real, log_decay_scale) field(real, eps) field(Rows, out) field(floats, final_state)

// Scale and offset of a normalisation, (hidden,).
#define RWKV7_FIELDS_Norm(field) field(address, weight) field(address, bias)

// A low-rank map `up act(down x) + bias`.
#define RWKV7_FIELDS_LowRank(field) field(address, down) field(address, up) field(address, bias) field(integer, rank)

// The weights of a layer, contiguous and of the model's dtype, matrices as (out, in) and possibly quantised; what a
// layer lacks is null, as the low-rank map `v` of layer 0.
#define RWKV7_FIELDS_Layer(field)                                                                                  \
  field(address, x_r) field(address, x_w) field(address, x_k) field(address, x_v) field(address, x_a)              \
  field(address, x_g) field(address, k_k) field(address, k_a) field(address, r_k)                                  \
  field(Quantized, receptance) field(Quantized, key) field(Quantized, value) field(Quantized, output)              \
  field(LowRank, w) field(LowRank, a) field(LowRank, v) field(LowRank, g)                                          \
  field(Norm, attn_norm) field(Norm, head_norm) field(Norm, ffn_norm)                                              \
  field(address, ffn_x_k) field(Quantized, ffn_key) field(Quantized, ffn_value)

// All layers and the sizes they share; `quantized` says whether any matrix is.
#define RWKV7_FIELDS_Model(field)                                                                                  \
  field(layers_of, layers) field(integer, num_layers) field(integer, dtype) field(integer, quantized)              \
  field(integer, hidden) field(integer, head_dim) field(integer, intermediate)                                     \
  field(real, norm_eps) field(real, head_norm_eps) field(real, log_decay_scale)

// What a layer carries from token to token, read and overwritten: its last token before the time mix and before the
// channel mix, (batch, hidden) of the model's dtype, and (batch, heads, value, key).
#define RWKV7_FIELDS_State(field) field(address, time_mix) field(address, channel_mix) field(floats, recurrent)

// What of a prompt does not follow from the model: the blocks of a head (as in `Problem`), and how torch multiplies
// quickest on this processor: in float32 whatever the dtype, and by `mkldnn::_linear_pointwise` or by `linear`.
#define RWKV7_FIELDS_Settings(field) field(integer, block) field(integer, in_float32) field(integer, pointwise)

#define RWKV7_STRUCTS(each)                                                                             \
  each(Rows) each(Quantized) each(Problem) each(Gradients) each(TimeMix) each(Norm) each(LowRank)       \
  each(Layer) each(Model) each(State) each(Settings)

namespace {

extern "C" {

struct Layer;

using address = void*;
using bytes = const uint8_t*;
using halves = const uint16_t*;
using floats = float*;
using const_floats = const float*;
using integers = const int64_t*;
using layers_of = const Layer*;
using integer = int64_t;
using real = float;

#define RWKV7_MEMBER(kind, name) kind name;
#define RWKV7_DEFINE(Name) \
  struct Name {            \
    RWKV7_FIELDS_##Name(RWKV7_MEMBER) \
  };
RWKV7_STRUCTS(RWKV7_DEFINE)

}  // extern "C"

}  // namespace

// Offsets of the fields and size of every structure, in the order of the list. Returns how many numbers that are, and
// writes them unless `out` is null.
extern "C" int64_t struct_layouts(int64_t* out) {
  int64_t count = 0;
  const auto add = [&](int64_t number) {
    if (out) out[count] = number;
    count++;
  };
#define RWKV7_OFFSET(kind, name) add(offsetof(Self, name));
#define RWKV7_LAYOUT(Name)             \
  {                                    \
    using Self = Name;                 \
    RWKV7_FIELDS_##Name(RWKV7_OFFSET)  \
    add(sizeof(Self));                 \
  }
  RWKV7_STRUCTS(RWKV7_LAYOUT)
  return count;
}

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The layers of RWKV-7 as the C++ kernels know them that run all of them in one call (`layers.h`).

The structures hold addresses only: whoever fills them keeps the tensors alive and knows that they have the shapes and
the dtype that the C++ file names.
"""

import ctypes

import torch

from .linear import Quantized


class Norm(ctypes.Structure):
    """Scale and offset of a normalisation."""

    _fields_ = [("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p)]


class LowRank(ctypes.Structure):
    """A low-rank map `up act(down x) + bias`."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("down", "up", "bias")] + [("rank", ctypes.c_int64)]


class Layer(ctypes.Structure):
    """The weights of a layer. Of a matrix of the model's dtype only the address is given."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "r_k")),
        *((name, Quantized) for name in ("receptance", "key", "value", "output")),
        *((name, LowRank) for name in "wavg"),
        *((name, Norm) for name in ("attn_norm", "head_norm", "ffn_norm")),
        ("ffn_x_k", ctypes.c_void_p),
        *((name, Quantized) for name in ("ffn_key", "ffn_value")),
    ]


class Model(ctypes.Structure):
    """All layers and the sizes they share."""

    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        *(
            (name, ctypes.c_int64)
            for name in ("num_layers", "dtype", "quantized", "hidden", "head_dim", "intermediate")
        ),
        *((name, ctypes.c_float) for name in ("norm_eps", "head_norm_eps", "log_decay_scale")),
    ]


def addresses_of(states: list[tuple[torch.Tensor, ...]]) -> ctypes.Array:
    """The states of all layers: of each its token before the time mix and before the channel mix, and its matrices."""
    addresses = [tensor.data_ptr() for state in states for tensor in state]
    return (ctypes.c_void_p * len(addresses))(*addresses)

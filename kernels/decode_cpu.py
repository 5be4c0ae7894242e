# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One token through all layers of RWKV-7 in one call of C++ (`decode_cpu.cpp`, built on first use).

The structures hold addresses only: whoever fills them keeps the tensors alive and knows that they have the shapes and
the dtype that the C++ file names.
"""

import ctypes
import functools
from pathlib import Path

import torch

from .linear_cpu import Quantized
from .native_library import NativeLibraryError, load_library


SOURCE = Path(__file__).with_name("decode_cpu.cpp")


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


def decode_token(model: Model, hidden_states: torch.Tensor, states: list[tuple[torch.Tensor, ...]]) -> None:
    """Takes one token of every row of a batch through all layers.

    Args:
        model: The weights, of one dtype but for quantised matrices.
        hidden_states: (batch, 1, hidden) of that dtype, contiguous; overwritten by the output of the last layer.
        states: For every layer its last token before the time mix and before the channel mix, (batch, hidden) of that
            dtype, and its recurrent state (batch, heads, value, key), float32; all contiguous and overwritten.
    """
    addresses = [tensor.data_ptr() for state in states for tensor in state]
    array = (ctypes.c_void_p * len(addresses))(*addresses)
    _library().decode_token(ctypes.byref(model), hidden_states.data_ptr(), array, hidden_states.shape[0])


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    library = _library()
    return library if isinstance(library, str) else None


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The C++ library, or why there is none. Tried once in a process."""
    try:
        library = load_library("rwkv7_decode_cpu", SOURCE)
    except NativeLibraryError as error:
        return str(error)
    library.decode_token.argtypes = [ctypes.POINTER(Model), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    library.decode_token.restype = None
    return library

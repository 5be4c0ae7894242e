# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One token through all layers of RWKV-7 in one call of C++ (`decode.cpp`, built on first use)."""

import ctypes
from pathlib import Path

import torch

from ..native_library import raise_errors, why_missing
from .structs import Model, addresses_of, library_of_structures


SOURCE = Path(__file__).with_name("decode.cpp")


def decode_token(model: Model, hidden_states: torch.Tensor, states: list[tuple[torch.Tensor, ...]]) -> None:
    """Takes one token of every row of a batch through all layers.

    Args:
        model: The weights, of one dtype but for quantised matrices.
        hidden_states: (batch, 1, hidden) of that dtype, contiguous; overwritten by the output of the last layer.
        states: For every layer its last token before the time mix and before the channel mix, (batch, hidden) of that
            dtype, and its recurrent state (batch, heads, value, key), float32; all contiguous and overwritten.

    Raises:
        MemoryError: If there is no memory for what is computed between; the states are of no use then.
    """
    arguments = (ctypes.byref(model), hidden_states.data_ptr(), addresses_of(states), hidden_states.shape[0])
    _library().decode_token(*arguments)


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(_library())


@library_of_structures("rwkv7_decode_cpu", SOURCE)
def _library(library: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    library.decode_token.argtypes = [ctypes.POINTER(Model), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    raise_errors(library.decode_token)

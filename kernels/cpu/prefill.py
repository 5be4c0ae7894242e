# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Many tokens through all layers of RWKV-7 in one call of C++ (`prefill.cpp`, built on first use)."""

import ctypes
from pathlib import Path

import torch

from ..native_library import raise_errors, why_missing
from .freed_memory import keep_freed_memory
from .linear import IN_FLOAT32, ONEDNN, onednn_is_quicker, way_of_linear
from .structs import Model, Settings, addresses_of, library_of_structures
from .wkv7 import block_of


SOURCE = Path(__file__).with_name("prefill.cpp")


def prefill(model: Model, hidden_states: torch.Tensor, states: list[tuple[torch.Tensor, ...]]) -> None:
    """Takes the tokens of a batch, without padding, through all layers.

    Args:
        model: The weights, all of one dtype and none quantised.
        hidden_states: (batch, time, hidden) of that dtype, contiguous; overwritten by the output of the last layer.
        states: For every layer its last token before the time mix and before the channel mix, (batch, hidden) of that
            dtype, and its recurrent state (batch, heads, value, key), float32; all contiguous and overwritten.

    Raises:
        MemoryError: If there is no memory for what is computed between; the states are of no use then.
        RuntimeError: What torch has to say of a failed product, which may also be that.
    """
    batch, time, hidden = hidden_states.shape
    way = way_of_linear(hidden_states.dtype, batch * time)
    in_float32 = way == IN_FLOAT32
    pointwise = way == ONEDNN or in_float32 and onednn_is_quicker()
    settings = Settings(block_of(model.head_dim, batch * hidden // model.head_dim), in_float32, pointwise)
    _library().prefill(
        ctypes.byref(model), ctypes.byref(settings), hidden_states.data_ptr(), addresses_of(states), batch, time
    )


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(_library())


@library_of_structures("rwkv7_prefill_cpu", SOURCE)
def _library(library: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    keep_freed_memory()
    structures, addresses = [ctypes.POINTER(Model), ctypes.POINTER(Settings)], [ctypes.c_void_p] * 2
    library.prefill.argtypes = structures + addresses + [ctypes.c_int64] * 2
    raise_errors(library.prefill)

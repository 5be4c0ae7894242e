# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the matrices of a layer, in inference on a CPU: functions in C++ instead of several of torch each.

They have no gradients and compute in float32 whatever the dtype (`fused.cpp`, built on first use). What a time mix
does between its matrices is one function, in `time_mix.py`. `modeling_rwkv7.py` holds the same in plain PyTorch.
"""

import ctypes
from pathlib import Path

import torch

from ..native_library import raise_errors, why_missing
from .freed_memory import keep_freed_memory
from .structs import Rows, library_of_structures


SOURCE = Path(__file__).with_name("fused.cpp")


def mix_tokens(hidden_states: torch.Tensor, previous: torch.Tensor, *mixes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`x + (previous - x) * mix` for each of the mixes.

    Args:
        hidden_states: (batch, time, hidden).
        previous: Of the same shape, or (batch, hidden): the token before each row of tokens.
        mixes: Of `hidden` elements each, in any shape.
    """
    x, previous = hidden_states.contiguous(), previous.contiguous()
    shifts = previous.dim() < x.dim()
    mixed = tuple(torch.empty_like(x) for _ in mixes)
    for mix, out in zip(mixes, mixed, strict=True):
        tensors = (x, previous, mix.contiguous(), out)
        library().mix_tokens(*map(Rows.of, tensors), shifts, x.shape[-2], x[..., 0].numel(), x.shape[-1])
    return mixed


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """`relu(x)^2`, of any shape."""
    x = x.contiguous()
    out = torch.empty_like(x)
    library().squared_relu(Rows.of(x), Rows.of(out), x.numel())
    return out


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(library())


@library_of_structures("rwkv7_fused_cpu", SOURCE)
def library(loaded: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    keep_freed_memory()  # here, as only inference on a CPU comes by
    loaded.mix_tokens.argtypes = [Rows] * 4 + [ctypes.c_int64] * 4
    loaded.squared_relu.argtypes = [Rows] * 2 + [ctypes.c_int64]
    loaded.time_mix.argtypes = [ctypes.c_void_p] * 2
    raise_errors(loaded.mix_tokens, loaded.squared_relu, loaded.time_mix)

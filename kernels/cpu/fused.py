# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the matrices of a layer, in inference on a CPU: functions in C++ instead of several of torch each.

They have no gradients and compute in float32 whatever the dtype (`fused.cpp`, built on first use). What a time mix
does between its matrices is one function, in `time_mix_cpu.py`. `modeling_rwkv7.py` holds the same in plain PyTorch.
"""

import ctypes
from pathlib import Path

import torch

from ..guards import is_plain_inference, is_plain_tensor
from ..native_library import built_on_first_use, raise_errors, why_missing
from .freed_memory import keep_freed_memory
from .linear import DTYPES, Rows


SOURCE = Path(__file__).with_name("fused.cpp")


def is_fused(*tensors: torch.Tensor) -> bool:
    """Whether a layer with these hidden states and parameters runs on these functions.

    That takes inference on a CPU, plain tensors of float32, bfloat16 or float16, and a compiler.
    """
    if not all(tensor.dtype in DTYPES and is_plain_tensor(tensor) for tensor in tensors):
        return False
    return is_plain_inference() and why_not_built() is None


def mix_tokens(hidden_states: torch.Tensor, previous: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """`x + (previous - x) * mix`.

    Args:
        hidden_states: (batch, time, hidden).
        previous: Of the same shape, or (batch, hidden): the token before each row of tokens.
        mix: Of `hidden` numbers, in any shape.
    """
    x, previous, mix = hidden_states.contiguous(), previous.contiguous(), mix.contiguous()
    out = torch.empty_like(x)
    shifts = previous.dim() < x.dim()
    library().mix_tokens(*map(Rows.of, (x, previous, mix, out)), shifts, x.shape[-2], *_extent(x))
    return out


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """As in `fused_triton.py`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    library().squared_relu(Rows.of(x), Rows.of(out), x.numel())
    return out


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(library())


def _extent(x: torch.Tensor) -> tuple[int, int]:
    """Tokens and hidden size."""
    return x.numel() // max(x.shape[-1], 1), x.shape[-1]


@built_on_first_use("rwkv7_fused_cpu", SOURCE)
def library(loaded: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    keep_freed_memory()  # here, as only inference on a CPU comes by
    loaded.mix_tokens.argtypes = [Rows] * 4 + [ctypes.c_int64] * 4
    loaded.squared_relu.argtypes = [Rows] * 2 + [ctypes.c_int64]
    loaded.time_mix.argtypes = [ctypes.c_void_p] * 2
    raise_errors(loaded.mix_tokens, loaded.squared_relu, loaded.time_mix)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the recurrence in a layer, in inference on a CPU: five functions in C++ instead of many of torch.

They have no gradients and compute in float32 whatever the dtype (`fused_cpu.cpp`, built on first use). Those without a
description here are described in `fused_triton.py`. `modeling_rwkv7.py` holds the same in plain PyTorch.
"""

import ctypes
import functools
from pathlib import Path

import torch

from .freed_memory import keep_freed_memory
from .linear_cpu import DTYPES, Rows
from .native_library import NativeLibraryError, load_library
from .plain_inference import is_plain_inference, is_plain_tensor


SOURCE = Path(__file__).with_name("fused_cpu.cpp")


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
    _library().mix_tokens(*map(Rows.of, (x, previous, mix, out)), shifts, x.shape[-2], *_extent(x))
    return out


def activate_gates(
    w: torch.Tensor,
    a: torch.Tensor,
    v: torch.Tensor,
    v_gate: torch.Tensor | None,
    v_first: torch.Tensor | None,
    log_decay_scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the low-rank outputs `w`, `a` and `v_gate` stand for: the log decay, the learning rate, the mixed value.

    Args:
        w, a, v, v_gate, v_first: (batch, time, hidden). Without `v_gate` the value stays `v`.
        log_decay_scale: The log decay at `w` of infinity.

    Returns:
        `log_decay_scale * sigmoid(w)` in float32, `sigmoid(a)` and `v + (v_first - v) * sigmoid(v_gate)`.
    """
    inputs = [None if x is None else x.contiguous() for x in (w, a, v_gate, v, v_first)]
    log_decay, rate = torch.empty_like(inputs[0], dtype=torch.float32), torch.empty_like(inputs[1])
    value = v if v_gate is None else torch.empty_like(inputs[3])
    rows = map(Rows.of, (*inputs, log_decay, rate, value))
    _library().activate_gates(*rows, log_decay_scale, *_extent(log_decay))
    return log_decay, rate, value


def prepare_keys(
    k: torch.Tensor, a: torch.Tensor, k_k: torch.Tensor, k_a: torch.Tensor, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As in `fused_triton.py`."""
    inputs = [x.contiguous() for x in (k, a, k_k, k_a)]
    out = [torch.empty_like(inputs[0]) for _ in range(3)]
    _library().prepare_keys(*map(Rows.of, inputs), *map(Rows.of, out), *_extent(inputs[0]), head_dim)
    return tuple(out)


def gated_output(
    y: torch.Tensor,
    r: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    r_k: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """As in `fused_triton.py`."""
    inputs = [x.contiguous() for x in (y, r, k, v, g, r_k, weight, bias)]
    out = torch.empty_like(inputs[4])
    _library().gated_output(*map(Rows.of, inputs), Rows.of(out), eps, *_extent(out), y.shape[-1])
    return out


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """As in `fused_triton.py`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _library().squared_relu(Rows.of(x), Rows.of(out), x.numel())
    return out


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    library = _library()
    return library if isinstance(library, str) else None


def _extent(x: torch.Tensor) -> tuple[int, int]:
    """Tokens and hidden size."""
    return x.numel() // max(x.shape[-1], 1), x.shape[-1]


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The C++ library, or why there is none. Tried once in a process."""
    try:
        library = load_library("rwkv7_fused_cpu", SOURCE)
    except NativeLibraryError as error:
        return str(error)
    keep_freed_memory()  # here, as only inference on a CPU comes by
    integers, rows = [ctypes.c_int64], [Rows]
    library.mix_tokens.argtypes = rows * 4 + integers * 4
    library.activate_gates.argtypes = rows * 8 + [ctypes.c_float] + integers * 2
    library.prepare_keys.argtypes = rows * 7 + integers * 3
    library.gated_output.argtypes = rows * 9 + [ctypes.c_float] + integers * 3
    library.squared_relu.argtypes = rows * 2 + integers
    for name in ("mix_tokens", "activate_gates", "prepare_keys", "gated_output", "squared_relu"):
        getattr(library, name).restype = None
    return library

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A time mix between its matrices in one call of C++ (`time_mix.h` in `fused.cpp`), in inference on a CPU.

That is what makes the inputs of the recurrence from the projections, the recurrence itself, and the norm, bonus and
gate of its output. It computes in float32 whatever the dtype and has no gradients. `modeling_rwkv7.py` holds the same
in plain PyTorch around `wkv7`.
"""

import ctypes
from typing import NamedTuple

import torch

from ..wkv7_operators import as_kernels_read, num_sequences
from .fused import library
from .linear import DTYPES, Rows
from .wkv7 import problem_of


class TimeMixParameters(NamedTuple):
    """What a time mix learns beside its matrices.

    Attributes:
        k_k, k_a: (hidden,).
        r_k: (heads, head_dim).
        norm_weight, norm_bias: (hidden,), of the group norm.
        norm_eps: Of the group norm.
        log_decay_scale: The log decay at a projection of infinity.
    """

    k_k: torch.Tensor
    k_a: torch.Tensor
    r_k: torch.Tensor
    norm_weight: torch.Tensor
    norm_bias: torch.Tensor
    norm_eps: float
    log_decay_scale: float


class _TimeMix(ctypes.Structure):
    _fields_ = [
        *((name, Rows) for name in ("v_gate", "v_first", "g", "k_k", "k_a", "r_k", "weight", "bias")),
        ("log_decay_scale", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("out", Rows),
        ("final_state", ctypes.c_void_p),
    ]


def time_mix(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    g: torch.Tensor,
    v_gate: torch.Tensor | None,
    v_first: torch.Tensor | None,
    *,
    parameters: TimeMixParameters,
    initial_state: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the projections of a time mix to what its output matrix reads.

    With the sigmoids of `w`, `a` and `v_gate`, the log decay is `log_decay_scale w`, the value is
    `v + (v_first - v) v_gate`, the direction of a head's key `kk = normalize(k k_k)`, the key `k (1 + (a - 1) k_a)`.
    `wkv7` gets `-kk` and `kk a` for `a` and `b` and gives `y`. The output is `(group_norm(y) + sum(r k r_k) v) g`.

    Args:
        r, w, k, v, a, g, v_gate, v_first: (batch, time, hidden), float32, bfloat16 or float16, not necessarily all
            the same. Without `v_gate` the value stays `v`.
        parameters: Of these dtypes too, contiguous.
        initial_state, mask, cu_seqlens: As for `wkv7`.

    Returns:
        (batch, time, hidden), and the final state as from `wkv7`.
    """
    heads, head_dim = parameters.r_k.shape
    inputs = [_readable(x) for x in (r, w, k, v, a)]
    gates = [None if x is None else _readable(x) for x in (v_gate, v_first, g)]
    state = None if initial_state is None else initial_state.contiguous()
    layout = as_kernels_read(mask, cu_seqlens)
    shape = (*r.shape[:2], heads, head_dim)
    rows = [*map(Rows.of, inputs), Rows.of(None)]  # none for `b`
    problem = problem_of(rows, shape, num_sequences(r, cu_seqlens), state, *layout)

    out = torch.empty_like(inputs[0])
    final_state = torch.empty(problem.sequences, heads, head_dim, head_dim, dtype=torch.float32)
    around = _TimeMix(
        *map(Rows.of, (*gates, *parameters[:5])),
        parameters.log_decay_scale,
        parameters.norm_eps,
        Rows.of(out),
        final_state.data_ptr(),
    )
    library().time_mix(ctypes.byref(problem), ctypes.byref(around))
    return out, final_state


def _readable(x: torch.Tensor) -> torch.Tensor:
    """As the kernel reads it; a layer that was wrapped may give other dtypes."""
    return (x if x.dtype in DTYPES else x.float()).contiguous()

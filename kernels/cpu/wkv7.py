# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 in C++ on a CPU: `wkv7.cpp`, built on first use, as differentiable custom operators of torch.

The recurrence itself, not its form in chunks: the state of a head stays in the first-level cache, where one token
costs less than the matrix products of a chunk. Inputs are read in their own dtype; padding and packing are done in the
kernel.
"""

import ctypes
from pathlib import Path

import torch

from ..constant_results import assume_constant_result
from ..native_library import raise_errors, why_missing
from ..wkv7_operators import DTYPES, add_parts, as_kernels_read, define_operators, num_sequences, run_operator
from .structs import Gradients, Problem, Rows, library_of_structures


SOURCE = Path(__file__).with_name("wkv7.cpp")

MAX_HEAD_DIM = 256
HEAD_DIM_STEP = 16  # the narrowest block of the kernel
BLOCKS = (64, 32, 16)  # value dimensions that one task handles at a time
CHECKPOINT_INTERVAL = 32  # tokens; the states of so many have to fit into the second-level cache


@library_of_structures("rwkv7_wkv7_cpu", SOURCE)
def _library(library: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    library.wkv7_forward.argtypes = [ctypes.POINTER(Problem), Rows, ctypes.c_void_p]
    library.wkv7_backward.argtypes = [
        ctypes.POINTER(Problem),
        Rows,
        ctypes.c_void_p,
        ctypes.POINTER(Gradients),
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    raise_errors(library.wkv7_forward, library.wkv7_backward)


@assume_constant_result
def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(_library())


def why_unsuitable(r: torch.Tensor) -> str | None:
    """Why inputs like `r` are not for this backend, or `None`."""
    if r.device.type != "cpu":
        return f"it runs on the CPU, and the inputs are on {r.device}"
    if r.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {r.dtype}"
    if r.shape[-1] % HEAD_DIM_STEP or not 0 < r.shape[-1] <= MAX_HEAD_DIM:
        return f"it takes head sizes from 16 to {MAX_HEAD_DIM} in steps of {HEAD_DIM_STEP}, not {r.shape[-1]}"
    return None


def wkv7_cpu(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in C++.

    Args:
        r, w, k, v, a, b: (batch, time, heads, head_dim), float32, bfloat16 or float16, not necessarily all the same;
            `w` is the log decay.
        state: (batch or sequences, heads, value, key), float32, or `None` for zero.
        mask: (batch, time), true for real tokens; others leave the state as it was and output zero.
        cu_seqlens: (sequences + 1,), int: boundaries of sequences packed in a batch of one.

    Returns:
        `y` of the shape and dtype of `r`, and the final state, float32.
    """
    return run_operator(_forward_op, (r, w, k, v, a, b), state, mask, cu_seqlens)


# ---------------------------------------------------------------------------------------------------------- internals


def _run_forward(inputs, state, mask, cu_seqlens, y, final_state, checkpoints):
    layout = as_kernels_read(mask, cu_seqlens)
    problem = _problem(inputs, state, *layout, checkpoints)
    _library().wkv7_forward(ctypes.byref(problem), Rows.of(y), final_state.data_ptr())


def _run_backward(inputs, mask, cu_seqlens, checkpoints, dy, d_final, d_initial):
    layout = as_kernels_read(mask, cu_seqlens)
    problem = _problem(inputs, None, *layout, checkpoints)
    # Too few heads for the threads: the blocks of a head go to several, and their parts of a gradient are added here.
    tasks, blocks = problem.sequences * problem.heads, problem.size // problem.block
    parts = blocks if tasks < torch.get_num_threads() else 1
    gradients = [
        torch.empty_like(x) if parts == 1 or name == "v" else torch.empty(parts, *x.shape, dtype=torch.float32)
        for name, x in zip("rwkvab", inputs, strict=True)
    ]
    _library().wkv7_backward(
        ctypes.byref(problem),
        Rows.of(dy),
        None if d_final is None else d_final.data_ptr(),
        ctypes.byref(Gradients(*map(Rows.of, gradients))),
        parts,
        d_initial.data_ptr(),
    )
    return add_parts(gradients, inputs)


_forward_op = define_operators("wkv7_cpu", CHECKPOINT_INTERVAL, _run_forward, _run_backward, device_types="cpu")


def block_of(head_dim: int, tasks: int) -> int:
    """The widest block that divides a head and leaves no thread idle that a narrower one would use."""
    fitting = [block for block in BLOCKS if head_dim % block == 0]
    enough = [block for block in fitting if tasks * (head_dim // block) >= torch.get_num_threads()]
    return (enough or fitting[-1:])[0]


def problem_of(
    inputs: list[Rows],
    shape: tuple[int, int, int, int],
    sequences: int,
    state: torch.Tensor | None,
    mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    checkpoints: torch.Tensor | None = None,
) -> Problem:
    """What the C++ functions are told. The caller keeps the tensors alive meanwhile.

    Args:
        inputs: r, w, k, v, a and b; an empty one where the function does without.
        shape: (batch, time, heads, head_dim) of each.
        sequences: How many there are.
        state, mask, cu_seqlens, checkpoints: Contiguous, as the kernels read them (`as_kernels_read`).
    """
    batch, time, heads, size = shape
    sizes = (sequences, batch * time, heads, size, block_of(size, sequences * heads), CHECKPOINT_INTERVAL)
    optional = (None if x is None else x.data_ptr() for x in (cu_seqlens, mask, state, checkpoints))
    return Problem(*sizes, *inputs, *optional)


def _problem(inputs, state, mask, cu_seqlens, checkpoints) -> Problem:
    sequences = num_sequences(inputs[0], cu_seqlens)
    rows = [Rows.of(x) for x in inputs]
    return problem_of(rows, inputs[0].shape, sequences, state, mask, cu_seqlens, checkpoints)

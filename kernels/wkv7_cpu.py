# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 in C++ on a CPU: `wkv7_cpu.cpp`, built on first use, as differentiable custom operators of torch.

The recurrence itself, not its form in chunks: the state of a head stays in the first-level cache, where one token
costs less than the matrix products of a chunk. Inputs are read in their own dtype; padding and packing are done in the
kernel.
"""

import ctypes
import functools
from pathlib import Path

import torch

from .native_library import NativeLibraryError, load_library


SOURCE = Path(__file__).with_name("wkv7_cpu.cpp")

MAX_HEAD_DIM = 256
HEAD_DIM_STEP = 16  # the narrowest block of the kernel
BLOCKS = (64, 32, 16)  # value dimensions that one task handles at a time
CHECKPOINT_INTERVAL = 32  # tokens; the states of so many have to fit into the second-level cache
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as in the C++ file


class _Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int64)]


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("sequences", "tokens", "heads", "size", "block", "interval")),
        *((name, _Rows) for name in "rwkvab"),
        *((name, ctypes.c_void_p) for name in ("boundaries", "mask", "initial_state", "checkpoints")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, _Rows) for name in "rwkvab"]


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The C++ library, or why there is none. Tried once in a process."""
    try:
        library = load_library("rwkv7_wkv7_cpu", SOURCE)
    except NativeLibraryError as error:
        return str(error)
    library.wkv7_forward.argtypes = [ctypes.POINTER(_Problem), _Rows, ctypes.c_void_p]
    library.wkv7_backward.argtypes = [
        ctypes.POINTER(_Problem),
        _Rows,
        ctypes.c_void_p,
        ctypes.POINTER(_Gradients),
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    library.wkv7_forward.restype = library.wkv7_backward.restype = None
    return library


@torch.compiler.assume_constant_result
def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    library = _library()
    return library if isinstance(library, str) else None


def why_unsuitable(r: torch.Tensor) -> str | None:
    """Why inputs like `r` are not for this backend, or `None`."""
    if r.device.type != "cpu":
        return f"it runs on the CPU, and the inputs are on {r.device}"
    if r.dtype not in _DTYPES:
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
    inputs = [x if x.dtype in _DTYPES else x.float() for x in (r, w, k, v, a, b)]
    differentiated = [*inputs, state] if state is not None else inputs
    save = torch.is_grad_enabled() and any(x.requires_grad for x in differentiated)
    y, final_state, _ = _forward_op(*inputs, state, mask, cu_seqlens, save)
    return y, final_state


# ------------------------------------------------------------------------------------------------------ the operators


@torch.library.custom_op("rwkv7_world::wkv7_cpu", mutates_args=(), device_types="cpu")
def _forward_op(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None,
    mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    save: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`y`, the final state and, if `save`, the states at checkpoints, else nothing."""
    y, final_state, checkpoints = _empty_outputs(r, cu_seqlens, save)
    inputs = [x.contiguous() for x in (r, w, k, v, a, b)]
    problem, kept = _problem(inputs, state, mask, cu_seqlens, checkpoints)
    _library().wkv7_forward(ctypes.byref(problem), _rows(y), final_state.data_ptr())
    del kept
    return y, final_state, checkpoints


@_forward_op.register_fake
def _(r, w, k, v, a, b, state, mask, cu_seqlens, save):
    return _empty_outputs(r, cu_seqlens, save)


@torch.library.custom_op("rwkv7_world::wkv7_cpu_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    checkpoints: torch.Tensor,
    dy: torch.Tensor,
    d_final: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of r, w, k, v, a, b and of the initial state."""
    inputs = [x.contiguous() for x in (r, w, k, v, a, b)]
    problem, kept = _problem(inputs, None, mask, cu_seqlens, checkpoints)
    dy = dy.to(r.dtype).contiguous()
    d_final = None if d_final is None else d_final.float().contiguous()
    d_initial = _empty_outputs(r, cu_seqlens, False)[1]

    # Too few heads for the threads: the blocks of a head go to several, and their parts of a gradient are added here.
    tasks, blocks = problem.sequences * problem.heads, problem.size // problem.block
    parts = blocks if tasks < torch.get_num_threads() else 1
    gradients = [
        torch.empty_like(x) if parts == 1 or name == "v" else torch.empty(parts, *x.shape, dtype=torch.float32)
        for name, x in zip("rwkvab", inputs, strict=True)
    ]
    _library().wkv7_backward(
        ctypes.byref(problem),
        _rows(dy),
        None if d_final is None else d_final.data_ptr(),
        ctypes.byref(_Gradients(*map(_rows, gradients))),
        parts,
        d_initial.data_ptr(),
    )
    del kept
    gradients = [g if g.dim() == 4 else g.sum(0).to(x.dtype) for g, x in zip(gradients, inputs, strict=True)]
    return *gradients, d_initial


@_backward_op.register_fake
def _(r, w, k, v, a, b, mask, cu_seqlens, checkpoints, dy, d_final):
    gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (r, w, k, v, a, b)]
    return *gradients, _empty_outputs(r, cu_seqlens, False)[1]


def _setup_context(ctx, inputs, output):
    *tensors, state, mask, cu_seqlens, save = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, mask, cu_seqlens, output[2])
    ctx.has_state, ctx.saved_checkpoints = state is not None, save


def _backward(ctx, dy, d_final, _):
    if not ctx.saved_checkpoints:
        raise RuntimeError("wkv7_cpu ran without saving what its backward pass needs.")
    *tensors, mask, cu_seqlens, checkpoints = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    *gradients, d_initial = _backward_op(*tensors, mask, cu_seqlens, checkpoints, dy, d_final)
    return *gradients, d_initial if ctx.has_state else None, None, None, None


_forward_op.register_autograd(_backward, setup_context=_setup_context)


# ---------------------------------------------------------------------------------------------------------- internals


def _num_sequences(r, cu_seqlens) -> int:
    return r.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _block(head_dim: int, tasks: int) -> int:
    """The widest block that divides a head and leaves no thread idle that a narrower one would use."""
    fitting = [block for block in BLOCKS if head_dim % block == 0]
    enough = [block for block in fitting if tasks * (head_dim // block) >= torch.get_num_threads()]
    return (enough or fitting[-1:])[0]


def _empty_outputs(r, cu_seqlens, save):
    batch, time, heads, size = r.shape
    sequences = _num_sequences(r, cu_seqlens)
    y = torch.empty(r.shape, dtype=r.dtype, device=r.device)
    final_state = torch.empty(sequences, heads, size, size, dtype=torch.float32, device=r.device)
    slots = batch * time // CHECKPOINT_INTERVAL + sequences if save else 0
    return y, final_state, torch.empty(slots, heads, size, size, dtype=torch.float32, device=r.device)


def _rows(x: torch.Tensor) -> _Rows:
    return _Rows(x.data_ptr(), _DTYPES[x.dtype])


def _problem(inputs, state, mask, cu_seqlens, checkpoints) -> tuple[_Problem, list[torch.Tensor | None]]:
    """The kernel's arguments, and tensors that must live as long as they do."""
    batch, time, heads, size = inputs[0].shape
    sequences = _num_sequences(inputs[0], cu_seqlens)
    kept = [
        None if cu_seqlens is None else cu_seqlens.to(torch.int64).contiguous(),
        None if mask is None else mask.bool().contiguous(),
        None if state is None else state.contiguous(),
        checkpoints if checkpoints.numel() else None,
    ]
    problem = _Problem(
        sequences,
        batch * time,
        heads,
        size,
        _block(size, sequences * heads),
        CHECKPOINT_INTERVAL,
        *map(_rows, inputs),
        *(None if x is None else x.data_ptr() for x in kept),
    )
    return problem, [*kept, *inputs]

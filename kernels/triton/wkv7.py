# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 in Triton on a GPU, as differentiable custom operators of torch.

Up to a chunk of tokens run one by one with the state in registers (`wkv7_triton_recurrent.py`); more, and every
backward pass, in chunks on tensor cores (`wkv7_triton_chunked.py`). Inputs are read in their own dtype, the state and
all sums are float32; padding and packing are done in the kernels. Triton is imported when a kernel is first run.
"""

import contextlib
import functools
import os

import torch

from ..constant_results import assume_constant_result
from ..wkv7_operators import DTYPES, add_parts, as_kernels_read, define_operators, num_sequences, run_operator


INTERPRETER_VARIABLE = "TRITON_INTERPRET"  # read by Triton when it is imported; makes kernels run on CPU tensors
MAX_HEAD_DIM = 256
HEAD_DIM_STEP = 16
CHUNK = 16  # tokens: one tile of the tensor cores
# Of the matrix products, by the dtype of `r`: three products of 11 bits are about float32. One is finer than bfloat16,
# whose products would be off by two in a hundred, and has the range that float16 lacks.
_PRECISIONS = {torch.float32: "tf32x3", torch.bfloat16: "tf32", torch.float16: "tf32"}


@functools.cache
def _import_error() -> str | None:
    try:
        import triton  # noqa: F401
    except Exception as error:  # a broken installation must not take down what runs without it
        return f"Triton cannot be imported ({error})"
    return None


def is_interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors, as in tests without a GPU."""
    return os.environ.get(INTERPRETER_VARIABLE) == "1"


def why_unsuitable(r: torch.Tensor) -> str | None:
    """Why inputs like `r` are not for this backend, or `None`."""
    if r.device.type != "cuda" and not (r.device.type == "cpu" and is_interpreted()):
        return f"it runs on GPUs, and the inputs are on {r.device} ({INTERPRETER_VARIABLE}=1 interprets it on the CPU)"
    if r.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {r.dtype}"
    if r.shape[-1] % HEAD_DIM_STEP or not 0 < r.shape[-1] <= MAX_HEAD_DIM:
        return f"it takes head sizes from 16 to {MAX_HEAD_DIM} in steps of {HEAD_DIM_STEP}, not {r.shape[-1]}"
    return None


@assume_constant_result
def why_not_here() -> str | None:
    """Why no inputs can run on this backend in this process, or `None`. Imports Triton."""
    if reason := _import_error():
        return reason
    if not torch.cuda.is_available() and not is_interpreted():
        return "there is no GPU"
    return None


def wkv7_triton(
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
    """The recurrence in Triton.

    Args:
        r, w, k, v, a, b: (batch, time, heads, head_dim), float32, bfloat16 or float16, not necessarily all the same;
            `w` is the log decay, which must stay above about -5 (RWKV-7's is above -0.6066). The precision of the
            matrix products goes by the dtype of `r`.
        state: (batch or sequences, heads, value, key), float32, or `None` for zero.
        mask: (batch, time), true for real tokens; others leave the state as it was and output zero.
        cu_seqlens: (sequences + 1,), int: boundaries of sequences packed in a batch of one.

    Returns:
        `y` of the shape and dtype of `r`, and the final state, float32.
    """
    return run_operator(_forward_op, (r, w, k, v, a, b), state, mask, cu_seqlens)


# ---------------------------------------------------------------------------------------------------------- internals


def _run_forward(inputs, state, mask, cu_seqlens, y, final_state, checkpoints):
    arguments = [*inputs, state, *as_kernels_read(mask, cu_seqlens), y, final_state, checkpoints]
    if y.shape[1] <= CHUNK:
        _launch("recurrent_kernel", arguments, y, cu_seqlens)
    else:
        _launch("chunked_forward_kernel", arguments, y, cu_seqlens, PRECISION=_PRECISIONS[y.dtype])


def _run_backward(inputs, mask, cu_seqlens, checkpoints, dy, d_final, d_initial):
    # Each block of values has its own part of all gradients but that of `v`; they are added in a fixed order.
    parts = _num_value_blocks(dy, cu_seqlens)
    gradients = [
        torch.empty_like(x) if parts == 1 or name == "v" else x.new_empty(parts, *x.shape, dtype=torch.float32)
        for name, x in zip("rwkvab", inputs, strict=True)
    ]
    layout = as_kernels_read(mask, cu_seqlens)
    arguments = [*inputs, *layout, checkpoints, dy, d_final, *gradients, d_initial]
    _launch("chunked_backward_kernel", arguments, dy, cu_seqlens, PRECISION=_PRECISIONS[dy.dtype])
    return add_parts(gradients, inputs)


_forward_op = define_operators("wkv7_triton", CHUNK, _run_forward, _run_backward)


def _power_of_two_from(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _value_block(r, cu_seqlens) -> int:
    """How many rows of the state a program holds: as many as registers allow, fewer where processors would idle."""
    size, tasks = r.shape[3], num_sequences(r, cu_seqlens) * r.shape[2]
    block = min(_power_of_two_from(size), 32 if size > 128 else 64)
    while block > 16 and tasks * -(-size // block) < num_processors(r.device):
        block //= 2
    return block


def _num_value_blocks(r, cu_seqlens) -> int:
    return -(-r.shape[3] // _value_block(r, cu_seqlens))


@functools.cache
def num_processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _launch(kernel: str, arguments: list, r, cu_seqlens, **constants) -> None:
    """Runs a kernel over all sequences, heads and blocks of values."""
    from . import wkv7_chunked as wkv7_triton_chunked
    from . import wkv7_recurrent as wkv7_triton_recurrent

    module = wkv7_triton_recurrent if kernel == "recurrent_kernel" else wkv7_triton_chunked
    batch, time, heads, size = r.shape
    grid = (num_sequences(r, cu_seqlens) * heads, _num_value_blocks(r, cu_seqlens))
    constants |= {"BLOCK_V": _value_block(r, cu_seqlens), "BLOCK_K": _power_of_two_from(size), "CHUNK": CHUNK}
    with on_device(r.device):
        getattr(module, kernel)[grid](*arguments, time, heads, SIZE=size, num_warps=8 if size > 64 else 4, **constants)


def on_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Makes a GPU the current one, where Triton launches its kernels."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of WKV-7 token by token, for decoding and short prompts: the state never leaves the registers."""

import triton
import triton.language as tl

from .wkv7_tiles import checkpoint, load_state, span, store_state


@triton.jit
def _load_row(pointer, row, columns, width, SIZE: tl.constexpr):
    return tl.load(pointer + row * SIZE + columns, mask=columns < width, other=0.0).to(tl.float32)


@triton.jit
def recurrent_kernel(
    r,
    w,
    k,
    v,
    a,
    b,
    initial,
    mask,
    boundaries,
    y,
    final,
    checkpoints,
    time,
    heads,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One program per (sequence and head, block of values).

    `initial`, `mask`, `boundaries` and `checkpoints` may be `None`. With `checkpoints`, at most one chunk of tokens:
    the only state kept for the backward pass is the first.
    """
    slot = tl.program_id(0).to(tl.int64)  # of the state: sequence * heads + head
    first, length = span(boundaries, slot // heads, time)
    values, keys = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_K)
    if initial is None:
        state = tl.zeros((BLOCK_V, BLOCK_K), tl.float32)
    else:
        state = load_state(initial, slot, values, keys, SIZE)
    if checkpoints is not None:
        store_state(checkpoints, checkpoint(first, slot, 0, heads, CHUNK), values, keys, state, SIZE)

    for t in range(0, length):
        token = first + t
        row = token * heads + slot % heads
        # A masked token has no width: it reads as zero, also in the log decay, and leaves the state as it was.
        width = SIZE if mask is None else tl.where(tl.load(mask + token) != 0, SIZE, 0)
        decay = tl.exp(_load_row(w, row, keys, width, SIZE))
        removed = tl.sum(state * _load_row(a, row, keys, width, SIZE)[None, :], axis=1)  # (V,)
        state = state * decay[None, :] + removed[:, None] * _load_row(b, row, keys, width, SIZE)[None, :]
        written = _load_row(v, row, values, width, SIZE)[:, None] * _load_row(k, row, keys, width, SIZE)[None, :]
        state += written
        output = tl.sum(state * _load_row(r, row, keys, width, SIZE)[None, :], axis=1)
        output = tl.where(values < width, output, 0.0).to(y.dtype.element_ty)
        tl.store(y + row * SIZE + values, output, mask=values < SIZE)
    store_state(final, slot, values, keys, state, SIZE)

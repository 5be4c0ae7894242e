# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the Triton kernels of WKV-7 share: which tokens are whose, and tiles of memory.

Inputs (batch, time, heads, head_dim) are seen as rows of `size = head_dim` numbers, row `token * heads + head`, where
tokens are counted through the whole batch. Offsets are of 64 bits. Triton wants powers of two: tiles are wider than
a head where its size is none, and what is beyond it reads as zero and is never written.
"""

import triton
import triton.language as tl


@triton.jit
def span(boundaries, sequence, time):
    """First token and number of tokens of a sequence: a row of the batch, or packed between two boundaries."""
    if boundaries is None:
        first = sequence * time
        after = first + time
    else:
        first = tl.load(boundaries + sequence)
        after = tl.load(boundaries + sequence + 1)
    return first, after - first


@triton.jit
def chunk_rows(mask, first, length, chunk, slot, heads, CHUNK: tl.constexpr):
    """The tokens of a chunk: their rows, which of them are inside the sequence, and which are not masked either."""
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = tokens < length
    tokens = first + tokens
    real = inside
    if mask is not None:
        real = inside & (tl.load(mask + tokens, mask=inside, other=0) != 0)
    return tokens * heads + slot % heads, inside, real


@triton.jit
def load_tokens(pointer, rows, columns, real, SIZE: tl.constexpr):
    """(columns, rows) in float32; zero where a row is not real or a column outside."""
    offsets = rows[None, :] * SIZE + columns[:, None]
    return tl.load(pointer + offsets, mask=real[None, :] & (columns < SIZE)[:, None], other=0.0).to(tl.float32)


@triton.jit
def store_tokens(pointer, rows, columns, inside, real, values, SIZE: tl.constexpr):
    """Writes (columns, rows): the values where a row is real, zero in the others that are inside."""
    offsets = rows[None, :] * SIZE + columns[:, None]
    values = tl.where(real[None, :], values, 0.0).to(pointer.dtype.element_ty)
    tl.store(pointer + offsets, values, mask=inside[None, :] & (columns < SIZE)[:, None])


@triton.jit
def state_offsets(slot, values, keys, SIZE: tl.constexpr):
    """Offsets and mask of the tile (values, keys) of the state number `slot`."""
    offsets = slot * (SIZE * SIZE) + values[:, None] * SIZE + keys[None, :]
    return offsets, (values < SIZE)[:, None] & (keys < SIZE)[None, :]


@triton.jit
def load_state(pointer, slot, values, keys, SIZE: tl.constexpr):
    offsets, inside = state_offsets(slot, values, keys, SIZE)
    return tl.load(pointer + offsets, mask=inside, other=0.0)


@triton.jit
def store_state(pointer, slot, values, keys, state, SIZE: tl.constexpr):
    offsets, inside = state_offsets(slot, values, keys, SIZE)
    tl.store(pointer + offsets, state, mask=inside)


@triton.jit
def checkpoint(first, slot, chunk, heads, CHUNK: tl.constexpr):
    """Number of the state before a chunk: sequences have room for theirs one after the other."""
    return (first // CHUNK + slot // heads + chunk) * heads + slot % heads

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of WKV-7 in chunks of matrix products, forward and backward: the algebra of `wkv7_chunked.py`.

A program walks over the chunks of one sequence and head with a block of the state's rows (values) in registers; rows
do not depend on each other. Forward stores the state before every chunk. Backward starts each chunk from there, works
out its removals `u` again and carries the gradient of the state back; nothing is ever divided by a decay of more
than half a chunk.

Everything is transposed, tokens are columns: a chunk has as many tokens as one tile of the tensor cores has rows, and
only values and keys are enough rows for all warps. Tiles are (K, L) or (V, L), scores (L, L) with the token that is
read first and the token that reads second.
"""

import triton
import triton.language as tl

from .wkv7_tiles import checkpoint, chunk_rows, load_state, load_tokens, span, store_state, store_tokens


@triton.jit
def _column(tile, index, CHUNK: tl.constexpr):
    """(rows, 1): one column of a tile."""
    return tl.sum(tl.where((tl.arange(0, CHUNK) == index)[None, :], tile, 0.0), axis=1)[:, None]


@triton.jit
def _decays(w, CHUNK: tl.constexpr):
    """What each token's inputs are multiplied by, from the log decays (K, L).

    Returns:
        The decay from the chunk's start up to and before each token, through it, and after it to the chunk's end;
        of the whole chunk (1, K); then up to, through and against the chunk's middle, which halves the range.
    """
    through = tl.cumsum(w, axis=1)
    before = through - w
    last, middle = _column(through, CHUNK - 1, CHUNK), _column(through, CHUNK // 2, CHUNK)
    return (
        tl.exp(before),
        tl.exp(through),
        tl.exp(last - through),
        tl.trans(tl.exp(last)),
        tl.exp(before - middle),
        tl.exp(through - middle),
        tl.exp(middle - through),
    )


@triton.jit
def _of_later(scores, CHUNK: tl.constexpr):
    """The scores (L, L) with which a token is read by those after it."""
    index = tl.arange(0, CHUNK)
    return tl.where(index[:, None] < index[None, :], scores, 0.0)


@triton.jit
def _of_same_and_later(scores, CHUNK: tl.constexpr):
    """The scores (L, L) with which a token is read by itself and those after it."""
    index = tl.arange(0, CHUNK)
    return tl.where(index[:, None] <= index[None, :], scores, 0.0)


@triton.jit
def _between(scores, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """The part of (L, L) that joins two neighbouring blocks of `WIDTH`."""
    block = tl.arange(0, CHUNK) // WIDTH
    pair = block // 2
    return tl.where((pair[:, None] == pair[None, :]) & (block[:, None] != block[None, :]), scores, 0.0)


@triton.jit
def _inverse_unit_triangular(scores, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """(I - A)^-1 of strictly triangular A (16, 16): blocks on the diagonal, joined two by two."""
    index = tl.arange(0, CHUNK)
    inverse = tl.where(index[:, None] == index[None, :], 1.0, 0.0) + _between(scores, 1, CHUNK)
    beside = tl.dot(inverse, _between(scores, 2, CHUNK), None, PRECISION)
    inverse = tl.dot(beside, inverse, inverse, PRECISION)
    beside = tl.dot(inverse, _between(scores, 4, CHUNK), None, PRECISION)
    inverse = tl.dot(beside, inverse, inverse, PRECISION)
    beside = tl.dot(inverse, _between(scores, 8, CHUNK), None, PRECISION)
    return tl.dot(beside, inverse, inverse, PRECISION)


@triton.jit
def _removals(a_near, k_near, b_near, v, a_start, state, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """What a chunk's tokens find under their removal keys and take away.

    Returns:
        Scores of `k` read by `a` (L, L), the inverse of the system (L, L), the removals `u` (V, L).
    """
    a_k = _of_later(tl.dot(tl.trans(k_near), a_near, None, PRECISION), CHUNK)
    a_b = _of_later(tl.dot(tl.trans(b_near), a_near, None, PRECISION), CHUNK)
    inverse = _inverse_unit_triangular(a_b, CHUNK, PRECISION)
    found = tl.dot(v, a_k, tl.dot(state, a_start, None, PRECISION), PRECISION)
    return a_k, inverse, tl.dot(found, inverse, None, PRECISION)


@triton.jit
def _reads(r_near, k_near, b_near, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Scores of `k` and of `b` read by `r`, (L, L)."""
    r_k = _of_same_and_later(tl.dot(tl.trans(k_near), r_near, None, PRECISION), CHUNK)
    return r_k, _of_same_and_later(tl.dot(tl.trans(b_near), r_near, None, PRECISION), CHUNK)


@triton.jit
def chunked_forward_kernel(
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
    PRECISION: tl.constexpr,
):
    """One program per (sequence and head, block of values).

    `initial`, `mask`, `boundaries` and `checkpoints` may be `None`.
    """
    slot = tl.program_id(0).to(tl.int64)  # of the state: sequence * heads + head
    first, length = span(boundaries, slot // heads, time)
    values, keys = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_K)
    if initial is None:
        state = tl.zeros((BLOCK_V, BLOCK_K), tl.float32)
    else:
        state = load_state(initial, slot, values, keys, SIZE)

    for chunk in range(0, tl.cdiv(length, CHUNK)):
        if checkpoints is not None:
            store_state(checkpoints, checkpoint(first, slot, chunk, heads, CHUNK), values, keys, state, SIZE)
        rows, inside, real = chunk_rows(mask, first, length, chunk, slot, heads, CHUNK)
        before, through, after, whole, to_a, to_r, to_keys = _decays(load_tokens(w, rows, keys, real, SIZE), CHUNK)
        r_tile, k_tile = load_tokens(r, rows, keys, real, SIZE), load_tokens(k, rows, keys, real, SIZE)
        a_tile, b_tile = load_tokens(a, rows, keys, real, SIZE), load_tokens(b, rows, keys, real, SIZE)
        v_tile = load_tokens(v, rows, values, real, SIZE)
        k_near, b_near = k_tile * to_keys, b_tile * to_keys
        _, _, removed = _removals(a_tile * to_a, k_near, b_near, v_tile, a_tile * before, state, CHUNK, PRECISION)

        r_k, r_b = _reads(r_tile * to_r, k_near, b_near, CHUNK, PRECISION)
        output = tl.dot(state, r_tile * through, None, PRECISION)
        output = tl.dot(v_tile, r_k, output, PRECISION)
        output = tl.dot(removed, r_b, output, PRECISION)
        store_tokens(y, rows, values, inside, real, output, SIZE)

        state = tl.dot(v_tile, tl.trans(k_tile * after), state * whole, PRECISION)
        state = tl.dot(removed, tl.trans(b_tile * after), state, PRECISION)
    store_state(final, slot, values, keys, state, SIZE)


@triton.jit
def _reader_gradient(d_k_scores, d_b_scores, k_near, b_near, near, d_start, start, PRECISION: tl.constexpr):
    """Gradient of `r` or `a`, which read keys and replacements of the chunk and, decayed from its start, the state."""
    gradient = tl.dot(b_near, d_b_scores, tl.dot(k_near, d_k_scores, None, PRECISION), PRECISION)
    return gradient * near + d_start * start


@triton.jit
def _read_gradient(d_r_scores, d_a_scores, r_near, a_near, near, PRECISION: tl.constexpr):
    """Gradient of `k` or `b` through what the chunk's `r` and `a` read of it."""
    through_r = tl.dot(r_near, tl.trans(d_r_scores), None, PRECISION)
    return tl.dot(a_near, tl.trans(d_a_scores), through_r, PRECISION) * near


@triton.jit
def _found_and_value_gradients(d_state, b_after, k_after, dy_tile, r_b, r_k, a_k, inverse, PRECISION: tl.constexpr):
    """Gradients of what the removals were found from, and of the values."""
    d_removed = tl.dot(d_state, b_after, None, PRECISION)
    d_removed = tl.dot(dy_tile, tl.trans(r_b), d_removed, PRECISION)
    d_found = tl.dot(d_removed, tl.trans(inverse), None, PRECISION)
    d_v = tl.dot(d_state, k_after, None, PRECISION)
    d_v = tl.dot(dy_tile, tl.trans(r_k), d_v, PRECISION)
    return d_found, tl.dot(d_found, tl.trans(a_k), d_v, PRECISION)


@triton.jit
def _score_gradients(v_tile, removed, d_found, dy_tile, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """Gradients of the scores of `k` and `b` read by `a`, and of both read by `r`, (L, L)."""
    v_t, removed_t = tl.trans(v_tile), tl.trans(removed)
    d_a_k = _of_later(tl.dot(v_t, d_found, None, PRECISION), CHUNK)
    d_a_b = _of_later(tl.dot(removed_t, d_found, None, PRECISION), CHUNK)
    d_r_k = _of_same_and_later(tl.dot(v_t, dy_tile, None, PRECISION), CHUNK)
    return d_a_k, d_a_b, d_r_k, _of_same_and_later(tl.dot(removed_t, dy_tile, None, PRECISION), CHUNK)


@triton.jit
def _decay_gradient(near, by_a, at_end, whole, state, d_state):
    """Gradient of the log decays, (K, L).

    A token's acts on what the chunk's tokens from it on read (`a` reads before it decays), and on what the tokens
    before it and the state at the start leave at the end. `near`, `by_a` and `at_end` are inputs times gradients.
    """
    d_w = tl.cumsum(near + by_a, axis=1, reverse=True) - by_a
    d_w += tl.cumsum(at_end, axis=1) - at_end
    return d_w + tl.trans(whole) * tl.sum(state * d_state, axis=0)[:, None]


@triton.jit
def chunked_backward_kernel(
    r,
    w,
    k,
    v,
    a,
    b,
    mask,
    boundaries,
    checkpoints,
    dy,
    d_final,
    dr,
    dw,
    dk,
    dv,
    da,
    db,
    d_initial,
    time,
    heads,
    SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program per (sequence and head, block of values). `mask`, `boundaries` and `d_final` may be `None`.

    All gradients but that of `v` are sums over the blocks of values: each block writes its own part, one after the
    other in `dr`, `dw`, `dk`, `da` and `db`.
    """
    slot = tl.program_id(0).to(tl.int64)
    first, length = span(boundaries, slot // heads, time)
    values, keys = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_K)
    # Rows before this block's part; packed sequences have `time` tokens all together.
    part = tl.program_id(1).to(tl.int64) * time * (tl.num_programs(0) if boundaries is None else heads)
    if d_final is None:
        d_state = tl.zeros((BLOCK_V, BLOCK_K), tl.float32)
    else:
        d_state = load_state(d_final, slot, values, keys, SIZE)

    chunks = tl.cdiv(length, CHUNK)
    for step in range(0, chunks):
        chunk = chunks - 1 - step
        state = load_state(checkpoints, checkpoint(first, slot, chunk, heads, CHUNK), values, keys, SIZE)
        rows, inside, real = chunk_rows(mask, first, length, chunk, slot, heads, CHUNK)

        # Forward again, up to the removals
        before, through, after, whole, to_a, to_r, to_keys = _decays(load_tokens(w, rows, keys, real, SIZE), CHUNK)
        r_tile, k_tile = load_tokens(r, rows, keys, real, SIZE), load_tokens(k, rows, keys, real, SIZE)
        a_tile, b_tile = load_tokens(a, rows, keys, real, SIZE), load_tokens(b, rows, keys, real, SIZE)
        v_tile, dy_tile = load_tokens(v, rows, values, real, SIZE), load_tokens(dy, rows, values, real, SIZE)
        r_near, a_near, k_near, b_near = r_tile * to_r, a_tile * to_a, k_tile * to_keys, b_tile * to_keys
        a_k, inverse, removed = _removals(a_near, k_near, b_near, v_tile, a_tile * before, state, CHUNK, PRECISION)
        r_k, r_b = _reads(r_near, k_near, b_near, CHUNK, PRECISION)

        d_found, d_v = _found_and_value_gradients(
            d_state, b_tile * after, k_tile * after, dy_tile, r_b, r_k, a_k, inverse, PRECISION
        )
        store_tokens(dv, rows, values, inside, real, d_v, SIZE)

        # Through the scores and the state at the chunk's start, then through the state at its end
        state_t, d_state_t = tl.trans(state), tl.trans(d_state)
        d_a_k, d_a_b, d_r_k, d_r_b = _score_gradients(v_tile, removed, d_found, dy_tile, CHUNK, PRECISION)
        d_start = tl.dot(state_t, dy_tile, None, PRECISION)
        d_r = _reader_gradient(d_r_k, d_r_b, k_near, b_near, to_r, d_start, through, PRECISION)
        d_start = tl.dot(state_t, d_found, None, PRECISION)
        d_a = _reader_gradient(d_a_k, d_a_b, k_near, b_near, to_a, d_start, before, PRECISION)
        d_k = _read_gradient(d_r_k, d_a_k, r_near, a_near, to_keys, PRECISION)
        d_b = _read_gradient(d_r_b, d_a_b, r_near, a_near, to_keys, PRECISION)
        d_k_end = tl.dot(d_state_t, v_tile, None, PRECISION) * after
        d_b_end = tl.dot(d_state_t, removed, None, PRECISION) * after
        store_tokens(dr, part + rows, keys, inside, real, d_r, SIZE)
        store_tokens(da, part + rows, keys, inside, real, d_a, SIZE)
        store_tokens(dk, part + rows, keys, inside, real, d_k + d_k_end, SIZE)
        store_tokens(db, part + rows, keys, inside, real, d_b + d_b_end, SIZE)

        at_end = k_tile * d_k_end + b_tile * d_b_end
        near = r_tile * d_r - k_tile * d_k - b_tile * d_b
        d_w = _decay_gradient(near, a_tile * d_a, at_end, whole, state, d_state)
        store_tokens(dw, part + rows, keys, inside, real, d_w, SIZE)

        d_state = tl.dot(dy_tile, tl.trans(r_tile * through), d_state * whole, PRECISION)
        d_state = tl.dot(d_found, tl.trans(a_tile * before), d_state, PRECISION)
    store_state(d_initial, slot, values, keys, d_state, SIZE)

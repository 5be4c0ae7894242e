# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of what surrounds the recurrence in a layer; `fused.py` says what each computes.

A program works on a tile of tokens by channels, in float32. Sums over tokens, the gradients of parameters, are written
as one part for every tile of tokens, which torch adds in a fixed order.
"""

import triton
import triton.language as tl


NORMALIZE_EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize


@triton.jit
def _tile(tokens, channels, first, width, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """Offsets and mask of a tile: its tokens, and the channels from `first` to `first + width`."""
    token = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)
    inside = (token < tokens)[:, None] & (channel < width)[None, :]
    return token[:, None] * channels + first + channel[None, :], inside, first + channel, channel < width


@triton.jit
def _load(pointer, offsets, inside):
    return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, offsets, values, inside):
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _store_part(pointer, values, channels, channel, inside):
    """Adds a tile up over its tokens, into the part of this tile."""
    tl.store(pointer + tl.program_id(0).to(tl.int64) * channels + channel, tl.sum(values, axis=0), mask=inside)


@triton.jit
def mix_kernel(
    x, previous, mixes, out, tokens, channels, COUNT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(1) * BLOCK
    offsets, inside, channel, in_row = _tile(tokens, channels, first, channels - first, BLOCK_T, BLOCK)
    here = _load(x, offsets, inside)
    delta = _load(previous, offsets, inside) - here
    for i in tl.static_range(COUNT):
        mix = _load(mixes + i * channels, channel, in_row)[None, :]
        _store(out + i * tl.cast(tokens, tl.int64) * channels, offsets, here + delta * mix, inside)


@triton.jit
def mix_backward_kernel(
    x,
    previous,
    mixes,
    d_out,
    dx,
    d_previous,
    d_mixes,
    tokens,
    channels,
    COUNT: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(1) * BLOCK
    offsets, inside, channel, in_row = _tile(tokens, channels, first, channels - first, BLOCK_T, BLOCK)
    delta = _load(previous, offsets, inside) - _load(x, offsets, inside)
    d_here = tl.zeros((BLOCK_T, BLOCK), tl.float32)
    d_before = tl.zeros((BLOCK_T, BLOCK), tl.float32)
    for i in tl.static_range(COUNT):
        mix = _load(mixes + i * channels, channel, in_row)[None, :]
        gradient = _load(d_out + i * tl.cast(tokens, tl.int64) * channels, offsets, inside)
        d_before += gradient * mix
        d_here += gradient * (1 - mix)
        _store_part(d_mixes + i * channels, gradient * delta, COUNT * channels, channel, in_row)
    _store(dx, offsets, d_here, inside)
    _store(d_previous, offsets, d_before, inside)


@triton.jit
def keys_kernel(
    k,
    a,
    k_k,
    k_a,
    key,
    removal,
    replacement,
    tokens,
    channels,
    SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets, inside, channel, in_head = _tile(tokens, channels, tl.program_id(1) * SIZE, SIZE, BLOCK_T, BLOCK)
    k_tile, rate = _load(k, offsets, inside), _load(a, offsets, inside)
    scaled = k_tile * _load(k_k, channel, in_head)[None, :]
    direction = scaled / tl.maximum(tl.sqrt(tl.sum(scaled * scaled, axis=1)), NORMALIZE_EPS)[:, None]
    _store(key, offsets, k_tile * (1 + (rate - 1) * _load(k_a, channel, in_head)[None, :]), inside)
    _store(removal, offsets, -direction, inside)
    _store(replacement, offsets, direction * rate, inside)


@triton.jit
def keys_backward_kernel(
    k,
    a,
    k_k,
    k_a,
    d_key,
    d_removal,
    d_replacement,
    dk,
    da,
    d_k_k,
    d_k_a,
    tokens,
    channels,
    SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets, inside, channel, in_head = _tile(tokens, channels, tl.program_id(1) * SIZE, SIZE, BLOCK_T, BLOCK)
    k_tile, rate = _load(k, offsets, inside), _load(a, offsets, inside)
    scale, share = _load(k_k, channel, in_head)[None, :], _load(k_a, channel, in_head)[None, :]
    scaled = k_tile * scale
    length = tl.sqrt(tl.sum(scaled * scaled, axis=1))[:, None]
    bounded = tl.maximum(length, NORMALIZE_EPS)
    direction = scaled / bounded

    through_key, through_both = _load(d_key, offsets, inside), _load(d_replacement, offsets, inside)
    d_direction = through_both * rate - _load(d_removal, offsets, inside)
    along = tl.where(length > NORMALIZE_EPS, tl.sum(d_direction * direction, axis=1)[:, None], 0.0)
    d_scaled = (d_direction - direction * along) / bounded
    _store(dk, offsets, d_scaled * scale + through_key * (1 + (rate - 1) * share), inside)
    _store(da, offsets, through_both * direction + through_key * k_tile * share, inside)
    _store_part(d_k_k, d_scaled * k_tile, channels, channel, in_head)
    _store_part(d_k_a, through_key * k_tile * (rate - 1), channels, channel, in_head)


@triton.jit
def _normalized(y, inside, eps, SIZE: tl.constexpr):
    """The group norm of each row, before weight and bias, and what it was multiplied by."""
    centred = tl.where(inside, y - tl.sum(y, axis=1)[:, None] / SIZE, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=1)[:, None] / SIZE + eps)
    return centred * scale, scale


@triton.jit
def output_kernel(
    y,
    r,
    k,
    v,
    g,
    r_k,
    weight,
    bias,
    out,
    tokens,
    channels,
    eps,
    SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets, inside, channel, in_head = _tile(tokens, channels, tl.program_id(1) * SIZE, SIZE, BLOCK_T, BLOCK)
    normalized, _ = _normalized(_load(y, offsets, inside), inside, eps, SIZE)
    shift = _load(bias, channel, in_head)[None, :]
    normalized = normalized * _load(weight, channel, in_head)[None, :] + shift
    read = _load(r, offsets, inside) * _load(k, offsets, inside) * _load(r_k, channel, in_head)[None, :]
    bonus = tl.sum(read, axis=1)[:, None] * _load(v, offsets, inside)
    _store(out, offsets, (normalized + bonus) * _load(g, offsets, inside), inside)


@triton.jit
def output_backward_kernel(
    y,
    r,
    k,
    v,
    g,
    r_k,
    weight,
    bias,
    d_out,
    dy,
    dr,
    dk,
    dv,
    dg,
    d_r_k,
    d_weight,
    d_bias,
    tokens,
    channels,
    eps,
    SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offsets, inside, channel, in_head = _tile(tokens, channels, tl.program_id(1) * SIZE, SIZE, BLOCK_T, BLOCK)
    r_tile, k_tile, v_tile = _load(r, offsets, inside), _load(k, offsets, inside), _load(v, offsets, inside)
    normalized, scale = _normalized(_load(y, offsets, inside), inside, eps, SIZE)
    gain, bonus = _load(weight, channel, in_head)[None, :], _load(r_k, channel, in_head)[None, :]
    read = tl.sum(r_tile * k_tile * bonus, axis=1)[:, None]
    gradient = _load(d_out, offsets, inside)
    before_gate = normalized * gain + _load(bias, channel, in_head)[None, :] + read * v_tile
    _store(dg, offsets, gradient * before_gate, inside)

    gradient *= _load(g, offsets, inside)
    _store_part(d_bias, gradient, channels, channel, in_head)
    _store_part(d_weight, gradient * normalized, channels, channel, in_head)
    d_normalized = gradient * gain
    mean = tl.sum(d_normalized, axis=1)[:, None] / SIZE
    along = tl.sum(d_normalized * normalized, axis=1)[:, None] / SIZE
    _store(dy, offsets, scale * (d_normalized - mean - normalized * along), inside)

    d_read = tl.sum(gradient * v_tile, axis=1)[:, None]
    _store(dv, offsets, gradient * read, inside)
    _store(dr, offsets, d_read * k_tile * bonus, inside)
    _store(dk, offsets, d_read * r_tile * bonus, inside)
    _store_part(d_r_k, d_read * r_tile * k_tile, channels, channel, in_head)


@triton.jit
def squared_relu_kernel(x, out, numbers, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    # Not tl.maximum, which takes NaN for zero
    number = _load(x, offsets, offsets < numbers)
    positive = tl.where(number < 0, 0.0, number)
    _store(out, offsets, positive * positive, offsets < numbers)


@triton.jit
def squared_relu_backward_kernel(x, d_out, dx, numbers, BLOCK: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    number, gradient = _load(x, offsets, offsets < numbers), _load(d_out, offsets, offsets < numbers)
    _store(dx, offsets, 2 * tl.where(number < 0, 0.0, number) * gradient, offsets < numbers)

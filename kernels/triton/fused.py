# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the recurrence in a layer, on a GPU: a few memory-bound operators in Triton instead of many of torch.

Each is a differentiable custom operator of torch that computes in float32 and rounds once, to the dtype of its first
input. `modeling_rwkv7.py` holds the same in plain PyTorch.
"""

import functools

import torch

from ..operator_namespace import NAMESPACE
from .wkv7 import on_device, wkv7_triton


MIX_TILE = {"BLOCK_T": 16, "BLOCK": 128}
HEAD_TILE_NUMBERS = 1024  # a tile of heads: as many tokens as make so many numbers; more would not fit registers
FLAT_BLOCK = 1024


def mix_tokens(hidden_states: torch.Tensor, previous: torch.Tensor, *mixes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`x + (previous - x) * mix` for each of the mixes.

    Args:
        hidden_states, previous: (batch, time, hidden).
        mixes: Of `hidden` numbers each, in any shape.
    """
    stacked = torch.stack([mix.reshape(-1) for mix in mixes])
    return _mix(hidden_states, previous, stacked).unbind()


def prepare_keys(
    k: torch.Tensor, a: torch.Tensor, k_k: torch.Tensor, k_a: torch.Tensor, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The key that writes `k (1 + (a - 1) k_a)`, and `-kk` and `kk a` with `kk` the direction of `k k_k` in each head.

    Args:
        k, a: (batch, time, hidden).
        k_k, k_a: (hidden,).

    Returns:
        Three tensors (batch, time, hidden).
    """
    return _prepare_keys(k, a, k_k, k_a, head_dim)


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
    """`(group_norm(y) + sum(r k r_k) v) g`, a group and a sum for each head.

    Args:
        y, r, k, v: (batch, time, heads, head_dim).
        g: (batch, time, hidden).
        r_k: (heads, head_dim).
        weight, bias: (hidden,), of the group norm.
        eps: Of the group norm.

    Returns:
        (batch, time, hidden).
    """
    return _gated_output(y, r, k, v, g, r_k, weight, bias, eps)


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
    k_k: torch.Tensor,
    k_a: torch.Tensor,
    r_k: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    norm_eps: float,
    log_decay_scale: float,
    initial_state: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the projections of a time mix to what its output matrix reads, as `cpu/time_mix.py` describes it."""
    head_dim = r_k.shape[-1]
    log_decay = log_decay_scale * w.to(torch.promote_types(w.dtype, torch.float32)).sigmoid()
    if v_gate is not None:
        v = torch.lerp(v, v_first.to(v.dtype), v_gate.sigmoid().to(v.dtype))
    k, removal, replacement = prepare_keys(k, a.sigmoid(), k_k, k_a, head_dim)
    inputs = [x.unflatten(-1, (-1, head_dim)) for x in (r, log_decay, k, v, removal, replacement)]  # (B, T, H, N)
    y, state = wkv7_triton(*inputs, initial_state, mask, cu_seqlens)
    r, _, k, v, *_ = inputs
    return gated_output(y, r, k, v, g, r_k, norm_weight, norm_bias, norm_eps), state


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """`relu(x)^2`, of any shape."""
    return _squared_relu(x)


# ------------------------------------------------------------------------------------------------------ the operators


@torch.library.custom_op(f"{NAMESPACE}::mix_tokens", mutates_args=())
def _mix(x: torch.Tensor, previous: torch.Tensor, mixes: torch.Tensor) -> torch.Tensor:
    """(mixes, batch, time, hidden)."""
    out = x.new_empty(len(mixes), *x.shape)
    _launch("mix_kernel", _mix_grid(x), x, previous, mixes, out, *_extent(x), COUNT=len(mixes), **MIX_TILE)
    return out


@_mix.register_fake
def _(x, previous, mixes):
    return x.new_empty(mixes.shape[0], *x.shape)


@torch.library.custom_op(f"{NAMESPACE}::mix_tokens_backward", mutates_args=())
def _mix_backward(
    x: torch.Tensor, previous: torch.Tensor, mixes: torch.Tensor, d_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dx, d_previous, grid = _empty(x), _empty(previous), _mix_grid(x)
    d_mixes = _empty_parts(grid, mixes)
    arguments = (x, previous, mixes, d_out, dx, d_previous, d_mixes, *_extent(x))
    _launch("mix_backward_kernel", grid, *arguments, COUNT=len(mixes), **MIX_TILE)
    return dx, d_previous, _add_parts(d_mixes, mixes)


@_mix_backward.register_fake
def _(x, previous, mixes, d_out):
    return _empty(x), _empty(previous), _empty(mixes)


@torch.library.custom_op(f"{NAMESPACE}::prepare_keys", mutates_args=())
def _prepare_keys(
    k: torch.Tensor, a: torch.Tensor, k_k: torch.Tensor, k_a: torch.Tensor, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    key, removal, replacement = _empty(k), _empty(k), _empty(k)
    grid, tile = _head_tiles(k, head_dim)
    _launch("keys_kernel", grid, k, a, k_k, k_a, key, removal, replacement, *_extent(k), **tile)
    return key, removal, replacement


@_prepare_keys.register_fake
def _(k, a, k_k, k_a, head_dim):
    return _empty(k), _empty(k), _empty(k)


@torch.library.custom_op(f"{NAMESPACE}::prepare_keys_backward", mutates_args=())
def _prepare_keys_backward(
    k: torch.Tensor,
    a: torch.Tensor,
    k_k: torch.Tensor,
    k_a: torch.Tensor,
    d_key: torch.Tensor,
    d_removal: torch.Tensor,
    d_replacement: torch.Tensor,
    head_dim: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dk, da, (grid, tile) = _empty(k), _empty(a), _head_tiles(k, head_dim)
    parts = [_empty_parts(grid, x) for x in (k_k, k_a)]
    arguments = (k, a, k_k, k_a, d_key, d_removal, d_replacement, dk, da, *parts, *_extent(k))
    _launch("keys_backward_kernel", grid, *arguments, **tile)
    return dk, da, _add_parts(parts[0], k_k), _add_parts(parts[1], k_a)


@_prepare_keys_backward.register_fake
def _(k, a, k_k, k_a, d_key, d_removal, d_replacement, head_dim):
    return _empty(k), _empty(a), _empty(k_k), _empty(k_a)


@torch.library.custom_op(f"{NAMESPACE}::gated_output", mutates_args=())
def _gated_output(
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
    out, (grid, tile) = _empty(g), _head_tiles(g, y.shape[-1])
    _launch("output_kernel", grid, y, r, k, v, g, r_k, weight, bias, out, *_extent(g), eps, **tile)
    return out


@_gated_output.register_fake
def _(y, r, k, v, g, r_k, weight, bias, eps):
    return _empty(g)


@torch.library.custom_op(f"{NAMESPACE}::gated_output_backward", mutates_args=())
def _gated_output_backward(
    y: torch.Tensor,
    r: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    r_k: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    d_out: torch.Tensor,
    eps: float,
) -> list[torch.Tensor]:
    inputs, parameters = (y, r, k, v, g), (r_k, weight, bias)
    grid, tile = _head_tiles(g, y.shape[-1])
    gradients, parts = [_empty(x) for x in inputs], [_empty_parts(grid, x) for x in parameters]
    arguments = (*inputs, *parameters, d_out, *gradients, *parts, *_extent(g), eps)
    _launch("output_backward_kernel", grid, *arguments, **tile)
    return gradients + [_add_parts(part, x) for part, x in zip(parts, parameters, strict=True)]


@_gated_output_backward.register_fake
def _(y, r, k, v, g, r_k, weight, bias, d_out, eps):
    return [_empty(x) for x in (y, r, k, v, g, r_k, weight, bias)]


@torch.library.custom_op(f"{NAMESPACE}::squared_relu", mutates_args=())
def _squared_relu(x: torch.Tensor) -> torch.Tensor:
    out = _empty(x)
    _launch("squared_relu_kernel", _flat_grid(x), x, out, x.numel(), BLOCK=FLAT_BLOCK)
    return out


@_squared_relu.register_fake
def _(x):
    return _empty(x)


@torch.library.custom_op(f"{NAMESPACE}::squared_relu_backward", mutates_args=())
def _squared_relu_backward(x: torch.Tensor, d_out: torch.Tensor) -> torch.Tensor:
    dx = _empty(x)
    _launch("squared_relu_backward_kernel", _flat_grid(x), x, d_out, dx, x.numel(), BLOCK=FLAT_BLOCK)
    return dx


@_squared_relu_backward.register_fake
def _(x, d_out):
    return _empty(x)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, torch.Tensor)))
    ctx.constants = [x for x in inputs if not isinstance(x, torch.Tensor)]


def _gradients_by(operator, ctx, *d_outputs):
    gradients = operator(*ctx.saved_tensors, *d_outputs, *ctx.constants)
    if isinstance(gradients, torch.Tensor):
        return gradients
    return *gradients, *(None for _ in ctx.constants)


for _forward, _backward in (
    (_mix, _mix_backward),
    (_prepare_keys, _prepare_keys_backward),
    (_gated_output, _gated_output_backward),
    (_squared_relu, _squared_relu_backward),
):
    _forward.register_autograd(functools.partial(_gradients_by, _backward), setup_context=_save)


# ---------------------------------------------------------------------------------------------------------- internals


def _empty(x):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _extent(x) -> tuple[int, int]:
    """Numbers of tokens and of channels of (batch, time, hidden)."""
    return x.shape[0] * x.shape[1], x.shape[2]


def _mix_grid(x) -> tuple[int, int]:
    tokens, channels = _extent(x)
    return -(-tokens // MIX_TILE["BLOCK_T"]), -(-channels // MIX_TILE["BLOCK"])


def _head_tiles(x, head_dim) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid over tiles of tokens and heads, and the size of a tile."""
    tokens, channels = _extent(x)
    width = 1 << (head_dim - 1).bit_length()
    block = HEAD_TILE_NUMBERS // width
    return (-(-tokens // block), channels // head_dim), {"SIZE": head_dim, "BLOCK_T": block, "BLOCK": width}


def _flat_grid(x) -> tuple[int]:
    return (-(-x.numel() // FLAT_BLOCK),)


def _empty_parts(grid, parameter) -> torch.Tensor:
    """One gradient of a parameter for each tile of tokens."""
    return torch.empty(grid[0], *parameter.shape, dtype=torch.float32, device=parameter.device)


def _add_parts(parts, parameter) -> torch.Tensor:
    return parts.sum(0).to(parameter.dtype)


def _launch(kernel: str, grid: tuple[int, ...], *arguments, **constants) -> None:
    from . import fused_kernels

    arguments = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in arguments]
    with on_device(arguments[0].device):
        getattr(fused_kernels, kernel)[grid](*arguments, **constants)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Random inputs of the operator `wkv7`, and how to compare what two ways of running it give."""

from collections.abc import Callable, Sequence

import torch


NAMES = ("r", "w", "k", "v", "a", "b", "initial_state")
STRONGEST_LOG_DECAY = -0.6065  # -exp(-1/2), which RWKV-7's decay approaches


def wkv7_inputs(
    batch: int,
    time: int,
    heads: int,
    head_dim: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    log_decay: float | None = None,
    states: int | None = None,
) -> list[torch.Tensor]:
    """r, w, k, v, a, b and a non-zero initial state, requiring gradients, under which the state stays of order one.

    As in the model `a` has length 1 and `b` is about as long; but `b` is no multiple of `a`, which would hide errors.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, time, heads, head_dim)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    r, v, k = normal(*shape), normal(*shape), normal(*shape) / head_dim**0.5
    w = (
        STRONGEST_LOG_DECAY * torch.sigmoid(2 * normal(*shape) - 2)
        if log_decay is None
        else r.new_full(shape, log_decay)
    )
    a = torch.nn.functional.normalize(normal(*shape), dim=-1)
    b = -a * torch.sigmoid(normal(*shape)) + 0.3 * normal(*shape) / head_dim**0.5
    state = normal(batch if states is None else states, heads, head_dim, head_dim) / head_dim**0.5
    state = state.to(torch.promote_types(dtype, torch.float32))
    return [x.detach().requires_grad_() for x in [*(x.to(dtype) for x in (r, w, k, v, a, b)), state]]


def repeated_key_inputs(batch: int, time: int, heads: int, head_dim: int) -> list[torch.Tensor]:
    """Float32 inputs as of [`wkv7_inputs`] that remove one and the same key, almost wholly, at every token.

    As after a token said over and over: forms in chunks solve a system that is far from the identity.
    """
    inputs = [x.detach() for x in wkv7_inputs(batch, time, heads, head_dim, dtype=torch.float32, log_decay=-1e-3)]
    key = inputs[4][:, :1].expand_as(inputs[4]).contiguous()
    inputs[4], inputs[5] = -key, 0.95 * key
    return [x.requires_grad_() for x in inputs]


def run_with_gradients(function: Callable, inputs: Sequence[torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    """`y`, the final state and the gradients of a random projection of both: all that a backend has to get right.

    Args:
        function: Takes the inputs, returns `y` and the final state.
        inputs: As of [`wkv7_inputs`]; not changed.
        seed: Of the projection.
    """
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y, state = function(*inputs)
    generator = torch.Generator().manual_seed(seed)
    projected = [(torch.randn(x.shape, generator=generator, dtype=torch.float64) * x).sum() for x in (y, state)]
    gradients = torch.autograd.grad(sum(projected), inputs, allow_unused=True, materialize_grads=True)
    found = {"y": y.detach(), "final_state": state.detach()}
    return found | {f"gradient of {name}": gradient for name, gradient in zip(NAMES, gradients, strict=True)}


def largest_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest expected number. NaN is infinitely far from anything."""
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return float(difference.nan_to_num(nan=torch.inf))


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every quantity within a relative tolerance; `tolerance` is of the largest number of each."""
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].shape == expected[name].shape, name
        difference = largest_difference(actual[name], expected[name])
        assert difference <= tolerance, f"{name} differs by {difference:.2g} of its largest number"

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the backends of `wkv7` in other languages than PyTorch share: differentiable custom operators around kernels.

The forward operator gives, besides `y` and the final state, the states at checkpoints, from which the backward
operator recomputes the others.
"""

from collections.abc import Callable

import torch

from .operator_namespace import NAMESPACE


DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of inputs; kernels in C++ know them by their place here

_INPUTS = "Tensor r, Tensor w, Tensor k, Tensor v, Tensor a, Tensor b, "
_FORWARD_SCHEMA = f"({_INPUTS}Tensor? state, Tensor? mask, Tensor? cu_seqlens, bool save) -> (Tensor, Tensor, Tensor)"
_BACKWARD_SCHEMA = (
    f"({_INPUTS}Tensor? mask, Tensor? cu_seqlens, Tensor checkpoints, Tensor dy, Tensor? d_final) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def define_operators(
    name: str, interval: int, run_forward: Callable, run_backward: Callable, device_types: str | None = None
) -> Callable:
    """Registers `NAMESPACE::name` and its backward operator.

    Args:
        name: Of the backend.
        interval: Tokens between checkpoints.
        run_forward: Takes the contiguous inputs as a list, state, mask, cu_seqlens, and fills `y`, the final state and
            the checkpoints, which it gets after these; checkpoints are `None` where none are wanted.
        run_backward: Takes the contiguous inputs as a list, mask, cu_seqlens, the checkpoints, the gradients of `y`
            (contiguous) and of the final state (contiguous float32, or `None`), fills the gradient of the initial
            state, which it gets last, and returns those of the inputs.
        device_types: Where the operators run; anywhere if `None`.

    Returns:
        The forward operator, for [`run_operator`].
    """

    def forward(r, w, k, v, a, b, state, mask, cu_seqlens, save):
        y, final_state, checkpoints = _empty_outputs(r, cu_seqlens, interval if save else None)
        inputs = [x.contiguous() for x in (r, w, k, v, a, b)]
        state = None if state is None else state.contiguous()
        run_forward(inputs, state, mask, cu_seqlens, y, final_state, checkpoints if save else None)
        return y, final_state, checkpoints

    def fake_forward(r, w, k, v, a, b, state, mask, cu_seqlens, save):
        return _empty_outputs(r, cu_seqlens, interval if save else None)

    def backward(r, w, k, v, a, b, mask, cu_seqlens, checkpoints, dy, d_final):
        inputs = [x.contiguous() for x in (r, w, k, v, a, b)]
        d_final = None if d_final is None else d_final.float().contiguous()
        d_initial = _empty_outputs(r, cu_seqlens)[1]
        dy = dy.to(r.dtype).contiguous()
        gradients = run_backward(inputs, mask, cu_seqlens, checkpoints, dy, d_final, d_initial)
        return *gradients, d_initial

    def fake_backward(r, w, k, v, a, b, mask, cu_seqlens, checkpoints, dy, d_final):
        gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (r, w, k, v, a, b)]
        return *gradients, _empty_outputs(r, cu_seqlens)[1]

    def setup_context(ctx, inputs, output):
        *tensors, state, mask, cu_seqlens, save = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, mask, cu_seqlens, output[2])
        ctx.has_state, ctx.saved_checkpoints = state is not None, save

    def differentiate(ctx, dy, d_final, _):
        if not ctx.saved_checkpoints:
            raise RuntimeError(f"{name} ran without saving what its backward pass needs.")
        *tensors, mask, cu_seqlens, checkpoints = ctx.saved_tensors
        dy = torch.zeros_like(tensors[0]) if dy is None else dy
        *gradients, d_initial = backward_op(*tensors, mask, cu_seqlens, checkpoints, dy, d_final)
        return *gradients, d_initial if ctx.has_state else None, None, None, None

    def define(suffix, function, schema):
        return torch.library.custom_op(
            f"{NAMESPACE}::{name}{suffix}", function, mutates_args=(), device_types=device_types, schema=schema
        )

    forward_op = define("", forward, _FORWARD_SCHEMA)
    backward_op = define("_backward", backward, _BACKWARD_SCHEMA)
    forward_op.register_fake(fake_forward)
    backward_op.register_fake(fake_backward)
    forward_op.register_autograd(differentiate, setup_context=setup_context)
    return forward_op


def run_operator(operator: Callable, inputs, state, mask, cu_seqlens) -> tuple[torch.Tensor, torch.Tensor]:
    """`y` and the final state by an operator of [`define_operators`], which saves what gradients need if any are."""
    inputs = [x if x.dtype in DTYPES else x.float() for x in inputs]
    differentiated = [*inputs, state] if state is not None else inputs
    save = torch.is_grad_enabled() and any(x.requires_grad for x in differentiated)
    y, final_state, _ = operator(*inputs, state, mask, cu_seqlens, save)
    return y, final_state


def num_sequences(r: torch.Tensor, cu_seqlens: torch.Tensor | None) -> int:
    return r.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _empty_outputs(r, cu_seqlens, interval: int | None = None):
    """`y`, the final state and, if there is an interval, room for the checkpoints."""
    batch, time, heads, size = r.shape
    sequences = num_sequences(r, cu_seqlens)
    y = torch.empty(r.shape, dtype=r.dtype, device=r.device)
    final_state = torch.empty(sequences, heads, size, size, dtype=torch.float32, device=r.device)
    slots = batch * time // interval + sequences if interval else 0
    return y, final_state, torch.empty(slots, heads, size, size, dtype=torch.float32, device=r.device)


def as_kernels_read(
    mask: torch.Tensor | None, cu_seqlens: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Mask as bytes and boundaries as 64-bit integers, both contiguous."""
    return (
        None if mask is None else mask.bool().contiguous().view(torch.uint8),
        None if cu_seqlens is None else cu_seqlens.to(torch.int64).contiguous(),
    )


def add_parts(gradients: list[torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Gradients as the inputs are, of some that came in float32 parts along a first dimension of their own."""
    return [g if g.dim() == x.dim() else g.sum(0).to(x.dtype) for g, x in zip(gradients, inputs, strict=True)]

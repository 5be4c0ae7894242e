# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 token by token: the definition, and the oracle of every other backend."""

import torch


def wkv7_step(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token.

    Args:
        r, w, k, v, a, b: (batch, heads, head_dim); `w` is the log decay.
        state: (batch, heads, value, key).

    Returns:
        `y` (batch, heads, value) and the new state.
    """
    removed = state @ a[..., None]  # (B, H, V, 1)
    state = state * w.exp()[..., None, :] + removed * b[..., None, :] + v[..., None] * k[..., None, :]
    return (state @ r[..., None]).squeeze(-1), state


def wkv7_reference(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence as a loop over time.

    Args:
        r, w, k, v, a, b: (batch, time, heads, head_dim), one dtype; `w` is the log decay.
        state: (batch, heads, value, key), same dtype.

    Returns:
        `y` of the inputs' shape and the final state.
    """
    outputs = []
    for t in range(r.shape[1]):
        y, state = wkv7_step(r[:, t], w[:, t], k[:, t], v[:, t], a[:, t], b[:, t], state)
        outputs.append(y)
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v)), state

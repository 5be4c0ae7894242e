# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 in chunks of matrix products, in plain PyTorch: runs anywhere, compiles, exports.

Within a chunk the recurrence is a unit lower triangular system. With `G` the running sum of the log decay, `Gx` the
same without the current token, and tildes for the decayed inputs

    r~ = r exp(G)    a~ = a exp(Gx)    k~ = k exp(-G)    b~ = b exp(-G)

the rank-one removals `u_t = S_{t-1} a_t` of the whole chunk solve

    (I - A_ab) U = A_ak V + a~ S_0^T        A_ab = tril(a~ b~^T, -1), A_ak = tril(a~ k~^T, -1)

and outputs and the next state are plain products: the UT transform of DeltaNet (arXiv 2406.06484) for a diagonal decay
plus rank one. Only the state is carried from chunk to chunk.
"""

import torch
from torch.nn import functional as F

from .wkv7_loop import wkv7_step


# Measured on CPU (H=12, N=64, T=1024): 16 is fastest forward, 32 forward and backward together.
INFERENCE_CHUNK = 16
TRAINING_CHUNK = 32


def wkv7_chunked(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in chunks.

    Args:
        r, w, k, v, a, b: (batch, time, heads, head_dim), one dtype; `w` is the log decay, which must stay above about
            -5 in float32 so that the decay of half a chunk is representable (RWKV-7's is above -0.6066).
        state: (batch, heads, value, key), same dtype.

    Returns:
        `y` of the inputs' shape and the final state.
    """
    time = r.shape[1]
    if time == 0:
        return torch.zeros_like(v), state
    if time == 1:
        y, state = wkv7_step(r[:, 0], w[:, 0], k[:, 0], v[:, 0], a[:, 0], b[:, 0], state)
        return y[:, None], state

    chunk = min(TRAINING_CHUNK if torch.is_grad_enabled() else INFERENCE_CHUNK, time)
    r, w, k, v, a, b = (_split_chunks(x, chunk) for x in (r, w, k, v, a, b))  # (B, H, C, L, N)
    log_decay = w.cumsum(-2)  # G, decay from the chunk's start through each token
    log_decay_before = log_decay - w  # Gx, the same before the token
    last = log_decay[..., -1:, :]  # (B, H, C, 1, N)
    # Powers are taken relative to the middle of the chunk, which halves their range.
    middle = log_decay[..., chunk // 2 : chunk // 2 + 1, :].detach()

    queries = torch.cat([a * (log_decay_before - middle).exp(), r * (log_decay - middle).exp()], -2)
    keys = torch.cat([k, b], -2) * (middle - log_decay).exp().repeat(1, 1, 1, 2, 1)
    scores = queries @ keys.mT  # (B, H, C, 2L, 2L)
    a_k, a_b = scores[..., :chunk, :chunk].tril(-1), scores[..., :chunk, chunk:].tril(-1)
    r_k, r_b = scores[..., chunk:, :chunk].tril(), scores[..., chunk:, chunk:].tril()

    # Removals of the chunk as an affine function of its first state: u = from_values + from_state S_0^T
    a_start = a * log_decay_before.exp()
    removals = _inverse_unit_lower(a_b) @ torch.cat([a_k @ v, a_start], -1)  # (B, H, C, L, 2N)
    from_values, from_state = removals.chunk(2, dim=-1)

    to_end = (last - log_decay).exp()
    k_end, b_end, decay_chunk = k * to_end, b * to_end, last.exp()
    written = v.mT @ k_end  # (B, H, C, V, K)
    states, us = [], []
    for c in range(r.shape[2]):
        states.append(state)
        u = from_values[:, :, c] + from_state[:, :, c] @ state.mT  # (B, H, L, V)
        us.append(u)
        state = state * decay_chunk[:, :, c] + u.mT @ b_end[:, :, c] + written[:, :, c]
    y = (r * log_decay.exp()) @ torch.stack(states, 2).mT + r_k @ v + r_b @ torch.stack(us, 2)  # (B, H, C, L, V)
    return y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time], state


def _split_chunks(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """(B, T, H, N) -> (B, H, C, L, N); the tail is filled with zeros, which leave the state as it was."""
    padding = -x.shape[1] % chunk
    x = F.pad(x, (0, 0, 0, 0, 0, padding)) if padding else x
    return x.unflatten(1, (-1, chunk)).permute(0, 3, 1, 2, 4).contiguous()


def _inverse_unit_lower(lower: torch.Tensor) -> torch.Tensor:
    """(I - A)^-1 of strictly lower triangular A (..., L, L), by halves: blocks on the diagonal, joined two by two.

    Powers of A would be fewer products, but where one key is repeated they grow like binomial coefficients and cancel.
    """
    size = lower.shape[-1]
    inverse = torch.eye(size, dtype=lower.dtype, device=lower.device).expand_as(lower)
    index = torch.arange(size, device=lower.device)
    width = 1
    while width < size:
        block, joined = index // width, index // (2 * width)
        between = (joined[:, None] == joined) & (block[:, None] != block)  # (L, L)
        below = lower.masked_fill(~between, 0)
        inverse = inverse + (below if width == 1 else inverse @ below @ inverse)
        width *= 2
    return inverse

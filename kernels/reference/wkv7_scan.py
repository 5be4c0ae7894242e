# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 as one `scan` over the tokens, which becomes a Scan in ONNX: exported from any length, it runs any other.

Chunks would need their number as a size, and torch.export takes a size that is 1 in the example for a constant.
"""

import torch


def wkv7_scan(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence, of at least one token.

    Args:
        r, w, k, v, a, b: (batch, time, heads, head_dim), one dtype; `w` is the log decay.
        state: (batch, heads, value, key), same dtype.

    Returns:
        `y` of the inputs' shape and the final state.
    """
    # Imported here, as it brings in the compiler. The operator and not `torch.scan`, which compiles the step with
    # every size unknown, so that those of 1 are no longer expanded
    from torch._higher_order_ops.scan import scan_op

    # All that does not need the state is made for every token at once, time first
    r, w, k, v, a, b = (x.transpose(0, 1) for x in (r, w.exp(), k, v, a, b))  # (T, B, H, N)
    queries, removals, values = r[..., None], a[..., None], v[..., None]  # (T, B, H, N, 1)
    decays, written = w[..., None, :], torch.stack([b, k], dim=-2)  # (T, B, H, 1, K), (T, B, H, 2, K)

    def step(state, query, decay, removal, value, keys):
        state = state * decay + torch.cat([state @ removal, value], dim=-1) @ keys  # (B, H, V, K)
        return [state, state @ query]

    tokens = [x.contiguous() for x in (queries, decays, removals, values, written)]
    state, y = scan_op(step, [state], tokens, additional_inputs=())
    return y.squeeze(-1).transpose(0, 1), state

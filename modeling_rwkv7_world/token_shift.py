# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The token shift: every token mixed with the one before, through the cache, in plain PyTorch or by fused kernels."""

from collections.abc import Iterator
from types import ModuleType

import torch

from ..kernels.cpu import fused as fused_cpu
from ..kernels.triton import fused as fused_triton
from .cache_rwkv7 import RWKV7Cache
from .token_layout import TokenLayout


def shift_tokens(
    hidden_states: torch.Tensor,
    layout: TokenLayout,
    cache: RWKV7Cache | None,
    layer_idx: int,
    state_idx: int,
    initial: torch.Tensor | None,
    fused: ModuleType | None,
) -> torch.Tensor:
    """What `mix_tokens` takes as the previous tokens, through the cache if there is one.

    (batch, time, hidden), or (batch, hidden), only the token before each row, where the kernels shift by themselves.
    Before the first token of a sequence stands `initial`, (hidden,), or zeros.
    """
    start = torch.zeros_like(hidden_states[:, 0])
    if initial is not None:
        start = start + initial.to(hidden_states)
    carried = None if cache is None else cache.get_shift_state(layer_idx, state_idx, hidden_states)
    carried = start if carried is None else carried
    if fused is fused_cpu and layout.is_plain:
        previous, last = carried, hidden_states[:, -1]
    else:
        previous, last = layout.shift(hidden_states, carried, start)
    if cache is not None:
        cache.update_shift_state(last, layer_idx, state_idx)
    return previous


def fused_operators(
    hidden_states: torch.Tensor, head_dim: int, parameters: tuple[torch.Tensor, ...]
) -> ModuleType | None:
    """The kernels that stand in for the plain PyTorch of a layer here, or `None`."""
    if fused_triton.is_fused(hidden_states, head_dim):
        return fused_triton
    return fused_cpu if fused_cpu.is_fused(hidden_states, *parameters) else None


def mix_tokens(
    hidden_states: torch.Tensor,
    previous: torch.Tensor,
    mixes: tuple[torch.Tensor, ...],
    fused: ModuleType | None,
) -> Iterator[torch.Tensor]:
    """For each of the mixes every token with that much of the previous one (`shift_tokens`), (batch, time, hidden)."""
    if fused is fused_cpu:  # made when asked for, so that what reads it finds it in the cache
        return (fused_cpu.mix_tokens(hidden_states, previous, mix) for mix in mixes)
    if fused:
        return iter(fused.mix_tokens(hidden_states, previous, *mixes))
    delta = previous - hidden_states
    return iter([torch.addcmul(hidden_states, delta, mix) for mix in mixes])

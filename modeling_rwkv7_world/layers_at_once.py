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
"""All layers in one call of C++ on a CPU, in inference, where nothing can tell the difference.

One token of few rows, as generation feeds, or many tokens; `layer_plan.py` says of which models.
"""

import torch
from torch import nn

from ..kernels.cpu import decode as decode_cpu
from ..kernels.cpu import prefill as prefill_cpu
from ..kernels.cpu.linear import MAX_FEW_ROWS
from ..kernels.guards import is_plain_inference
from ..kernels.wkv7 import select_backend
from .cache_rwkv7 import CHANNEL_MIX, TIME_MIX, RWKV7Cache
from .layer_plan import LayerPlan, plan_of
from .token_layout import TokenLayout


States = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # of the layers, as in `RWKV7Cache.states_in_place`


def run_layers(
    layers: nn.ModuleList, hidden_states: torch.Tensor, layout: TokenLayout, cache: RWKV7Cache | None
) -> torch.Tensor | None:
    """The output of all layers, or `None` if they have to run one by one.

    They have to with padding or packing, in training, under anything that traces or transforms, on another device than
    the CPU, for few rows that are not one token each, if any module of a layer is wrapped, hooked or not of its own
    class, and if another backend of the recurrence was asked for.

    Args:
        layers: The layers of an `RWKV7Model`.
        hidden_states: (batch, time, hidden), the embeddings.
        layout: Of this forward pass.
        cache: Holds the state to continue, if there is one, and is given the new one.

    Returns:
        (batch, time, hidden).
    """
    if not layout.is_plain or type(cache) not in (RWKV7Cache, type(None)) or not is_plain_inference():
        return None
    if type(hidden_states) is not torch.Tensor or hidden_states.device.type != "cpu":
        return None
    batch, time, _ = hidden_states.shape
    if batch * time > MAX_FEW_ROWS:
        return _prefill(layers, hidden_states, cache)
    return _decode(layers, hidden_states, cache) if time == 1 and batch > 0 else None


def _decode(layers, hidden_states, cache) -> torch.Tensor | None:
    """One token of every row, from a state."""
    if cache is None or decode_cpu.why_not_built() is not None:
        return None
    plan = _fitting_plan(layers, hidden_states)
    states = plan and _states_of(cache, plan, len(layers), len(hidden_states))
    if states is None:
        return None
    hidden_states = _before_layers(layers, hidden_states)
    decode_cpu.decode_token(plan.model, hidden_states, states)
    return hidden_states


def _prefill(layers, hidden_states, cache) -> torch.Tensor | None:
    """Many tokens, from a state or none."""
    if prefill_cpu.why_not_built() is not None:
        return None
    plan = _fitting_plan(layers, hidden_states)
    if plan is None or plan.model.quantized:
        return None
    is_first = cache is None or not cache.has_previous_state(0)
    if is_first:
        states = _first_states(layers, plan, len(hidden_states))
    elif (states := _states_of(cache, plan, len(layers), len(hidden_states))) is None:
        return None
    hidden_states = _before_layers(layers, hidden_states)
    prefill_cpu.prefill(plan.model, hidden_states, states)
    if is_first and cache is not None:
        for layer_idx, (time_mix, channel_mix, recurrent) in enumerate(states):
            cache.update_shift_state(time_mix, layer_idx, TIME_MIX)
            cache.update_shift_state(channel_mix, layer_idx, CHANNEL_MIX)
            cache.update_recurrent_state(recurrent, layer_idx)
    return hidden_states


def _fitting_plan(layers, hidden_states) -> LayerPlan | None:
    plan = plan_of(layers)
    if plan is None or hidden_states.dtype != plan.dtype or hidden_states.shape[-1] != plan.model.hidden:
        return None
    backend = select_backend(inputs=hidden_states.unflatten(-1, (-1, plan.model.head_dim)))
    return plan if backend == "cpu" else None


def _states_of(cache: RWKV7Cache, plan: LayerPlan, num_layers: int, batch: int) -> States | None:
    return cache.states_in_place(num_layers, plan.state_shapes(batch), plan.dtype)


def _first_states(layers, plan: LayerPlan, batch: int) -> States:
    """What the layers start from: what they learned, else zeros."""
    (_, hidden, _), recurrent_shape = plan.state_shapes(batch)
    tokens = torch.zeros(len(layers), 2, batch, hidden, dtype=plan.dtype)
    recurrent = torch.zeros(len(layers), *recurrent_shape)
    for index, block in enumerate(layers):
        modules = (block.attn.initial_token, block.ffn.initial_token, block.attn.initial_state)
        for module, state in zip(modules, (*tokens[index], recurrent[index]), strict=True):
            if (start := module()) is not None:
                state.copy_(start)
    return [(*token, state) for token, state in zip(tokens, recurrent, strict=True)]


def _before_layers(layers, hidden_states: torch.Tensor) -> torch.Tensor:
    """What enters the layers, in memory of its own, which the kernels overwrite."""
    return layers[0].pre_norm(hidden_states).clone(memory_format=torch.contiguous_format)

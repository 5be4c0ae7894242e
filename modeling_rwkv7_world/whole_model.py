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
"""The whole-model CPU path: all layers in one call of C++, in inference, where nothing can tell the difference.

One token of few rows, as generation feeds, or many tokens. The kernels read the weights through a table
(`kernels/cpu/weight_table.py`), of which `RWKV7WeightLayout` says what stands where.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ..kernels.cpu import decode, prefill
from ..kernels.cpu.linear import MAX_FEW_ROWS
from ..kernels.cpu.weight_table import ModelWeights, Unsuitable, WeightTable, weight_table
from ..kernels.dispatch import Execution
from .cache_rwkv7 import CHANNEL_MIX, TIME_MIX, RWKV7Cache
from .low_rank import RWKV7LowRank
from .quantized_linear import QuantizedLinear
from .token_layout import TokenLayout


_LOW_RANKS = {"w_lora": nn.Tanh, "a_lora": nn.Identity, "v_lora": nn.Identity, "g_lora": nn.Sigmoid}
_VECTORS = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "r_k")

States = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # of the layers, as in `RWKV7Cache.states_in_place`


@dataclass(frozen=True)
class RWKV7WeightLayout:
    """Which modules and weights of a model's layers the kernels stand in for (a `WeightLayout`).

    Attributes:
        block, time_mix, channel_mix: Classes that a layer and its halves must have.
        log_decay_scale: The log decay at a projection of infinity.
    """

    block: type[nn.Module]
    time_mix: type[nn.Module]
    channel_mix: type[nn.Module]
    log_decay_scale: float

    def modules(self, layers: nn.ModuleList) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
        for index, block in enumerate(layers):
            yield block, self.block
            if index > 0:  # layer 0's `pre_norm` runs by itself
                yield block.pre_norm, nn.Identity
            yield block.attn_norm, nn.LayerNorm
            yield block.ffn_norm, nn.LayerNorm
            ffn, attn = block.ffn, block.attn
            yield ffn, self.channel_mix
            yield attn, self.time_mix
            # DeepEmbed the kernels do not know
            if ffn.config.deep_embed_dim is not None or not index == attn.layer_idx == ffn.layer_idx:
                raise Unsuitable
            for matrix in (ffn.key, ffn.value, attn.r_proj, attn.k_proj, attn.v_proj, attn.o_proj):
                yield matrix, QuantizedLinear if type(matrix) is QuantizedLinear else nn.Linear
            yield attn.g_norm, nn.GroupNorm
            for name, activation in _LOW_RANKS.items():
                if name == "v_lora" and index == 0:
                    continue
                low_rank = getattr(attn, name)
                yield low_rank, RWKV7LowRank
                yield low_rank.lora, nn.ModuleList
                yield from zip(low_rank.lora, (nn.Linear, activation, nn.Linear), strict=True)

    def weights(self, layers: nn.ModuleList) -> ModelWeights:
        first = layers[0]
        if any(block.attn.head_dim != first.attn.head_dim for block in layers):
            raise Unsuitable
        return ModelWeights(
            [self._layer(block) for block in layers],
            hidden=first.attn.r_proj.in_features,
            head_dim=first.attn.head_dim,
            intermediate=first.ffn.key.out_features,
            log_decay_scale=self.log_decay_scale,
        )

    def _layer(self, block: nn.Module) -> dict[str, torch.Tensor | nn.Module | None]:
        attn, ffn = block.attn, block.ffn
        low_ranks = {name[0]: getattr(attn, name, None) for name in _LOW_RANKS}
        return {
            **{name: getattr(attn, name) for name in _VECTORS},
            "receptance": attn.r_proj,
            "key": attn.k_proj,
            "value": attn.v_proj,
            "output": attn.o_proj,
            **{name: None if low_rank is None else low_rank.lora for name, low_rank in low_ranks.items()},
            "attn_norm": block.attn_norm,
            "head_norm": attn.g_norm,
            "ffn_norm": block.ffn_norm,
            "ffn_x_k": ffn.x_k,
            "ffn_key": ffn.key,
            "ffn_value": ffn.value,
        }


def run_whole_model(
    layers: nn.ModuleList,
    weights: RWKV7WeightLayout,
    hidden_states: torch.Tensor,
    layout: TokenLayout,
    cache: RWKV7Cache | None,
    execution: Execution,
) -> torch.Tensor | None:
    """The output of all layers, or `None` if they have to run one by one.

    They have to where the C++ kernels do not run at all (`execution`), with padding or packing, for few rows that are
    not one token each, and if any module of a layer is wrapped, hooked or not of its own class.

    Args:
        layers: The layers of an `RWKV7Model`.
        weights: What they are made of.
        hidden_states: (batch, time, hidden), the embeddings.
        layout: Of this forward pass.
        cache: Holds the state to continue, if there is one, and is given the new one.
        execution: What runs this forward pass.

    Returns:
        (batch, time, hidden).
    """
    if not execution.may_run_whole_model or not layout.is_plain or type(cache) not in (RWKV7Cache, type(None)):
        return None
    batch, time, hidden = hidden_states.shape
    is_prompt = batch * time > MAX_FEW_ROWS
    if not is_prompt and (time > 1 or batch == 0 or cache is None):
        return None
    if (prefill if is_prompt else decode).why_not_built() is not None:
        return None
    table = weight_table(layers, weights)
    if table is None or hidden_states.dtype != table.dtype or hidden != table.model.hidden:
        return None
    if is_prompt and table.model.quantized:
        return None

    is_first = is_prompt and (cache is None or not cache.has_previous_state(0))
    if is_first:
        states = _first_states(layers, table, batch)
    elif (states := cache.states_in_place(len(layers), table.state_shapes(batch), table.dtype)) is None:
        return None
    # In memory of its own, which the kernels overwrite
    hidden_states = layers[0].pre_norm(hidden_states).clone(memory_format=torch.contiguous_format)
    (prefill.prefill if is_prompt else decode.decode_token)(table.model, hidden_states, states)
    if is_first and cache is not None:
        for layer_idx, (time_mix, channel_mix, recurrent) in enumerate(states):
            cache.update_shift_state(time_mix, layer_idx, TIME_MIX)
            cache.update_shift_state(channel_mix, layer_idx, CHANNEL_MIX)
            cache.update_recurrent_state(recurrent, layer_idx)
    return hidden_states


def _first_states(layers: nn.ModuleList, table: WeightTable, batch: int) -> States:
    """What the layers start from: what they learned, else zeros."""
    (_, hidden, _), recurrent_shape = table.state_shapes(batch)
    tokens = torch.zeros(len(layers), 2, batch, hidden, dtype=table.dtype)
    recurrent = torch.zeros(len(layers), *recurrent_shape)
    for index, block in enumerate(layers):
        modules = (block.attn.initial_token, block.ffn.initial_token, block.attn.initial_state)
        for module, state in zip(modules, (*tokens[index], recurrent[index]), strict=True):
            if (start := module()) is not None:
                state.copy_(start)
    return [(*token, state) for token, state in zip(tokens, recurrent, strict=True)]

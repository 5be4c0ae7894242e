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
"""RWKV-7 "Goose" (arXiv 2503.14456) as a transformers model, with the parameter names of the fla format.

What is unusual about it, for a reader who knows Llama:

* No attention and no position embeddings. A layer carries a state of constant size from token to token: one float32
  matrix (value, key) a head, and the last input of each of its two halves.
* The matrix follows a generalised delta rule: it decays channel by channel, forgets what it held in direction `kk`,
  and writes `v k^T` (`RWKV7Attention.forward`; the recurrence itself is `kernels/wkv7.py`).
* Decay, learning rate, value mix and gate are made of the token by low-rank maps, which are no adapters.
* Token shift: every projection reads its own mix of a token and the one before, channel by channel.
* All layers but the first mix the value of layer 0 into theirs.
* The output of a head is normalised by itself and gets a bonus for the current token before the gate.
* The feed-forward network, the channel mix, is a squared-ReLU MLP behind a token shift.
* The embeddings pass a LayerNorm of their own before layer 0 (`pre_norm`, RWKV-LM's `ln0`).
* Padding leaves the state as it was, and packed sequences begin it anew, wherever they stand.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.import_utils import is_tracing
from transformers.utils.output_capturing import capture_outputs

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..configuration.source_code import SavedWithCode
from ..kernels.cpu.linear import linear
from ..kernels.dispatch import Execution, LayerKernels
from ..kernels.guards import is_unwatched
from ..kernels.wkv7 import wkv7
from .cache_names import (
    CACHE_NAME,
    RWKV7CausalLMOutputWithPast,
    RWKV7ModelOutputWithPast,
    returns_both_cache_names,
    takes_both_cache_names,
)
from .cache_rwkv7 import (
    CHANNEL_MIX,
    CHECKPOINTED_STATE,
    TIME_MIX,
    RWKV7Cache,
    RWKV7GenerationMixin,
    register_cache_export_support,
)
from .causal_lm_loss import causal_lm_loss, wants_own_loss
from .checkpoint_layouts import LoadsBlinkDLFiles
from .deep_embed import (
    KeepsItsVocabulary,
    RWKV7DeepEmbed,
    RWKV7DeepEmbedAttention,
    init_deep_embed,
    init_deep_embed_attention,
)
from .four_bits_as_stored import FourBitsAsStored
from .initial_state import RWKV7InitialState
from .low_rank import RWKV7LowRank
from .quantized_linear import QuantizedLinear
from .token_context import TokenContext
from .token_layout import TokenLayout
from .token_shift import mix_tokens, shift_tokens
from .whole_model import RWKV7WeightLayout, run_whole_model


# The decay is exp(-exp(-1/2) sigmoid(w)), which keeps it above 0.545
LOG_DECAY_SCALE = -math.exp(-0.5)


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """`x` in float32, or in float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RWKV7Attention(nn.Module):
    """Time mix: token shift, data-dependent decay and learning rate, the WKV-7 recurrence, norm, bonus and gate."""

    quantized_class = QuantizedLinear  # what its linear layers become when they are quantised

    def __init__(self, config: RWKV7Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        hidden_size = config.hidden_size

        # How much of the previous token enters each input of the recurrence, per channel
        self.x_r = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.x_w = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.x_k = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.x_v = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.x_a = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.x_g = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.k_k = nn.Parameter(torch.empty(hidden_size))  # scales the key that removes
        self.k_a = nn.Parameter(torch.empty(hidden_size))  # how much the learning rate scales the key that writes
        self.r_k = nn.Parameter(torch.empty(config.num_heads, self.head_dim))  # bonus of the current token

        self.r_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.w_lora = RWKV7LowRank(hidden_size, config.decay_low_rank_dim, nn.Tanh())
        # CODEPATH: layer 0 defines the value that later layers mix in
        if layer_idx > 0:
            self.v_lora = RWKV7LowRank(hidden_size, config.v_low_rank_dim, nn.Identity())
        self.a_lora = RWKV7LowRank(hidden_size, config.a_low_rank_dim, nn.Identity())
        self.g_lora = RWKV7LowRank(hidden_size, config.gate_low_rank_dim, nn.Sigmoid(), bias=False)
        group_norm_eps = config.group_norm_eps or self.head_dim * config.norm_eps
        self.g_norm = nn.GroupNorm(config.num_heads, hidden_size, eps=group_norm_eps)
        state_shape = (config.num_heads, self.head_dim, self.head_dim)
        self.initial_state = RWKV7InitialState(state_shape, config.learned_initial_state)
        self.initial_token = RWKV7InitialState((hidden_size,), config.learned_initial_tokens)

    def forward(
        self,
        hidden_states: torch.Tensor,
        v_first: torch.Tensor | None,
        layout: TokenLayout,
        cache: RWKV7Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, time, hidden) in and out, with the values of layer 0 (`v_first`), of the same shape.

        The paper's equations of time mixing, in its order; fused kernels may stand in for those between matrices.
        """
        x, norm = hidden_states, self.g_norm  # (B, T, C)
        mixes = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        execution, kernels = self._what_runs(x, layout, mixes)
        states = self._states_before(x, layout, cache)  # (sequences, H, V, K)

        # Token shift: every input has its own share of the token before
        previous = shift_tokens(x, layout, cache, self.layer_idx, TIME_MIX, self.initial_token(), kernels)
        x_r, x_w, x_k, x_v, x_a, x_g = mix_tokens(x, previous, mixes, kernels)  # (B, T, C) each

        # Projections, all (B, T, C): receptance, decay, key, value, in-context learning rate, gate
        r, w, k, v = linear(self.r_proj, x_r), self.w_lora(x_w), linear(self.k_proj, x_k), linear(self.v_proj, x_v)
        a, g = self.a_lora(x_a), self.g_lora(x_g)
        v_gate = self.v_lora(x_v) if self.layer_idx > 0 else None
        v_first = v if self.layer_idx == 0 else v_first

        if kernels is not None:
            parameters = {"k_k": self.k_k, "k_a": self.k_a, "r_k": self.r_k, "log_decay_scale": LOG_DECAY_SCALE}
            parameters |= {"norm_weight": norm.weight, "norm_bias": norm.bias, "norm_eps": norm.eps}
            inputs = (r, w, k, v, a, g, v_gate, v_first)
            y, states = layout.over_sequences(partial(kernels.time_mix, **parameters), inputs, states)  # (B, T, C)
        else:
            log_w = LOG_DECAY_SCALE * at_least_float32(w).sigmoid()  # (B, T, C), in (-0.61, 0)
            a = a.sigmoid()
            if v_gate is not None:  # adapters may give each of the three in another dtype
                v = torch.lerp(v, v_first.to(v.dtype), v_gate.sigmoid().to(v.dtype))
            kk = self._heads(k * self.k_k)  # (B, T, H, N), the direction that is removed
            # float16 has no room for the epsilon that keeps a key of zeros from becoming NaN
            kk = F.normalize(at_least_float32(kk), dim=-1).to(kk.dtype)
            k = k * (1 + (a - 1) * self.k_a)  # the key that writes
            r, log_w, k, v, a = (self._heads(each) for each in (r, log_w, k, v, a))  # (B, T, H, N)

            recurrence = partial(wkv7, output_final_state=True, backend=execution.backend)
            y, states = layout.over_sequences(recurrence, (r, log_w, k, v, -kk, kk * a), states)  # (B, T, H, N)

            y = norm(y.flatten(0, 1).flatten(1)).view_as(g)  # each head normalised, (B, T, C)
            bonus = (r * k * self.r_k).sum(dim=-1, keepdim=True) * v  # of the current token, (B, T, H, N)
            y = (y + bonus.flatten(2)) * g
        if cache is not None:
            cache.update_recurrent_state(states, self.layer_idx)
        return linear(self.o_proj, y), v_first

    def _what_runs(
        self, x: torch.Tensor, layout: TokenLayout, mixes: tuple[torch.Tensor, ...]
    ) -> tuple[Execution, LayerKernels | None]:
        """What the forward pass runs on, and the fused kernels where they may stand in for this layer."""
        execution, norm = layout.execution(x, self.head_dim), self.g_norm
        if not is_unwatched(norm, nn.GroupNorm):
            return execution, None
        return execution, execution.layer_kernels(x, *mixes, self.k_k, self.k_a, self.r_k, norm.weight, norm.bias)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim))  # (B, T, C) -> (B, T, H, N)

    def _states_before(
        self, hidden_states: torch.Tensor, layout: TokenLayout, cache: RWKV7Cache | None
    ) -> torch.Tensor | None:
        """What every sequence starts from, (sequences, H, V, K): the state carried to it, else the learned one.

        `None` stands for zeros. Only the first of the sequences packed in a row gets what is carried to the row, if it
        did not begin in this forward pass.
        """
        carried, packed, starts = None, layout.packed, self.initial_state()
        if cache is not None and cache.has_previous_state(self.layer_idx, TIME_MIX):
            carried = cache.get_recurrent_state(self.layer_idx)
            if torch.is_grad_enabled():
                carried = carried.clone()  # the cache overwrites it in place, and backward needs it
        if carried is not None and packed is None:
            return carried
        sequences = hidden_states.shape[0] if packed is None else len(packed.cu_seqlens) - 1
        if starts is not None:
            dtype = torch.promote_types(hidden_states.dtype, torch.float32)  # never rounded
            starts = starts.to(hidden_states.device, dtype).repeat(sequences, 1, 1, 1)
        if carried is None:
            return starts
        if starts is None:
            starts = carried.new_zeros(sequences, *carried.shape[1:])
        return starts.index_copy(0, packed.first, carried[packed.continued])


class RWKV7FeedForward(nn.Module):
    """Channel mix: token shift and a squared-ReLU MLP."""

    quantized_class = QuantizedLinear

    def __init__(self, config: RWKV7Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.x_k = nn.Parameter(torch.empty(config.hidden_size))
        self.key = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.value = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.initial_token = RWKV7InitialState((config.hidden_size,), config.learned_initial_tokens)
        # CODEPATH: `rwkv7a-*` and `rwkv7b-*` have DeepEmbed
        if config.deep_embed_dim is not None:
            self.deep_embed = RWKV7DeepEmbed(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        layout: TokenLayout,
        cache: RWKV7Cache | None = None,
        token_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(batch, time, hidden) in and out; `token_embeds` are the normalised embeddings that DeepEmbed needs."""
        x = hidden_states  # (B, T, C)
        kernels = layout.execution(x, self.config.head_dim).layer_kernels(x, self.x_k)
        previous = shift_tokens(x, layout, cache, self.layer_idx, CHANNEL_MIX, self.initial_token(), kernels)
        (x_k,) = mix_tokens(x, previous, (self.x_k,), kernels)  # (B, T, C)
        k = linear(self.key, x_k)  # (B, T, I)
        k = torch.relu(k).square() if kernels is None else kernels.squared_relu(k)
        # CODEPATH: `rwkv7a-*` and `rwkv7b-*` have DeepEmbed
        if self.config.deep_embed_dim is not None:
            k = k * self.deep_embed(hidden_states, layout.token_ids, token_embeds)
        return linear(self.value, k)


class RWKV7Block(GradientCheckpointingLayer):
    """Time mix and channel mix, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: RWKV7Config, layer_idx: int):
        super().__init__()
        norm_args = {"eps": config.norm_eps, "bias": config.norm_bias}
        # CODEPATH: the embeddings are normalised once, before block 0 (`ln0` of RWKV-LM)
        if config.norm_first and layer_idx == 0:
            self.pre_norm = nn.LayerNorm(config.hidden_size, **norm_args)
        else:
            self.pre_norm = nn.Identity()
        self.attn_norm = nn.LayerNorm(config.hidden_size, **norm_args)
        self.attn = RWKV7Attention(config, layer_idx)
        self.ffn_norm = nn.LayerNorm(config.hidden_size, **norm_args)
        self.ffn = RWKV7FeedForward(config, layer_idx)
        # CODEPATH: `rwkv7b-*` have an attention beside the time mix
        if config.deep_embed_attn_dim is not None:
            self.deep_embed_attn = RWKV7DeepEmbedAttention(config, layer_idx)

    def forward(
        self,
        hidden_states: torch.Tensor,
        v_first: torch.Tensor | None,
        layout: TokenLayout,
        cache: RWKV7Cache | None = None,
        token_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(batch, time, hidden) in and out, with what layer 0 makes for all: its values and normalised embeddings.

        Embeddings of the tokens, (batch, time, hidden), are only for RWKV-7a, else `None`.
        """
        hidden_states = self.pre_norm(hidden_states)
        token_embeds = None if token_embeds is None else self.pre_norm(token_embeds)
        update, v_first = self.attn(self.attn_norm(hidden_states), v_first, layout, cache)
        # CODEPATH: `rwkv7b-*` have an attention beside the time mix, which reads the residual stream itself
        if layout.context is not None:
            update = update + self.deep_embed_attn(hidden_states, layout, cache, token_embeds)
        hidden_states = hidden_states + update
        hidden_states = hidden_states + self.ffn(self.ffn_norm(hidden_states), layout, cache, token_embeds)
        return hidden_states, v_first, token_embeds


WEIGHT_LAYOUT = RWKV7WeightLayout(RWKV7Block, RWKV7Attention, RWKV7FeedForward, LOG_DECAY_SCALE)


@torch.no_grad()
def init_time_mix(module: RWKV7Attention) -> None:
    """The official initialisation of a time mix (RWKV-LM, `RWKV-v7/train_temp`)."""
    config, layer_idx = module.config, module.layer_idx
    size, num_layers = config.hidden_size, config.num_hidden_layers
    depth = layer_idx / max(num_layers - 1, 1)  # 0 in the first layer, 1 in the last
    height = 1 - layer_idx / num_layers  # 1 in the first layer
    channel = torch.arange(size, dtype=torch.float32)
    linear = channel / max(size - 1, 1) - 0.5
    half_head = max(module.head_dim - 1, 1) / 2
    zigzag = (channel % module.head_dim - half_head) / half_head
    zigzag = zigzag * zigzag.abs()

    for mix, power in (("x_r", 0.2), ("x_w", 0.9), ("x_k", 0.7), ("x_v", 0.7), ("x_a", 0.9), ("x_g", 0.2)):
        init.copy_(getattr(module, mix), (1 - (channel / size) ** (power * height)).view(1, 1, -1))
    init.copy_(module.k_k, 0.71 - 0.1 * linear)
    init.constant_(module.k_a, 1.02)
    init.constant_(module.r_k, -0.04)
    init.copy_(
        module.w_lora.lora[2].bias,
        -6 + 6 * (linear + 0.5) ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag,
    )
    init.copy_(module.a_lora.lora[2].bias, -0.19 + 0.3 * zigzag + 0.4 * linear)
    low_ranks = [module.w_lora, module.a_lora, module.g_lora]
    if layer_idx > 0:
        init.copy_(module.v_lora.lora[2].bias, 0.73 - 0.4 * linear)
        low_ranks.append(module.v_lora)
    for low_rank in low_ranks:
        init.zeros_(low_rank.lora[0].weight)
        rank = low_rank.lora[0].out_features
        init.orthogonal_(low_rank.lora[2].weight, gain=0.1 * math.sqrt(max(rank / size, 1)))
    init.orthogonal_(module.r_proj.weight)
    init.orthogonal_(module.k_proj.weight, gain=0.1)
    init.orthogonal_(module.v_proj.weight)
    init.zeros_(module.o_proj.weight)
    init.constant_(module.g_norm.weight, ((1 + layer_idx) / num_layers) ** 0.7)
    init.zeros_(module.g_norm.bias)


@torch.no_grad()
def init_channel_mix(module: RWKV7FeedForward) -> None:
    """The official initialisation of a channel mix."""
    size = module.config.hidden_size
    height = 1 - module.layer_idx / module.config.num_hidden_layers
    init.copy_(module.x_k, 1 - (torch.arange(size, dtype=torch.float32) / size) ** (height**4))
    init.orthogonal_(module.key.weight)
    init.zeros_(module.value.weight)


@torch.no_grad()
def init_lm_head(lm_head: nn.Linear) -> None:
    """The official initialisation of an output head."""
    vocab_size, hidden_size = lm_head.out_features, lm_head.in_features  # ZeRO-3 leaves weights without a shape
    init.orthogonal_(lm_head.weight, gain=0.5 * math.sqrt(max(vocab_size / hidden_size, 1)))


class RWKV7StateEncoding(NamedTuple):
    """What [`RWKV7Model.encode_state`] returns, one row for each text.

    Attributes:
        time_mix: (batch, layers, hidden), the last token as the time mix of each layer saw it.
        recurrent: (batch, layers, heads, value, key), float32.
        channel_mix: (batch, layers, hidden), the last token as the channel mix of each layer saw it.
    """

    time_mix: torch.Tensor
    recurrent: torch.Tensor
    channel_mix: torch.Tensor


@auto_docstring
class RWKV7PreTrainedModel(SavedWithCode, LoadsBlinkDLFiles, FourBitsAsStored, KeepsItsVocabulary, PreTrainedModel):
    config: RWKV7Config
    base_model_prefix = "model"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _can_compile_fullgraph = True
    _no_split_modules = ["RWKV7Block"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _can_record_outputs = {"hidden_states": RWKV7Block}
    _keep_in_fp32_modules_strict = ["initial_state", "initial_token"]
    # Layer 0 makes the value that others mix in: a mix of its own is in many files, and never used
    _keys_to_ignore_on_load_unexpected = [r"layers\.0\.attn\.v_lora\."]

    @classmethod
    def is_custom_code(cls) -> bool:
        # For custom code transformers skips the initialisation of every module without parameters of its own, lest
        # loaded weights be overwritten; `init` leaves those alone, and the parents' initialisation is needed
        return False

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RWKV7Attention):
            init_time_mix(module)
        elif isinstance(module, RWKV7FeedForward):
            init_channel_mix(module)
        elif isinstance(module, RWKV7DeepEmbed):
            init_deep_embed(module)
        elif isinstance(module, RWKV7DeepEmbedAttention):
            init_deep_embed_attention(module)
        elif isinstance(module, RWKV7InitialState) and module.weight is not None:
            init.zeros_(module.weight)
        elif isinstance(module, RWKV7Model):
            init.uniform_(module.embeddings.weight, -1e-4, 1e-4)
        elif isinstance(module, RWKV7ForCausalLM) and not self.config.tie_word_embeddings:
            init_lm_head(module.lm_head)


@auto_docstring
class RWKV7Model(RWKV7PreTrainedModel):
    def __init__(self, config: RWKV7Config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([RWKV7Block(config, layer_idx) for layer_idx in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings = value

    @takes_both_cache_names
    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        token_ids: torch.LongTensor | None = None,
        after_layers: dict[int, Callable[[torch.Tensor], torch.Tensor]] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        r"""
        attention_mask (`torch.Tensor` of shape `(batch_size, past_length + sequence_length)`, *optional*):
            0 for padding, which may stand anywhere in a row and leaves the state exactly as it was.
        position_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Only says where packed sequences start: at every position 0 after the first token of a row the state is
            reset. RWKV-7 has no position embeddings.
        cache (`RWKV7Cache`, *optional*):
            The state after the tokens seen so far. `past_key_values` is another name of it.
        token_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Beside `inputs_embeds`, the tokens that stand there, by whose ids RWKV-7a (`deep_embed_dim`) looks up
            matrices; of images and audio these are the placeholders.
        after_layers (`dict[int, Callable]`, *optional*):
            By index of a layer what makes of the hidden states after it, `(batch_size, sequence_length, hidden_size)`,
            those that the next layer reads, as DeepStack (arXiv 2406.04334) does with features of images.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        token_embeds = None
        if inputs_embeds is None:
            # Embeddings that PEFT has wrapped do not tell their number
            check_token_ids(input_ids, getattr(self.embeddings, "num_embeddings", self.config.vocab_size))
            inputs_embeds = self.embeddings(input_ids)
        # CODEPATH: `rwkv7a-*` and `rwkv7b-*` look tokens up in every layer
        if self.config.deep_embed_dim is not None:
            token_ids = token_ids if input_ids is None else input_ids
            check_given_ids(token_ids, inputs_embeds, self.config.vocab_size)
            token_embeds = inputs_embeds if input_ids is not None else self.embeddings(token_ids)
        if cache is not None and not hasattr(cache, "begin_forward"):  # by name: saved code has a class of its own
            raise ValueError(
                f"RWKV-7 continues the state in an RWKV7Cache, got a {type(cache).__name__}: it has no keys and "
                "values, so neither prefix tuning nor caches of attention work with it. State tuning does."
            )
        # CODEPATH: `rwkv7b-*` keep vectors of every token
        if cache is not None and self.config.deep_embed_attn_dim and not hasattr(cache.layers[0], "context"):
            raise ValueError("The cache was made for another model: RWKV-7b (deep_embed_attn_dim) keeps more.")
        runs_again = self.training and torch.is_grad_enabled() and self._is_checkpointed()
        if runs_again and cache is not None:
            raise ValueError(CHECKPOINTED_STATE)
        if use_cache and cache is None and not runs_again:
            cache = RWKV7Cache(self.config)
            if torch.compiler.is_exporting():
                register_cache_export_support()

        past_length = 0 if cache is None else cache.get_seq_length()
        rows_may_begin = getattr(cache, "rows_may_begin", False)
        layout = TokenLayout.build(inputs_embeds, attention_mask, position_ids, past_length, rows_may_begin)
        layout.token_ids = token_ids
        if cache is not None:
            cache.begin_forward()
        # CODEPATH: `rwkv7b-*` attend to all tokens so far
        if self.config.deep_embed_attn_dim is not None:
            layout.context = TokenContext.build(layout, token_ids, self.config.vocab_size, cache)
        after_layers = after_layers or {}
        execution = layout.execution(inputs_embeds, self.config.head_dim)
        hidden_states = None
        if not after_layers:
            hidden_states = run_whole_model(self.layers, WEIGHT_LAYOUT, inputs_embeds, layout, cache, execution)
        if hidden_states is None:
            hidden_states, v_first = inputs_embeds, None
            for index, layer in enumerate(self.layers):
                hidden_states, v_first, token_embeds = layer(hidden_states, v_first, layout, cache, token_embeds)
                if index in after_layers:
                    hidden_states = after_layers[index](hidden_states)
        if cache is not None:
            cache.seen_tokens += inputs_embeds.shape[1]
        return RWKV7ModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE_NAME: cache})

    def _is_checkpointed(self) -> bool:
        """Whether any part of a layer is run again in the backward pass, by transformers or torch's wrapper."""
        parts = list(self.layers.modules())
        wrapped = (kind.__name__ for part in parts for kind in type(part).__mro__)
        by_layer = any(getattr(part, "gradient_checkpointing", False) for part in parts)
        return self.gradient_checkpointing or by_layer or "CheckpointWrapper" in wrapped

    def encode_state(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
    ) -> RWKV7StateEncoding:
        """The state after a text, as features of it: for search, clustering, or a linear classifier.

        The vectors differ in kind and scale, so they are not to be averaged; standardise every element
        (z-score) over varied texts first, which [`StateStatistics`] does (RWKV-LM's advice on state as embedding).

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids, or else `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                0 for padding, which does not touch the state.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, sequence_length, hidden_size)`, *optional*):
                Embeddings in place of ids.
        """
        cache = RWKV7Cache(self.config)
        self(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, cache=cache)
        layers = range(self.config.num_hidden_layers)

        def last_tokens(state_idx: int) -> torch.Tensor:
            return torch.stack([cache.get_conv_state(layer, state_idx).squeeze(-1) for layer in layers], dim=1)

        recurrent = torch.stack([cache.get_recurrent_state(layer) for layer in layers], dim=1)
        return RWKV7StateEncoding(last_tokens(TIME_MIX), recurrent, last_tokens(CHANNEL_MIX))


def check_token_ids(input_ids: torch.Tensor, vocab_size: int) -> None:
    """Refuses ids without an embedding on CPU, where torch would only say "index out of range".

    Raises:
        ValueError: Names the first bad id.
    """
    if input_ids.device.type != "cpu" or input_ids.numel() == 0 or is_tracing(input_ids):
        return
    lowest, highest = (int(bound) for bound in input_ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        bad = input_ids[(input_ids < 0) | (input_ids >= vocab_size)]
        raise ValueError(f"Token id {int(bad[0])} is out of range: the model has ids 0 to {vocab_size - 1}.")


def check_given_ids(token_ids: torch.Tensor | None, inputs_embeds: torch.Tensor, vocab_size: int) -> None:
    """Refuses embeddings without the ids that a model with DeepEmbed needs beside them.

    Raises:
        ValueError: If there are none, or they do not fit.
    """
    if token_ids is None:
        raise ValueError(
            "inputs_embeds alone are not enough: a model with deep_embed_dim (RWKV-7a) looks up a matrix of every "
            "token in every layer by its id. Pass input_ids instead, or also token_ids, the tokens that stand there."
        )
    if token_ids.shape != inputs_embeds.shape[:2]:
        raise ValueError(
            f"token_ids have the shape {tuple(token_ids.shape)}, expected {tuple(inputs_embeds.shape[:2])} as "
            "inputs_embeds have."
        )
    check_token_ids(token_ids, vocab_size)


@auto_docstring
# trf-ignore: TRF015 (the configuration stands in the folder configuration/)
class RWKV7ForCausalLM(RWKV7PreTrainedModel, RWKV7GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: RWKV7Config):
        super().__init__(config)
        self.model = RWKV7Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embeddings = value

    @takes_both_cache_names
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        loss_weights: torch.Tensor | None = None,
        loss_chunk_size: int | None = None,
        l2wrap: torch.Tensor | None = None,
        token_ids: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        cache (`RWKV7Cache`, *optional*):
            The state after the tokens seen so far. `past_key_values` is another name of it.
        loss_weights (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            What the cross-entropy of each label is multiplied by before all are summed. There are no logits then.
        loss_chunk_size (`int`, *optional*):
            Tokens whose logits exist at once while the loss is computed. There are no logits in the output then.
        l2wrap (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            Penalties of L2Wrap, see `causal_lm_loss`. There are no logits then.
        token_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
            Beside `inputs_embeds`, the tokens that stand there, see `RWKV7Model.forward`.

        Example:

        ```python
        >>> import torch
        >>> from rwkv7_world import RWKV7Config, RWKV7ForCausalLM

        >>> model = RWKV7ForCausalLM(RWKV7Config(vocab_size=100, hidden_size=64, num_hidden_layers=2))
        >>> model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=5).shape
        torch.Size([1, 8])
        ```"""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            token_ids=token_ids,
            **kwargs,
        )
        logits, loss = None, None
        if wants_own_loss(labels, loss_weights, loss_chunk_size, l2wrap):
            items = kwargs.get("num_items_in_batch")
            options = (loss_weights, items, loss_chunk_size, l2wrap)
            loss = causal_lm_loss(partial(linear, self.lm_head), outputs.last_hidden_state, labels, *options)
        else:
            logits = linear(self.lm_head, slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        if labels is not None and loss is None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return RWKV7CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE_NAME: outputs.cache}
        )


class RWKV7ForSequenceClassification(GenericForSequenceClassification, RWKV7PreTrainedModel):
    forward = takes_both_cache_names(returns_both_cache_names(GenericForSequenceClassification.forward))


__all__ = ["RWKV7ForCausalLM", "RWKV7ForSequenceClassification", "RWKV7Model", "RWKV7PreTrainedModel"]

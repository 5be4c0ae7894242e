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
"""What RWKV-7a and RWKV-7b add to RWKV-7.

RWKV-7a has DeepEmbed, a small matrix for every token in every channel mix; RWKV-7b has that and DeepEmbedAttention
(DEA), a small attention beside every time mix. Equations of `RWKV-v7/rwkv_v7a_demo.py` and `rwkv_v7b_demo.py` in
BlinkDL's RWKV-LM, and his names of the tables. What he folds together when a model is loaded, as in
`s_emb + LN0(emb) s_emb_x^T` for the whole vocabulary, is computed here for the tokens of the batch, so that it is
never out of date and gradients reach all three.
"""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..kernels.cpu.linear import linear
from .cache_rwkv7 import QUERY, RWKV7Cache
from .low_rank import RWKV7LowRank
from .token_layout import TokenLayout
from .token_shift import shift_tokens


# What DEA keeps scores in bounds with, for every width: 64 tanh(q.k / 1024)
MAX_SCORE, SCORE_SCALE = 64.0, 1024.0


class RWKV7DeepEmbed(nn.Module):
    """What every channel of the channel mix is multiplied by, a low-rank map with a matrix of the token in its middle.

    Between the two maps of `s_lora` (`s1`, then `s2` and `s0` in `.pth` files) stands the token's matrix.
    """

    def __init__(self, config: RWKV7Config):
        super().__init__()
        self.side = config.deep_embed_dim
        self.s_emb = nn.Embedding(config.vocab_size, self.side**2)
        self.s_emb_x = nn.Linear(config.hidden_size, self.side**2, bias=False)
        self.s_lora = RWKV7LowRank(config.hidden_size, self.side, nn.Identity(), output_size=config.intermediate_size)

    def forward(self, x: torch.Tensor, token_ids: torch.Tensor, token_embeds: torch.Tensor) -> torch.Tensor:
        """The factors of the channels, (batch, time, intermediate).

        Args:
            x: (batch, time, hidden), what enters the channel mix, before the token shift.
            token_ids: (batch, time).
            token_embeds: (batch, time, hidden), the normalised embeddings of these tokens.
        """
        down, _, up = self.s_lora.lora
        matrices = self.s_emb(token_ids.to(x.device)) + linear(self.s_emb_x, token_embeds)
        matrices = matrices.unflatten(-1, (self.side, self.side))  # (B, T, S * S) -> (B, T, S, S)
        return linear(up, (linear(down, x)[..., None, :] @ matrices)[..., 0, :])


class RWKV7DeepEmbedAttention(nn.Module):
    """DEA: causal attention of one head, with keys and values from low-rank maps of the token times its embeddings.

    Of a token only the two low-rank vectors and its id are kept, so keys and values are made anew in every forward
    pass, for all tokens so far.
    """

    def __init__(self, config: RWKV7Config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        hidden_size, dim, rank = config.hidden_size, config.deep_embed_attn_dim, config.deep_embed_attn_low_rank_dim
        self.q_proj = nn.Linear(hidden_size, dim, bias=False)
        self.k_lora = RWKV7LowRank(hidden_size, rank, nn.Identity(), bias=False, output_size=dim)
        self.v_lora = RWKV7LowRank(hidden_size, rank, nn.Identity(), bias=False)
        self.k_emb = nn.Embedding(config.vocab_size, dim)
        self.k_emb_x = nn.Linear(hidden_size, dim, bias=False)
        self.v_emb = nn.Embedding(config.vocab_size, hidden_size)
        self.v_emb_x = nn.Linear(hidden_size, hidden_size, bias=False)
        # How much of the previous token enters, per channel
        self.x_q = nn.Parameter(torch.empty(dim))
        self.x_k = nn.Parameter(torch.empty(dim))
        self.x_v = nn.Parameter(torch.empty(hidden_size))
        norm_args = {"eps": config.norm_eps, "bias": config.norm_bias}
        self.q_norm = nn.LayerNorm(dim, **norm_args)
        self.k_norm = nn.LayerNorm(dim, **norm_args)
        self.v_norm = nn.LayerNorm(hidden_size, **norm_args)

    def forward(
        self, x: torch.Tensor, layout: TokenLayout, cache: RWKV7Cache | None, token_embeds: torch.Tensor
    ) -> torch.Tensor:
        """(batch, time, hidden) in and out.

        Args:
            x: The residual stream before the time mix, not normalised.
            layout: Its `token_ids` and `context` are those of this forward pass.
            cache: The state to continue.
            token_embeds: (batch, time, hidden), the normalised embeddings of the tokens.
        """
        context, token_ids = layout.context.to(x.device), layout.token_ids.to(x.device)
        (k_down, _, k_up), (v_down, _, v_up) = self.k_lora.lora, self.v_lora.lora
        kept = (
            linear(k_down, x),  # (B, T, R)
            linear(v_down, x),  # (B, T, R)
            self.k_emb(token_ids) + linear(self.k_emb_x, token_embeds),  # (B, T, D)
            self.v_emb(token_ids) + linear(self.v_emb_x, token_embeds),  # (B, T, C)
        )
        if cache is not None:  # (B, S, ...) from here on, of all tokens so far
            kept = cache.update_context(*kept, context.rows, context.fresh, self.layer_idx)
        k_low, v_low, k_embed, v_embed = kept
        q = linear(self.q_proj, x)
        k = linear(k_up, k_low) * k_embed
        v = torch.tanh(linear(v_up, v_low)) * v_embed
        q_before = shift_tokens(q, layout, cache, self.layer_idx, QUERY, None, None)
        # Not by `lerp`, which autocast leaves with operands of two dtypes
        q = self.q_norm(torch.addcmul(q, q_before - q, self.x_q))
        k = self.k_norm(torch.addcmul(k, context.shift(k) - k, self.x_k))
        v = self.v_norm(torch.addcmul(v, context.shift(v) - v, self.x_v))
        scores = MAX_SCORE * torch.tanh(q @ k.mT / SCORE_SCALE)  # (B, T, S)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = scores.masked_fill(~context.allowed, float("-inf")).softmax(dim=-1)
        return weights.to(v.dtype) @ v


class KeepsItsVocabulary:
    """To stand before `PreTrainedModel` among the bases of a class: tables of DeepEmbed are not resized."""

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """See `PreTrainedModel.resize_token_embeddings`.

        Raises:
            ValueError: If a model with DeepEmbed were to get another number of tokens.
        """
        config = self.config.get_text_config(decoder=True)
        if config.deep_embed_dim is not None and new_num_tokens not in (None, config.vocab_size):
            raise ValueError(
                f"The vocabulary of {config.vocab_size} tokens cannot become one of {new_num_tokens}: a model with "
                "DeepEmbed has trained tables of all tokens in every layer, and nothing to put there for others."
            )
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)


@torch.no_grad()
def init_deep_embed(module: RWKV7DeepEmbed) -> None:
    """Every factor is 1, so that a new model begins as plain RWKV-7. Ours: no training code of RWKV-7a is published.

    `s2` is zero, as the second matrix of an adapter is, and learns first; all tokens begin with the unit matrix.
    """
    down, _, up = module.s_lora.lora
    init.copy_(module.s_emb.weight, torch.eye(module.side).flatten().expand_as(module.s_emb.weight))
    init.zeros_(module.s_emb_x.weight)
    init.orthogonal_(down.weight)
    init.zeros_(up.weight)
    init.ones_(up.bias)


@torch.no_grad()
def init_deep_embed_attention(module: RWKV7DeepEmbedAttention) -> None:
    """The attention gives zeros, so that a new model begins without it. Ours, as in `init_deep_embed`.

    The scale of the values' norm is zero and learns first; all tokens begin with embeddings of one.
    """
    init.orthogonal_(module.q_proj.weight)
    for low_rank in (module.k_lora, module.v_lora):
        init.orthogonal_(low_rank.lora[0].weight)
        init.orthogonal_(low_rank.lora[2].weight)
    for table, residual in ((module.k_emb, module.k_emb_x), (module.v_emb, module.v_emb_x)):
        init.ones_(table.weight)
        init.zeros_(residual.weight)
    for mix in (module.x_q, module.x_k, module.x_v):
        init.zeros_(mix)
    init.zeros_(module.v_norm.weight)

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
"""What RWKV-7a adds to RWKV-7: DeepEmbed, a small matrix for every token in every channel mix.

Equations of `RWKV-v7/rwkv_v7a_demo.py` in BlinkDL's RWKV-LM, and his names of the parameters. What he folds together
when a model is loaded, `s_emb + LN0(emb) s_emb_x^T` for the whole vocabulary, is computed here for the tokens of the
batch, so that it is never out of date and gradients reach all three.
"""

import torch
from torch import nn
from transformers import initialization as init

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..kernels.linear_cpu import linear
from .low_rank import RWKV7LowRank


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

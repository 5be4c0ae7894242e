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
"""The projector of torchtitan's RWKV-VL that attends to patches (`kind: cross_attn`).

Few tokens stand for an image: each starts from the encoder's merged features, reads the patches of its own square
(TokenPacker, arXiv 2407.02392), and after some layers of the text model all patches of the image, as an earlier layer
of the encoder gives them.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from .token_layout import add_to_tokens


MAX_PERIOD = 10_000
Memory = tuple[torch.Tensor, torch.Tensor]  # keys and values of patches, (patches, key-value heads, head size) each


class RWKVWorldTokenPacker(nn.Module):
    """Tokens of images, and the patches that the text model attends to.

    Of the text model D layers attend. Where projections are tied one set serves them all and the tokens, else there
    are sets 0 to D - 1 for the layers and set D for the tokens.
    """

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        encoder_dim, vision_dim = config.vision_feature_size, config.vision_config.hidden_size
        hidden_size, depth = config.text_config.hidden_size, len(config.cross_attention_text_layers)
        self.merge_size = config.vision_config.spatial_merge_size
        self.scale_factor = config.vision_projector_scale_factor
        self.num_heads = config.cross_attention_heads
        self.num_key_value_heads = config.cross_attention_key_value_heads
        self.head_dim = vision_dim // self.num_heads
        self.depth, self.is_tied = depth, config.cross_attention_tied
        key_value_dim = self.num_key_value_heads * self.head_dim

        def norms(size: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([nn.LayerNorm(size) for _ in range(count)])

        def matrices(inputs: int, outputs: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([nn.Linear(inputs, outputs, bias=False) for _ in range(count)])

        self.seed_query_norm = nn.LayerNorm(encoder_dim)
        self.seed_query_proj = nn.Linear(encoder_dim, vision_dim, bias=False)
        self.seed_output_norm = nn.LayerNorm(vision_dim)
        self.query_norms = norms(hidden_size, depth)
        self.query_gates = matrices(hidden_size, self.num_heads, depth)
        self.memory_norms = norms(vision_dim, depth + 1)
        self.query_projs = matrices(hidden_size, vision_dim, 1 if self.is_tied else depth)
        self.key_projs = matrices(vision_dim, key_value_dim, 1 if self.is_tied else depth + 1)
        self.value_projs = matrices(vision_dim, key_value_dim, 1 if self.is_tied else depth + 1)
        self.output_projs = matrices(vision_dim, hidden_size, 1 if self.is_tied else depth + 1)

    def forward(
        self, merged: torch.Tensor, layers: list[torch.Tensor], last: torch.Tensor, grids: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[list[Memory]]]:
        """Tokens of every image, (tokens, hidden), and by layer of the text model what it attends to of every image.

        Args:
            merged: (patches / merge_size**2, encoder hidden), the encoder's merged features of all images in a row.
            layers: (patches, channels) of each layer of the encoder that a layer of the text model attends to.
            last: (patches, channels) of its last layer.
            grids: (images, 3), frames, rows and columns of patches of every image.
        """
        grids, counts = grids.tolist(), grids.prod(-1).tolist()
        memories = [self._memories(depth, layer, counts) for depth, layer in enumerate(layers)]
        tokens = []
        features = merged.split([count // self.merge_size**2 for count in counts])
        for image, memory, grid in zip(features, self._memories(self.depth, last, counts), grids, strict=True):
            seeds = self._seeds(image, grid)  # (tokens, channels)
            keys, values = (self._squares(part, grid) for part in memory)  # (tokens, patches of a square, heads, size)
            queries = seeds.view(len(seeds), self.num_heads, 1, self.head_dim)
            read = self._attention(queries, keys.transpose(1, 2), values.transpose(1, 2)).reshape(seeds.shape)
            tokens.append(self._set(self.output_projs, self.depth)(self.seed_output_norm(seeds + read)))
        return tokens, memories

    def attend(
        self,
        hidden_states: torch.Tensor,
        depth: int,
        mask: torch.Tensor,
        counts: list[int],
        memories: list[Memory],
    ) -> torch.Tensor:
        """Hidden states after a layer of the text model, with what the tokens of every image read of its patches.

        Args:
            hidden_states: (batch, time, hidden).
            depth: Which of the layers that attend.
            mask: (batch, time, 1), true at the tokens of images.
            counts: How many of these tokens belong to every image, in their order.
            memories: Keys and values of every image.
        """
        tokens = hidden_states[mask.squeeze(-1).to(hidden_states.device)]  # (tokens, hidden)
        if len(tokens) == 0:
            return hidden_states
        # The layers of a model may lie on several devices
        tokens = self.query_norms[depth](tokens.to(memories[0][0].device))
        queries = self._set(self.query_projs, depth)(tokens).unflatten(-1, (self.num_heads, -1))
        read = [
            self._attention(*(part.transpose(0, 1) for part in (query, *memory))).transpose(0, 1)
            for query, memory in zip(queries.split(counts), memories, strict=True)
        ]
        gates = self.query_gates[depth](tokens).sigmoid()  # (tokens, heads)
        gated = (torch.cat(read) * gates[..., None]).flatten(1)
        return add_to_tokens(hidden_states, mask, self._set(self.output_projs, depth)(gated))

    def _set(self, projections: nn.ModuleList, depth: int) -> nn.Linear:
        return projections[0 if self.is_tied else depth]

    def _memories(self, depth: int, patches: torch.Tensor, counts: list[int]) -> list[Memory]:
        """Keys and values of every image."""
        patches = self.memory_norms[depth](patches)
        projections = (self._set(self.key_projs, depth), self._set(self.value_projs, depth))
        keys, values = (project(patches).unflatten(-1, (-1, self.head_dim)) for project in projections)
        return list(zip(keys.split(counts), values.split(counts), strict=True))

    def _seeds(self, merged: torch.Tensor, grid: list[int]) -> torch.Tensor:
        """(tokens, channels) that the tokens of an image start from: its merged features made fewer, and positions."""
        frames, rows, columns = grid[0], *(length // self.merge_size for length in grid[1:])
        size = rows // self.scale_factor, columns // self.scale_factor
        features = merged.view(frames, rows, columns, -1).permute(0, 3, 1, 2)  # (frames, channels, rows, columns)
        fewer = F.interpolate(features.float(), size=size, mode="bilinear", align_corners=False)
        fewer = fewer.permute(0, 2, 3, 1).flatten(0, 2).to(merged.dtype)
        seeds = self.seed_query_proj(self.seed_query_norm(fewer))
        return seeds + encode_positions(*size, seeds.shape[-1]).repeat(frames, 1).to(seeds)

    def _squares(self, patches: torch.Tensor, grid: list[int]) -> torch.Tensor:
        """(tokens, patches of a square, heads, size) of (patches, heads, size), which come by merged features."""
        frames, rows, columns = grid[0], *(length // self.merge_size for length in grid[1:])
        factor = self.scale_factor
        # (frames, rows, factor, columns, factor, patches of a feature, heads, size)
        squares = patches.view(frames, rows // factor, factor, columns // factor, factor, -1, *patches.shape[1:])
        return squares.transpose(2, 3).flatten(3, 5).flatten(0, 2)

    def _attention(self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Softmax attention of (..., heads, queries, size) to (..., key-value heads, patches, size)."""
        groups = self.num_heads // self.num_key_value_heads
        keys, values = (part.repeat_interleave(groups, dim=-3) for part in (keys, values))
        return F.scaled_dot_product_attention(queries, keys, values)


def encode_positions(rows: int, columns: int, channels: int) -> torch.Tensor:
    """(rows * columns, channels) float32: sine and cosine of the row, then of the column, in quarters of the channels.

    Both run from 0 to 1 over the image; frequencies fall from 1 to 1 / MAX_PERIOD turns.
    """
    quarter = channels // 4
    steps = torch.arange(quarter, dtype=torch.float32) / max(quarter - 1, 1)
    frequencies = torch.exp(-steps * math.log(MAX_PERIOD))
    y, x = torch.meshgrid(torch.linspace(0, 1, rows), torch.linspace(0, 1, columns), indexing="ij")
    phases = [2 * math.pi * place.flatten()[:, None] * frequencies for place in (y, x)]  # (rows * columns, quarter)
    return torch.cat([wave for phase in phases for wave in (phase.sin(), phase.cos())], dim=-1)

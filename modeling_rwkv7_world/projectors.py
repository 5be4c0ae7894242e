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
"""Projectors from encoder features to token embeddings, as in WorldRWKV."""

import torch
from torch import nn

from ..configuration.configuration_rwkv_world import RWKVWorldConfig


class RWKVWorldVisionProjector(nn.Module):
    """A ReLU MLP `y` with the residual `y + LayerNorm(y)` (WorldRWKV's `VisualAdapter`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.vision_projector_hidden_size)
        self.linear_2 = nn.Linear(config.vision_projector_hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, patches, encoder hidden) -> (images, patches, text hidden)."""
        projected = self.linear_2(torch.relu(self.linear_1(features)))
        return projected + self.norm(projected)


class RWKVWorldAudioProjector(nn.Module):
    """A strided convolution that halves the frame rate, then a ReLU MLP (WorldRWKV's `SpeechAdapter`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        width = config.audio_projector_hidden_size
        kernel_size, stride, padding = config.audio_projector_convolution
        self.conv = nn.Conv1d(config.audio_config.hidden_size, width, kernel_size, stride, padding)
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(clips, frames, encoder hidden) -> (clips, tokens, text hidden)."""
        frames = self.conv(features.transpose(1, 2)).transpose(1, 2)  # (clips, tokens, width)
        return self.linear_2(torch.relu(self.linear_1(frames)))

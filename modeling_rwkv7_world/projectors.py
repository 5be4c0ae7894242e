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

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from .token_packer import RWKVWorldTokenPacker


NORM_EPS = 1e-5
ACTIVATIONS = {"relu": torch.relu, "gelu": F.gelu, "swiglu": F.silu}
NORMS = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}


class RWKVWorldMLPProjector(nn.Module):
    """An MLP of two layers, after a convolution over the features where the configuration asks for one."""

    activation: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        self.conv = None
        self.gate = None  # a third matrix, by whose output the hidden units are multiplied
        if config.vision_projector_convolution is not None:
            encoder_dim = config.vision_feature_size
            self.conv = nn.Conv1d(encoder_dim, encoder_dim, *config.vision_projector_convolution, bias=False)
        self.linear_1 = nn.Linear(config.vision_feature_size, config.vision_projector_hidden_size)
        self.linear_2 = nn.Linear(config.vision_projector_hidden_size, config.text_config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, features, encoder hidden) -> (images, tokens, text hidden)."""
        if self.conv is not None:
            features = self.conv(features.transpose(1, 2)).transpose(1, 2)  # (images, tokens, encoder hidden)
        hidden = self.activation(self.linear_1(features))
        return self.linear_2(hidden if self.gate is None else hidden * self.gate(features))


class RWKVWorldGeluProjector(RWKVWorldMLPProjector):
    """A GELU MLP (WorldRWKV's `VlProj`)."""

    activation = staticmethod(F.gelu)


class RWKVWorldVisionProjector(RWKVWorldMLPProjector):
    """An MLP `y` with the residual `y + norm(y)` (WorldRWKV's `VisualAdapter`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__(config)
        self.activation = ACTIVATIONS[config.vision_projector_activation]
        # CODEPATH: of the activations only SwiGLU has a gate
        if config.vision_projector_activation == "swiglu":
            self.gate = nn.Linear(config.vision_feature_size, config.vision_projector_hidden_size)
        self.norm = NORMS[config.vision_projector_norm](config.text_config.hidden_size, eps=NORM_EPS)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., features, encoder hidden) -> (..., tokens, text hidden)."""
        projected = super().forward(features)
        return projected + self.norm(projected)


class RWKVWorldPreNormProjector(RWKVWorldVisionProjector):
    """An MLP with the residual `x + MLP(norm(x))` (the first exports of torchtitan's `VisualAdapter`)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., features, text hidden) -> (..., features, text hidden)."""
        return features + RWKVWorldMLPProjector.forward(self, self.norm(features))


class RWKVWorldPixelShuffleProjector(nn.Module):
    """One matrix over squares of `scale_factor` by `scale_factor` patches (WorldRWKV's `ModalityProjector`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        factor = self.scale_factor = config.vision_projector_scale_factor
        hidden_size = config.vision_feature_size
        self.linear = nn.Linear(hidden_size * factor**2, config.text_config.hidden_size, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, patches, encoder hidden) -> (images, patches / scale_factor**2, text hidden).

        Raises:
            ValueError: If the patches make no square grid, or one that the factor does not divide.
        """
        images, patches, hidden_size = features.shape
        factor, side = self.scale_factor, math.isqrt(patches)
        if side**2 != patches or side % factor:
            raise ValueError(f"{patches} patches make no square grid whose side {factor} divides.")
        # (images, rows, factor, columns, factor, hidden) -> (images, rows, columns, factor, factor, hidden)
        squares = features.view(images, side // factor, factor, side // factor, factor, hidden_size).transpose(2, 3)
        return self.linear(squares.reshape(images, (side // factor) ** 2, factor**2 * hidden_size))


class RWKVWorldLinearProjector(nn.Module):
    """One matrix (VisualRWKV's `linear`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        self.linear = nn.Linear(config.vision_feature_size, config.text_config.hidden_size, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, features, encoder hidden) -> (images, features, text hidden)."""
        return self.linear(features)


class RWKVWorldGatedProjector(nn.Module):
    """`LayerNorm(W_o (x * sigmoid(W_g x)))`, no biases (VisualRWKV's `MLPWithContextGating`)."""

    def __init__(self, config: RWKVWorldConfig):
        super().__init__()
        encoder_dim, hidden_size = config.vision_feature_size, config.text_config.hidden_size
        self.gate = nn.Linear(encoder_dim, encoder_dim, bias=False)
        self.linear = nn.Linear(encoder_dim, hidden_size, bias=False)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, features, encoder hidden) -> (images, features, text hidden)."""
        return self.norm(self.linear(features * torch.sigmoid(self.gate(features))))


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


# By `vision_projector_type`
VISION_PROJECTORS = {
    "mlp": RWKVWorldVisionProjector,
    "pre_norm_mlp": RWKVWorldPreNormProjector,
    "gelu_mlp": RWKVWorldGeluProjector,
    "pixel_shuffle": RWKVWorldPixelShuffleProjector,
    "linear": RWKVWorldLinearProjector,
    "gated_mlp": RWKVWorldGatedProjector,
    "token_packer": RWKVWorldTokenPacker,
}


def pool_patches(features: torch.Tensor, tokens: int) -> torch.Tensor:
    """Averages of patches over the cells of a square grid.

    Args:
        features: (images, patches, channels), the patches of a square grid, row by row.
        tokens: Cells of the grid wanted, a square number; as many as patches change nothing.

    Returns:
        (images, tokens, channels).

    Raises:
        ValueError: If the patches make no square grid.
    """
    patches = features.shape[1]
    side = math.isqrt(patches)
    if side**2 != patches:
        raise ValueError(f"{patches} features make no square grid, so num_token_per_image cannot pool them.")
    if tokens == patches:
        return features
    grid = features.transpose(1, 2).unflatten(2, (side, side))  # (images, channels, rows, columns)
    return F.adaptive_avg_pool2d(grid, math.isqrt(tokens)).flatten(2).transpose(1, 2)

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
"""Several vision encoders as one: each sees the picture in its own size, their features stand side by side."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple

from ..configuration.configuration_vision_towers import VisionTowerConfig, VisionTowersConfig
from ..configuration.source_code import SavedWithCode
from .checkpoint_layouts import LoadsWhole
from .encoders import encode_pictures, join_outputs


@auto_docstring(
    custom_intro="""
    Vision encoders of transformers side by side: their features of a patch are joined to one.
    """
)
# trf-ignore: TRF015 (the configuration stands in the folder configuration/)
class VisionTowersModel(SavedWithCode, LoadsWhole, PreTrainedModel):
    config: VisionTowersConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # Bounds memory: where SAM sees the whole picture, every pair of its 4096 patches has a number in every head
    pictures_at_a_time = 4
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: VisionTowersConfig):
        super().__init__(config)
        self.towers = nn.ModuleList([AutoModel.from_config(tower.encoder_config) for tower in config.towers])
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        # As in the text model: a class outside transformers is of the library all the same
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.towers[0].get_input_embeddings()

    @can_return_tuple
    @auto_docstring
    def forward(
        self, pixel_values: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_images, numbers)`):
            For every picture its pixels as every tower sees them, (channels, height, width) each, flattened and one
            after the other: what `VisionTowersImageProcessorPil` gives. `last_hidden_state` of the result is
            `(num_images, num_patches, hidden_size)`; hidden states and attentions are those of the first tower, then
            those of the second, and so on.
        """
        numbers = self._numbers_of_towers(pixel_values)
        parts = pixel_values.split(self.pictures_at_a_time)
        return join_outputs([self._read_pictures(some, numbers, **kwargs) for some in parts], torch.cat)

    def _read_pictures(self, pixel_values: torch.Tensor, numbers: list[int], **kwargs) -> BaseModelOutput:
        """Features (pictures, patches, channels) of (pictures, numbers), `numbers` of each tower."""
        pixels = pixel_values.split(numbers, dim=-1)
        outputs, features = [], []
        for tower, config, values in zip(self.towers, self.config.towers, pixels, strict=True):
            values = values.unflatten(-1, config.pixel_shape).to(tower.dtype)
            output, feature = encode_pictures(tower, values, config.feature_layer, **kwargs)
            outputs.append(output)
            features.append(_patches(config, feature))
        return BaseModelOutput(
            last_hidden_state=torch.cat(features, dim=-1),
            hidden_states=_one_after_the_other([output.hidden_states for output in outputs]),
            attentions=_one_after_the_other([output.attentions for output in outputs]),
        )

    def _numbers_of_towers(self, pixel_values: torch.Tensor) -> list[int]:
        numbers = [math.prod(tower.pixel_shape) for tower in self.config.towers]
        if pixel_values.dim() != 2 or pixel_values.shape[1] != sum(numbers):
            sizes = ", ".join("x".join(map(str, tower.pixel_shape)) for tower in self.config.towers)
            raise ValueError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}, expected (images, {sum(numbers)}): pixels "
                f"of towers of {sizes}, as their own image processor gives them."
            )
        return numbers


def _patches(config: VisionTowerConfig, features: torch.Tensor) -> torch.Tensor:
    """(images, patches, channels) of what a tower gives."""
    # CODEPATH: SAM gives (images, channels, rows, columns), the others rows of features
    if config.gives_map:
        return F.pixel_unshuffle(features, config.unshuffle_factor).flatten(2).transpose(1, 2)
    return features[:, config.num_prefix_tokens :]


def _one_after_the_other(values: list[tuple[torch.Tensor, ...] | None]) -> tuple[torch.Tensor, ...] | None:
    return None if any(value is None for value in values) else tuple(itertools.chain(*values))


__all__ = ["VisionTowersModel"]

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
"""Configuration of a vision encoder made of several others, whose features stand side by side."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import auto_docstring

from .auto_classes import AUTO_CLASSES
from .source_code import WritesItsCode


# Tokens that a vision encoder puts before the patches: CLS and registers
_PREFIX_TOKENS = {
    "siglip_vision_model": 0,
    "sam_vision_model": 0,
    "rwkv_vision_towers": 0,
    "clip_vision_model": 1,
    "vit": 1,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "qwen3_vl_vision": 0,
    "qwen3_5_vision": 0,
}
# Vision encoders that see every picture in its own size, as patches and their grid, and merge squares of features
GRID_ENCODERS = ("qwen3_vl_vision", "qwen3_5_vision")


def known_prefix_tokens(config: PreTrainedConfig, option: str) -> int:
    """Class and register tokens that a vision encoder puts in front of the patches.

    Args:
        config: Its configuration.
        option: What tells the number of an encoder that is not known here.

    Raises:
        ValueError: If the encoder is not known.
    """
    if config.model_type not in _PREFIX_TOKENS:
        raise ValueError(
            f"Unknown vision encoder {config.model_type!r}: pass {option}, the number of class and register tokens it "
            "puts in front of the patches."
        )
    return _PREFIX_TOKENS[config.model_type] + getattr(config, "num_register_tokens", 0)


@auto_docstring(checkpoint="howard-hou/visualrwkv-6")
@strict
class VisionTowerConfig(PreTrainedConfig):
    r"""
    encoder_config (`dict` or `PreTrainedConfig`, *optional*):
        Any transformers vision encoder that returns features of patches, in a row or as a map.
    feature_layer (`int`, *optional*):
        Index into the hidden states of the encoder; -1 is the output of its last layer, before any final norm. `None`
        takes its last hidden state.
    num_prefix_tokens (`int`, *optional*):
        Class and register tokens in front of the patches, which are dropped; known for the usual encoders.
    unshuffle_factor (`int`, *optional*, defaults to 1):
        Side of the squares of a map of features that are made one feature, as `pixel_unshuffle` does.
    """

    model_type = "rwkv_vision_tower"
    sub_configs_defaults = {
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
    }

    encoder_config: dict | PreTrainedConfig | None = None
    feature_layer: int | None = None
    num_prefix_tokens: int | None = None
    unshuffle_factor: int = 1

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.encoder_config = getattr(self.encoder_config, "vision_config", self.encoder_config)
        if self.num_prefix_tokens is None:
            self.num_prefix_tokens = known_prefix_tokens(self.encoder_config, "num_prefix_tokens")
        if self.unshuffle_factor > 1 and not self.gives_map:
            raise ValueError(
                f"unshuffle_factor is {self.unshuffle_factor}, but {self.encoder_config.model_type} gives features in "
                "a row, expected an encoder that gives a map of them."
            )

    @property
    def gives_map(self) -> bool:
        """Whether the encoder gives its features as (channels, rows, columns), as SAM's does."""
        return self.feature_layer is None and hasattr(self.encoder_config, "output_channels")

    @property
    def hidden_size(self) -> int:
        """Channels of the features."""
        if self.gives_map:
            return self.encoder_config.output_channels * self.unshuffle_factor**2
        return self.encoder_config.hidden_size

    @property
    def num_patches(self) -> int:
        """Features of a picture."""
        return (self.encoder_config.image_size // self.encoder_config.patch_size // self.unshuffle_factor) ** 2

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a picture."""
        size = self.encoder_config.image_size
        return self.encoder_config.num_channels, size, size


@auto_docstring(checkpoint="howard-hou/visualrwkv-6")
@strict
class VisionTowersConfig(WritesItsCode, PreTrainedConfig):
    r"""
    towers (`list[dict]` or `list[VisionTowerConfig]`):
        The encoders, in the order in which their features stand side by side. All give as many features of a picture.

    Example:

    ```python
    >>> from transformers import SamVisionConfig, SiglipVisionConfig
    >>> from rwkv7_world import VisionTowerConfig, VisionTowersConfig

    >>> siglip = SiglipVisionConfig(image_size=448, patch_size=14, hidden_act="gelu")
    >>> configuration = VisionTowersConfig(
    ...     towers=[
    ...         VisionTowerConfig(encoder_config=siglip, feature_layer=-2),
    ...         VisionTowerConfig(encoder_config=SamVisionConfig(), unshuffle_factor=2),
    ...     ]
    ... )
    >>> configuration.num_patches, configuration.hidden_size
    (1024, 1792)
    ```"""

    model_type = "rwkv_vision_towers"
    auto_classes = AUTO_CLASSES[model_type]

    towers: list[dict | PreTrainedConfig] | None = None

    def __post_init__(self, **kwargs):
        self.towers = [VisionTowerConfig(**t) if isinstance(t, dict) else t for t in self.towers or []]
        super().__post_init__(**kwargs)  # passes a choice of attention on to the towers
        counts = [tower.num_patches for tower in self.towers]
        if len(set(counts)) > 1:
            raise ValueError(f"The towers give {counts} features of a picture, expected the same number of each.")

    @property
    def hidden_size(self) -> int:
        """Channels of the features of all towers side by side."""
        return sum(tower.hidden_size for tower in self.towers)

    @property
    def num_patches(self) -> int:
        """Features of a picture."""
        return self.towers[0].num_patches

    @PreTrainedConfig._attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        """Set in the towers too, which the base class does not find in a list."""
        PreTrainedConfig._attn_implementation.fset(self, value)
        for tower in self.towers:
            tower._attn_implementation = value

    def to_dict(self) -> dict:
        """All fields, the towers as dictionaries."""
        towers = [tower.to_diff_dict() for tower in self.towers]
        for tower in towers:
            tower.pop("transformers_version", None)
        return super().to_dict() | {"towers": towers}


__all__ = ["VisionTowerConfig", "VisionTowersConfig", "known_prefix_tokens"]

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
"""Configuration of the composite: an RWKV-7 language model with a vision tower, an audio tower, or both."""

import math
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.utils import auto_docstring

from .auto_classes import AUTO_CLASSES
from .configuration_rwkv7 import RWKV7Config
from .configuration_vision_towers import GRID_ENCODERS, VisionTowersConfig, known_prefix_tokens
from .source_code import WritesItsCode, pipeline_references


# WorldRWKV keeps `mel_frames // 2 + 1` frames of Whisper's output, which is what this convolution gives
_WHISPER_FRAMES = [2, 2, 1]
# Vision projectors that may have a convolution in front
MLP_PROJECTORS = ("mlp", "gelu_mlp")
# Those that take features of pictures of many sizes in one row
_PROJECTORS_OF_ROWS = ("mlp", "gelu_mlp", "pre_norm_mlp", "linear", "gated_mlp", "token_packer")


@auto_docstring(checkpoint="WorldRWKV/RWKV7-0.4B-siglip2")
@strict
class RWKVWorldConfig(WritesItsCode, PreTrainedConfig):
    r"""
    vision_config (`dict` or `PreTrainedConfig`, *optional*):
        The vision encoder, any transformers vision model that returns patch features, or several of them as a
        `VisionTowersConfig`. `None` is a model without a vision encoder.
    audio_config (`dict` or `PreTrainedConfig`, *optional*):
        The audio encoder: Whisper, of which the encoder is used, or WavLM, HuBERT, wav2vec 2.0. `None` is a model
        without an audio encoder.
    vision_feature_layer (`int`, *optional*):
        Index into the hidden states of the vision encoder. `None` takes its last hidden state, after the final norm
        where the encoder has one.
    vision_feature_select_strategy (`str`, *optional*, defaults to `"full"`):
        `"full"` keeps every feature, `"default"` drops the class and register tokens in front of the patches.
    num_additional_image_tokens (`int`, *optional*):
        Class and register tokens that the vision encoder puts in front of the patches; known for the usual encoders.
    vision_projector_type (`str`, *optional*, defaults to `"mlp"`):
        `"mlp"` is an MLP `y` with the residual `y + norm(y)`, `"pre_norm_mlp"` an MLP with the residual
        `x + MLP(norm(x))`, for features as wide as the text model, `"gelu_mlp"` a GELU MLP alone, `"pixel_shuffle"`
        one matrix over squares of neighbouring patches, `"linear"` one matrix, `"gated_mlp"` a gate over the features,
        one matrix and a norm, `"token_packer"` attention to patches, in front of the text model and inside it.
    vision_projector_hidden_size (`int`, *optional*):
        Width of the vision projector's MLP, 4 times the hidden size of the text model if `None`.
    vision_projector_activation (`str`, *optional*, defaults to `"relu"`):
        Of the MLP of `"mlp"` and `"pre_norm_mlp"`: `"relu"`, `"gelu"`, or `"swiglu"`, which has a gate.
    vision_projector_norm (`str`, *optional*, defaults to `"layernorm"`):
        Of `"mlp"` and `"pre_norm_mlp"`: `"layernorm"` or `"rmsnorm"`.
    num_deepstack_projectors (`int`, *optional*, defaults to 0):
        Features of earlier layers of a Qwen3-VL vision encoder (its DeepStack) that have a projector of their own and
        are added to the hidden states at the image's tokens, the first after the first layer of the text model, and so
        on.
    vision_projector_kernel_size (`int`, *optional*):
        Kernel of a convolution over the features in front of the vision projector's MLP. `None` is no convolution.
    vision_projector_stride (`int`, *optional*, defaults to 2):
        Stride of that convolution.
    vision_projector_scale_factor (`int`, *optional*, defaults to 4):
        Side of the squares of patches that `"pixel_shuffle"`, or of merged features that `"token_packer"` makes one
        token of.
    cross_attention_vision_layers (`list[int]`, *optional*):
        Of `"token_packer"`: layers of the vision encoder whose patches layers of the text model attend to.
    cross_attention_text_layers (`list[int]`, *optional*):
        As many layers of the text model, after which the tokens of an image attend to its patches.
    cross_attention_heads (`int`, *optional*, defaults to 1):
        Heads of that attention.
    cross_attention_key_value_heads (`int`, *optional*):
        Heads of its keys and values, as many if `None`.
    cross_attention_tied (`bool`, *optional*, defaults to `True`):
        Whether all layers share one set of projections.
    num_token_per_image (`int`, *optional*):
        A square number: averages over a grid of so many cells are taken of the patches of a picture, in front of the
        projector. `None` takes the patches as they are.
    left_padding_multiple (`int`, *optional*):
        Emulates VisualRWKV's `evaluate.py`, which runs every step without a cache and puts embeddings of the end token
        in front until the length is a multiple of 16. Only for comparisons bit by bit, with `use_cache=False` and one
        row at a time: models are trained without.
    audio_projector_hidden_size (`int`, *optional*):
        Width of the speech projector, twice the hidden size of the text model if `None`.
    audio_projector_kernel_size (`int`, *optional*, defaults to 3):
        Kernel of the speech projector's convolution.
    audio_projector_stride (`int`, *optional*, defaults to 2):
        Stride of the speech projector's convolution.
    audio_projector_padding (`int`, *optional*, defaults to 2):
        Padding of the speech projector's convolution.
    audio_whole_window (`bool`, *optional*, defaults to `False`):
        Whether every clip makes as many features as the padded input has, as in the earliest models with Whisper,
        rather than those of its own length.
    vision_start_token_id (`int`, *optional*, defaults to 65530):
        Token before an image.
    vision_end_token_id (`int`, *optional*, defaults to 65531):
        Token after an image.
    audio_start_token_id (`int`, *optional*, defaults to 65533):
        Token before a clip.
    audio_end_token_id (`int`, *optional*, defaults to 65534):
        Token after a clip.

    Example:

    ```python
    >>> from transformers import SiglipVisionConfig
    >>> from rwkv7_world import RWKV7Config, RWKVWorldConfig, RWKVWorldForConditionalGeneration

    >>> configuration = RWKVWorldConfig(
    ...     text_config=RWKV7Config(hidden_size=64, num_hidden_layers=2), vision_config=SiglipVisionConfig()
    ... )
    >>> model = RWKVWorldForConditionalGeneration(configuration)
    ```"""

    model_type = "rwkv_world"
    auto_classes = AUTO_CLASSES[model_type]
    # With the Auto class of the model that each is for; transformers' own classes do for other tasks
    pipelines = {"automatic-speech-recognition": ("RWKVWorldSpeechRecognitionPipeline", "AutoModelForMultimodalLM")}
    # Features are there in batches with media only, and are no predictions
    keys_to_ignore_at_inference = ["cache", "past_key_values", "image_hidden_states", "audio_hidden_states"]
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=RWKV7Config),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model", optional=True),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wavlm", optional=True),
    }

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    vision_feature_layer: int | None = None
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    num_additional_image_tokens: int | None = None
    vision_projector_type: Literal[
        "mlp", "pre_norm_mlp", "gelu_mlp", "pixel_shuffle", "linear", "gated_mlp", "token_packer"
    ] = "mlp"
    vision_projector_hidden_size: int | None = None
    vision_projector_activation: Literal["relu", "gelu", "swiglu"] = "relu"
    vision_projector_norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    num_deepstack_projectors: int = 0
    vision_projector_kernel_size: int | None = None
    vision_projector_stride: int = 2
    vision_projector_scale_factor: int = 4
    cross_attention_vision_layers: list[int] | None = None
    cross_attention_text_layers: list[int] | None = None
    cross_attention_heads: int = 1
    cross_attention_key_value_heads: int | None = None
    cross_attention_tied: bool = True
    num_token_per_image: int | None = None
    left_padding_multiple: int | None = None
    audio_projector_hidden_size: int | None = None
    audio_projector_kernel_size: int = 3
    audio_projector_stride: int = 2
    audio_projector_padding: int = 2
    audio_whole_window: bool = False
    vision_start_token_id: int = 65530
    vision_end_token_id: int = 65531
    image_token_id: int = 65532
    audio_start_token_id: int = 65533
    audio_end_token_id: int = 65534
    audio_token_id: int = 65535
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        # The Auto class knows only what is registered with it, and the code that a saved folder carries is not
        if (
            isinstance(self.vision_config, dict)
            and self.vision_config.get("model_type") == VisionTowersConfig.model_type
        ):
            self.vision_config = VisionTowersConfig(**self.vision_config)
        super().__post_init__(**kwargs)
        # A two-tower configuration such as CLIP's holds the vision encoder's
        self.vision_config = getattr(self.vision_config, "vision_config", self.vision_config)
        if self.vision_projector_hidden_size is None:
            self.vision_projector_hidden_size = 4 * self.text_config.hidden_size
        if self.audio_projector_hidden_size is None:
            self.audio_projector_hidden_size = 2 * self.text_config.hidden_size
        if self.num_additional_image_tokens is None and self.vision_config is not None:
            self.num_additional_image_tokens = known_prefix_tokens(self.vision_config, "num_additional_image_tokens")
        # Several towers see fixed sizes; the patches of a single encoder are as many as the picture has
        if self.num_token_per_image is None and isinstance(self.vision_config, VisionTowersConfig):
            self.num_token_per_image = self.vision_config.num_patches
        if self.num_token_per_image is not None and math.isqrt(self.num_token_per_image) ** 2 != (
            self.num_token_per_image
        ):
            raise ValueError(f"num_token_per_image is {self.num_token_per_image}, expected a square number.")
        if self.vision_config is not None:
            self._check_vision()

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs) -> Any:
        """As the base class does; what has an audio encoder also names the pipeline for speech."""
        if self.audio_config is not None:
            self.custom_pipelines = pipeline_references(self.pipelines)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _check_vision(self) -> None:
        """Refuses a projector, or options of it, that the vision encoder has no features for."""
        if self.vision_takes_grids:
            not_for_grids = {
                "vision_projector_type": self.vision_projector_type not in _PROJECTORS_OF_ROWS,
                "vision_projector_kernel_size": self.vision_projector_kernel_size is not None,
                "vision_feature_layer": self.vision_feature_layer is not None,
                "num_token_per_image": self.num_token_per_image is not None,
                "left_padding_multiple": self.left_padding_multiple is not None,
            }
            for name, given in not_for_grids.items():
                if given:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}: {self.vision_config.model_type} gives merged features of "
                        "pictures of any size, for which there is none such."
                    )
        if self.vision_projector_type == "token_packer":
            self._check_cross_attention()
        features, width = self.vision_feature_size, self.text_config.hidden_size
        if self.vision_projector_type == "pre_norm_mlp" and features != width:
            raise ValueError(
                f"pre_norm_mlp adds features of {features} to tokens of {width}: they must be of the same size."
            )
        available = len(getattr(self.vision_config, "deepstack_visual_indexes", ()))
        if not 0 <= self.num_deepstack_projectors <= min(available, self.text_config.num_hidden_layers):
            raise ValueError(
                f"num_deepstack_projectors is {self.num_deepstack_projectors}, but the vision encoder gives features "
                f"of {available} earlier layers, and the text model has {self.text_config.num_hidden_layers} layers."
            )

    def _check_cross_attention(self) -> None:
        """Refuses layers and heads that the vision encoder or the text model has not."""
        if not self.vision_takes_grids or self.num_deepstack_projectors:
            raise ValueError(
                f"token_packer takes patches of a Qwen3-VL vision encoder, and no DeepStack: got "
                f"{self.vision_config.model_type} with num_deepstack_projectors={self.num_deepstack_projectors}."
            )
        if self.cross_attention_key_value_heads is None:
            self.cross_attention_key_value_heads = self.cross_attention_heads
        depths = {"vision": self.vision_config.depth, "text": self.text_config.num_hidden_layers}
        chosen = {kind: getattr(self, f"cross_attention_{kind}_layers") or [] for kind in depths}
        for kind, layers in chosen.items():
            if layers != sorted(set(layers)) or not all(0 <= layer < depths[kind] for layer in layers):
                raise ValueError(
                    f"cross_attention_{kind}_layers is {layers}, expected increasing layers below {depths[kind]}."
                )
        if len(chosen["vision"]) != len(chosen["text"]) or not chosen["text"]:
            raise ValueError(
                f"cross_attention_vision_layers is {chosen['vision']} and cross_attention_text_layers "
                f"{chosen['text']}: expected as many of each, and at least one."
            )
        width, heads, key_value_heads = (
            self.vision_config.hidden_size,
            self.cross_attention_heads,
            self.cross_attention_key_value_heads,
        )
        if min(heads, key_value_heads, self.vision_projector_scale_factor) < 1:
            raise ValueError(
                f"cross_attention_heads={heads}, cross_attention_key_value_heads={key_value_heads} and "
                f"vision_projector_scale_factor={self.vision_projector_scale_factor} must be positive."
            )
        if width % heads or width % 4 or heads % key_value_heads:
            raise ValueError(
                f"{heads} heads and {key_value_heads} of keys and values do not divide patches of {width} channels."
            )

    @property
    def vision_takes_grids(self) -> bool:
        """Whether the vision encoder sees every picture in its own size, as patches and their grid."""
        return self.vision_config is not None and self.vision_config.model_type in GRID_ENCODERS

    @property
    def vision_feature_size(self) -> int:
        """Channels of the features that the vision projector takes."""
        return self.vision_config.out_hidden_size if self.vision_takes_grids else self.vision_config.hidden_size

    @property
    def vision_projector_convolution(self) -> list[int] | None:
        """(kernel size, stride, padding) of the vision projector's convolution, `None` if it has none."""
        if self.vision_projector_kernel_size is None or self.vision_projector_type not in MLP_PROJECTORS:
            return None
        return [self.vision_projector_kernel_size, self.vision_projector_stride, 0]

    @property
    def vision_patches_per_token(self) -> int:
        """Patches, or merged features, that the vision projector makes one token of."""
        makes_fewer = self.vision_projector_type in ("pixel_shuffle", "token_packer")
        return self.vision_projector_scale_factor**2 if makes_fewer else 1

    @property
    def audio_encoder_convolutions(self) -> list[list[int]]:
        """(kernel size, stride, padding) of the convolutions that shorten a clip inside the audio encoder."""
        if self.audio_config.model_type == "whisper":
            return [_WHISPER_FRAMES]
        sizes = zip(self.audio_config.conv_kernel, self.audio_config.conv_stride, strict=True)
        return [[kernel_size, stride, 0] for kernel_size, stride in sizes]

    @property
    def audio_max_frames(self) -> int | None:
        """Most frames that the audio encoder gives, `None` if it has no window."""
        return getattr(self.audio_config, "max_source_positions", None)

    @property
    def audio_projector_convolution(self) -> list[int]:
        """(kernel size, stride, padding) of the speech projector's convolution."""
        return [self.audio_projector_kernel_size, self.audio_projector_stride, self.audio_projector_padding]


__all__ = ["RWKVWorldConfig"]

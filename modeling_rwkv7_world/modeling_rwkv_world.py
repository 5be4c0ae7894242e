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
"""RWKV-7 with vision and audio encoders: projectors, and the language model that reads the features as tokens."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple, torch_compilable_check

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..configuration.feature_lengths import audio_frame_length, convolution_length
from ..configuration.source_code import SavedWithCode
from ..kernels.cpu.linear import linear
from .cache_names import CACHE_NAME, BothCacheNames, takes_both_cache_names
from .cache_rwkv7 import RWKV7GenerationMixin
from .causal_lm_loss import causal_lm_loss, wants_own_loss
from .checkpoint_layouts import LoadsWhole
from .deep_embed import KeepsItsVocabulary
from .encoders import EncoderOutput, build_audio_tower, encode_clips, encode_patches, encode_pictures
from .four_bits_as_stored import FourBitsAsStored
from .modeling_rwkv7 import RWKV7Model, check_token_ids, init_lm_head
from .projectors import VISION_PROJECTORS, RWKVWorldAudioProjector, pool_patches
from .token_layout import add_to_tokens


@auto_docstring(custom_intro="Outputs of the composite without its head.")
@dataclass
class RWKVWorldModelOutputWithPast(BothCacheNames, BaseModelOutputWithPast):
    r"""
    cache (`RWKV7Cache`, *optional*):
        The state after the tokens seen so far.
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Projected image features, in the order of their placeholders.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        Projected audio features, in the order of their placeholders.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None


@auto_docstring(custom_intro="Outputs of the composite with its head.")
@dataclass
class RWKVWorldCausalLMOutputWithPast(BothCacheNames, CausalLMOutputWithPast):
    r"""
    loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is provided):
        Next-token loss.
    logits (`torch.FloatTensor` of shape `(batch_size, sequence_length, vocab_size)`):
        Scores of every token before the softmax.
    cache (`RWKV7Cache`, *optional*):
        The state after the tokens seen so far.
    image_hidden_states (`torch.FloatTensor` of shape `(num_image_tokens, hidden_size)`, *optional*):
        Projected image features, in the order of their placeholders.
    audio_hidden_states (`torch.FloatTensor` of shape `(num_audio_tokens, hidden_size)`, *optional*):
        Projected audio features, in the order of their placeholders.
    """

    image_hidden_states: torch.FloatTensor | None = None
    audio_hidden_states: torch.FloatTensor | None = None


@auto_docstring
class RWKVWorldPreTrainedModel(SavedWithCode, LoadsWhole, FourBitsAsStored, KeepsItsVocabulary, PreTrainedModel):
    config: RWKVWorldConfig
    base_model_prefix = "model"
    input_modalities = ("image", "audio", "text")
    supports_gradient_checkpointing = True
    _can_compile_fullgraph = True
    _no_split_modules = ["RWKV7Block"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    # What the encoders support; the language model has no attention
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    @classmethod
    def is_custom_code(cls) -> bool:
        # As in the text model: else `lm_head`, whose parent has no parameter of its own, is never initialised
        return False

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, RWKVWorldForConditionalGeneration) and not self.config.tie_word_embeddings:
            init_lm_head(module.lm_head)


@auto_docstring(
    custom_intro="""
    The vision tower, the audio tower, their projectors and an RWKV-7 language model, without a language modeling head.
    Either tower may be absent.
    """
)
class RWKVWorldModel(RWKVWorldPreTrainedModel):
    def __init__(self, config: RWKVWorldConfig):
        super().__init__(config)
        # CODEPATH: a modality without a configuration is absent from the model
        if config.vision_config is not None:
            self.vision_tower = AutoModel.from_config(config.vision_config)
            projector_class = VISION_PROJECTORS[config.vision_projector_type]
            self.vision_projector = projector_class(config)
            self.deepstack_projectors = nn.ModuleList(
                [projector_class(config) for _ in range(config.num_deepstack_projectors)]
            )
        # CODEPATH: a modality without a configuration is absent from the model
        if config.audio_config is not None:
            self.audio_tower = build_audio_tower(config.audio_config)
            self.audio_projector = RWKVWorldAudioProjector(config)
        self.language_model = RWKV7Model(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.embeddings = value

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes images and projects their features to token embeddings.")
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        image_grid_thw: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)`):
            The images, or all tiles of one image after those of another; for several vision towers
            `(num_images, numbers)`; for an encoder that takes grids `(patches, numbers)`. `pooler_output` of the
            result is a list of `(tokens, hidden_size)`, one for each image or tile, and `deepstack_features`, if there
            are any, a list of such lists.
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`, *optional*):
            Frames, rows and columns of patches of every image, for an encoder that takes grids.
        """
        if self.config.vision_config is None:
            raise ValueError("pixel_values were given to a model without a vision tower (vision_config is None).")
        has_grids = image_grid_thw is not None
        if has_grids != self.config.vision_takes_grids:
            wanted = "without" if has_grids else "with"
            raise ValueError(f"{self.config.vision_config.model_type} takes pixel_values {wanted} image_grid_thw.")
        pixel_values = pixel_values.to(self.vision_tower.dtype)
        # CODEPATH: Qwen's encoders see every picture in its own size
        if has_grids:
            layers = self.config.cross_attention_vision_layers
            outputs = encode_patches(self.vision_tower, pixel_values, image_grid_thw, layers, **kwargs)
            return self._project_grids(outputs, image_grid_thw)
        outputs, features = encode_pictures(
            self.vision_tower, pixel_values, self.config.vision_feature_layer, **kwargs
        )
        # CODEPATH: WorldRWKV keeps CLIP's class token ("full"), LLaVA-style models keep only patches ("default")
        if self.config.vision_feature_select_strategy == "default":
            features = features[:, self.config.num_additional_image_tokens :]
        # CODEPATH: VisualRWKV averages over neighbouring patches, other models keep them all
        if self.config.num_token_per_image is not None:
            features = pool_patches(features, self.config.num_token_per_image)
        return BaseModelOutputWithPooling(pooler_output=list(self.vision_projector(features)), **outputs)

    def _project_grids(self, outputs: EncoderOutput, grids: torch.LongTensor) -> EncoderOutput:
        """The encoder's outputs with its features projected, and those of every image by themselves."""
        # CODEPATH: torchtitan's later models attend to patches (`kind: cross_attn`), all others project features
        if self.config.vision_projector_type == "token_packer":
            layers, outputs.deepstack_features = outputs.deepstack_features, None
            outputs.pooler_output, outputs.memories = self.vision_projector(
                outputs.pooler_output, layers, outputs.last_hidden_state, grids
            )
            return outputs
        tokens = (grids.prod(-1) // self.config.vision_config.spatial_merge_size**2).tolist()
        outputs.deepstack_features = [
            list(project(layer).split(tokens))
            for project, layer in zip(self.deepstack_projectors, outputs.deepstack_features or (), strict=False)
        ] or None
        outputs.pooler_output = list(self.vision_projector(outputs.pooler_output).split(tokens))
        return outputs

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes audio clips and projects their features to token embeddings.")
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features (`torch.FloatTensor` of shape `(clips, mels, frames)` or `(clips, samples)`):
            Log-mel spectrograms for Whisper, waveforms for the other encoders. `pooler_output` of the result is a list
            of `(tokens, hidden_size)`, one for each clip, without the tokens of padding.
        input_features_mask (`torch.Tensor` of shape `(clips, frames)` or `(clips, samples)`, *optional*):
            0 for padding.
        """
        if self.config.audio_config is None:
            raise ValueError("input_features were given to a model without an audio tower (audio_config is None).")
        clips = input_features.to(self.audio_tower.dtype)
        outputs = encode_clips(self.audio_tower, clips, input_features_mask, **kwargs)
        frames = outputs.last_hidden_state
        # CODEPATH: WorldRWKV cut Whisper's output to the length of the clip only from March 2025 on
        if input_features_mask is None or self.config.audio_whole_window:
            lengths = torch.full(frames.shape[:1], input_features.shape[-1], device=frames.device)
        else:
            lengths = input_features_mask.sum(dim=-1).to(frames.device)
        lengths = audio_frame_length(lengths, self.config.audio_encoder_convolutions, self.config.audio_max_frames)
        padded = torch.arange(frames.shape[1], device=frames.device) >= lengths[:, None]
        # The projector's convolution sees zeros after the last frame, as for a clip on its own
        projected = self.audio_projector(frames.masked_fill(padded[..., None], 0))
        token_lengths = convolution_length(lengths, *self.config.audio_projector_convolution)
        clips = [clip[:length] for clip, length in zip(projected, token_lengths, strict=True)]
        return BaseModelOutputWithPooling(
            last_hidden_state=frames,
            pooler_output=clips,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def get_placeholder_mask(
        self,
        input_ids: torch.LongTensor | None,
        inputs_embeds: torch.FloatTensor,
        features: torch.FloatTensor,
        modality: str,
    ) -> torch.BoolTensor:
        """Where the placeholders of a modality stand, (batch, time, 1).

        Args:
            input_ids: (batch, time), or `None` to find the placeholders by their embedding.
            inputs_embeds: (batch, time, hidden).
            features: (tokens, hidden), projected features of all images or clips.
            modality: "image" or "audio".

        Raises:
            ValueError: If there are not as many placeholders as features.
        """
        mask = self.find_placeholders(input_ids, inputs_embeds, modality)
        torch_compilable_check(
            mask.sum() == features.shape[0],
            f"{modality.capitalize()} features and {modality} tokens do not match, "
            f"tokens: {mask.sum()}, features: {features.shape[0]}",
        )
        return mask.unsqueeze(-1).to(inputs_embeds.device)

    def find_placeholders(
        self, input_ids: torch.LongTensor | None, inputs_embeds: torch.FloatTensor | None, modality: str
    ) -> torch.BoolTensor:
        """Where the placeholders of "image" or "audio" stand, (batch, time), by id or else by embedding."""
        token_id = self.config.image_token_id if modality == "image" else self.config.audio_token_id
        if input_ids is not None:
            return input_ids == token_id
        token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _encode(self, mm_encoder_outputs, pixel_values, image_grid_thw, input_features, input_features_mask):
        """Outputs of the encoders by modality, from raw inputs or from what was encoded before."""
        outputs = dict(mm_encoder_outputs or {})
        for modality, raw in (("image", pixel_values), ("audio", input_features)):
            if raw is not None and outputs.get(modality) is not None:
                raise ValueError(f"Both raw {modality} inputs and mm_encoder_outputs[{modality!r}] were given.")
        if pixel_values is not None:
            outputs["image"] = self.get_image_features(pixel_values, image_grid_thw, return_dict=True)
        if input_features is not None:
            outputs["audio"] = self.get_audio_features(input_features, input_features_mask, return_dict=True)
        return {modality: output for modality, output in outputs.items() if output is not None}

    def _after_layers(self, output: EncoderOutput, mask: torch.BoolTensor) -> dict[int, Callable]:
        """What the text model does after its layers to the tokens of images, which are where `mask` is true."""
        if memories := getattr(output, "memories", None):
            attend = partial(
                self.vision_projector.attend, mask=mask, counts=[len(image) for image in output.pooler_output]
            )
            layers = enumerate(self.config.cross_attention_text_layers)
            return {layer: partial(attend, depth=depth, memories=memories[depth]) for depth, layer in layers}
        deepstack = getattr(output, "deepstack_features", None) or ()
        layers = [torch.cat(list(layer)) for layer in deepstack]
        return {index: partial(add_to_tokens, mask=mask, added=added) for index, added in enumerate(layers)}

    def _left_padding(self, inputs_embeds, attention_mask, cache) -> int:
        """Embeddings that `left_padding_multiple` wants in front of a whole row."""
        # As in `generate`, which passes a mask for every kind of layer
        mask = attention_mask["linear_attention"] if isinstance(attention_mask, dict) else attention_mask
        has_padding = mask is not None and not bool(mask.all())
        if inputs_embeds.shape[0] != 1 or cache is not None or has_padding:
            raise ValueError(
                "left_padding_multiple wants one whole row without padding at a time: pass use_cache=False, and rows "
                "one by one."
            )
        return -inputs_embeds.shape[1] % self.config.left_padding_multiple

    @takes_both_cache_names
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | RWKVWorldModelOutputWithPast:
        r"""
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`, *optional*):
            Frames, rows and columns of patches of every image, for a vision encoder that takes images of any size.
        input_features_mask (`torch.Tensor` of shape `(clips, frames)` or `(clips, samples)`, *optional*):
            0 for padding in `input_features`.
        cache (`RWKV7Cache`, *optional*):
            The state after the tokens seen so far. `past_key_values` is another name of it.
        mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
            Results of `get_image_features` and `get_audio_features` under "image" and "audio", in place of raw inputs.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        if inputs_embeds is None:
            check_token_ids(input_ids, self.config.text_config.vocab_size)
            inputs_embeds = self.get_input_embeddings()(input_ids)

        media = self._encode(mm_encoder_outputs, pixel_values, image_grid_thw, input_features, input_features_mask)
        encoded = {modality: torch.cat(list(output.pooler_output)) for modality, output in media.items()}
        for modality, features in encoded.items():
            features = features.to(inputs_embeds.device, inputs_embeds.dtype)
            mask = self.get_placeholder_mask(input_ids, inputs_embeds, features, modality)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)
            if modality == "image":
                kwargs["after_layers"] = self._after_layers(media["image"], mask)

        padding = 0
        # CODEPATH: only for comparisons with VisualRWKV's evaluation
        if self.config.left_padding_multiple is not None:
            padding = self._left_padding(inputs_embeds, attention_mask, cache)
            end = self.config.text_config.eos_token_id
            end_embeds = self.get_input_embeddings().weight[end].expand(1, padding, -1)
            inputs_embeds = torch.cat([end_embeds, inputs_embeds], dim=1)
            if input_ids is not None:
                input_ids = torch.nn.functional.pad(input_ids, (padding, 0), value=end)
            attention_mask = position_ids = None

        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            token_ids=input_ids,
            **kwargs,
        )
        return RWKVWorldModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state[:, padding:],
            hidden_states=outputs.hidden_states,
            image_hidden_states=encoded.get("image"),
            audio_hidden_states=encoded.get("audio"),
            **{CACHE_NAME: outputs.cache},
        )


def _repeat_images(media: list[torch.Tensor], counts: list[int], times: int) -> list[int]:
    """Indices of images, those of every row of `counts` tokens `times` in a row."""
    sizes = [len(image) for image in media]
    if len(counts) == 1 or sum(counts) != sum(sizes):  # see `_repeat_rows`
        return list(range(len(media))) * times
    images, start = [], 0
    for count in counts:
        stop = start
        while sum(sizes[start:stop]) < count:
            stop += 1
        images += list(range(start, stop)) * times
        start = stop
    return images


def _repeat_rows(media: list[torch.Tensor], counts: list[int], times: int) -> list[torch.Tensor]:
    """Features of media, (tokens, hidden) each, row by row and `times` in a row; `counts` has the tokens of rows."""
    features = torch.cat(list(media))
    # A single row may hold placeholders of an earlier turn too; a wrong count is refused by the forward pass
    fits = len(counts) > 1 and sum(counts) == len(features)
    rows = features.split(counts) if fits else [features]
    return [row for row in rows for _ in range(times)]


@auto_docstring(
    custom_intro="""
    RWKV-7 with a vision tower, an audio tower or both, and a language modeling head.
    """
)
# trf-ignore: TRF015 (the configuration stands in the folder configuration/)
class RWKVWorldForConditionalGeneration(RWKVWorldPreTrainedModel, RWKV7GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embeddings.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: RWKVWorldConfig):
        super().__init__(config)
        self.model = RWKVWorldModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    @auto_docstring
    def get_image_features(
        self,
        pixel_values: torch.FloatTensor,
        image_grid_thw: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`, *optional*):
            Frames, rows and columns of patches of every image, for a vision encoder that takes images of any size.
        """
        return self.model.get_image_features(pixel_values, image_grid_thw, **kwargs)

    @auto_docstring
    def get_audio_features(
        self,
        input_features: torch.FloatTensor,
        input_features_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        input_features_mask (`torch.Tensor` of shape `(clips, frames)` or `(clips, samples)`, *optional*):
            0 for padding in `input_features`.
        """
        return self.model.get_audio_features(input_features, input_features_mask, **kwargs)

    def _prepare_multimodal_encoder_kwargs_for_generation(self, model_kwargs: dict) -> dict:
        """Encodes clips before the prefill, as transformers does with images."""
        model_kwargs["mm_encoder_outputs"] = dict(model_kwargs.get("mm_encoder_outputs") or {})
        model_kwargs = super()._prepare_multimodal_encoder_kwargs_for_generation(model_kwargs)
        clips, mask = model_kwargs.pop("input_features", None), model_kwargs.pop("input_features_mask", None)
        if clips is not None:
            if model_kwargs["mm_encoder_outputs"].get("audio") is not None:
                raise ValueError("Both raw audio inputs and mm_encoder_outputs['audio'] were given.")
            model_kwargs["mm_encoder_outputs"]["audio"] = self.get_audio_features(clips, mask, return_dict=True)
        return model_kwargs

    def _prefill(self, input_ids, generation_config, model_kwargs, *args, **kwargs):
        """Reads a prompt at once, not in chunks, where tokens attend to whole images."""
        image = (model_kwargs.get("mm_encoder_outputs") or {}).get("image")
        if getattr(image, "memories", None) is not None:
            generation_config = copy.copy(generation_config)
            generation_config.prefill_chunk_size = None
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)

    def _expand_multimodal_outputs(
        self, input_ids, mm_encoder_output, expand_size: int = 1, inputs_embeds: torch.Tensor | None = None
    ) -> dict[str, BaseModelOutputWithPooling]:
        """Gives every beam of a row all features of that row; transformers itself does so with images only."""
        expanded = {}
        for modality, output in mm_encoder_output.items():
            if output is None:
                continue
            ids = None if input_ids is None or input_ids.numel() == 0 else input_ids
            counts = self.model.find_placeholders(ids, inputs_embeds, modality).sum(dim=1).tolist()
            if memories := getattr(output, "memories", None):
                images = _repeat_images(output.pooler_output, counts, expand_size)
                expanded[modality] = EncoderOutput(
                    output.last_hidden_state,
                    pooler_output=[output.pooler_output[image] for image in images],
                    memories=[[layer[image] for image in images] for layer in memories],
                )
                continue
            layers = getattr(output, "deepstack_features", None)
            expanded[modality] = EncoderOutput(
                output.last_hidden_state,
                pooler_output=_repeat_rows(output.pooler_output, counts, expand_size),
                deepstack_features=layers and [_repeat_rows(layer, counts, expand_size) for layer in layers],
            )
        return expanded

    @takes_both_cache_names
    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        loss_weights: torch.Tensor | None = None,
        loss_chunk_size: int | None = None,
        l2wrap: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | RWKVWorldCausalLMOutputWithPast:
        r"""
        image_grid_thw (`torch.LongTensor` of shape `(num_images, 3)`, *optional*):
            Frames, rows and columns of patches of every image, for a vision encoder that takes images of any size.
        input_features_mask (`torch.Tensor` of shape `(clips, frames)` or `(clips, samples)`, *optional*):
            0 for padding in `input_features`.
        cache (`RWKV7Cache`, *optional*):
            The state after the tokens seen so far. `past_key_values` is another name of it.
        mm_encoder_outputs (`dict[str, BaseModelOutputWithPooling]`, *optional*):
            Results of `get_image_features` and `get_audio_features` under "image" and "audio", in place of raw inputs.
        loss_weights (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            What the cross-entropy of each label is multiplied by before all are summed. There are no logits then.
        loss_chunk_size (`int`, *optional*):
            Tokens whose logits exist at once while the loss is computed. There are no logits in the output then.
        l2wrap (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
            Penalties of L2Wrap, see `causal_lm_loss`. There are no logits then.

        Example:

        ```python
        >>> from transformers import AutoModelForImageTextToText, AutoProcessor
        >>> import rwkv7_world

        >>> folder = "examples/tiny_world/checkpoint"
        >>> model = AutoModelForImageTextToText.from_pretrained(folder)
        >>> processor = AutoProcessor.from_pretrained(folder)

        >>> content = [{"type": "image", "path": "scene.png"}, {"type": "text", "text": "what color is the circle?"}]
        >>> inputs = processor.apply_chat_template(
        ...     [{"role": "user", "content": content}],
        ...     add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ... )
        >>> output = model.generate(**inputs, max_new_tokens=10)
        >>> processor.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        ```"""
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
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
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return RWKVWorldCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            image_hidden_states=outputs.image_hidden_states,
            audio_hidden_states=outputs.audio_hidden_states,
            **{CACHE_NAME: outputs.cache},
        )


__all__ = ["RWKVWorldForConditionalGeneration", "RWKVWorldModel", "RWKVWorldPreTrainedModel"]

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
"""The encoders of the composite behind one call each: pictures or clips in, features out, some of them at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.models.whisper.modeling_whisper import WhisperEncoder


PICTURES_AT_A_TIME = 32  # or tiles of pictures
PATCHES_AT_A_TIME = 2**15  # of pictures of any size: as many as 32 of 512 by 512 pixels
STEPS_AT_A_TIME = 240 * 16_000  # samples: four minutes
SAMPLES_PER_MEL_FRAME = 160


class ShardedWhisperEncoder(WhisperEncoder):
    """Whisper's encoder, whose sinusoidal positions stay as they are, loaded in one piece or in shards.

    Where DeepSpeed's ZeRO-3 holds its parameters in shards, a parameter has no elements while it is not needed, and
    transformers computes the positions by their shape. Whisper does not train them, but `from_pretrained` puts new
    parameters, all of them trainable, in place of those that were frozen when the model was made.
    """

    def train(self, mode: bool = True):
        """Sets the mode, as `from_pretrained` does last of all, and freezes the positions."""
        self.embed_positions.requires_grad_(False)
        return super().train(mode)

    @classmethod
    def is_custom_code(cls) -> bool:
        # As in the text model: else an encoder, which has no parameter of its own, is never initialised
        return False

    def _init_weights(self, module):
        is_loaded_shard = module is self and self.embed_positions.weight.dim() != 2
        if not is_loaded_shard:
            super()._init_weights(module)


def build_audio_tower(config: PreTrainedConfig) -> nn.Module:
    """The encoder of a configuration; of Whisper, an encoder-decoder, only the encoder."""
    if config.model_type == "whisper":
        return ShardedWhisperEncoder(config)
    return AutoModel.from_config(config)


def encode_pictures(
    tower: nn.Module, pixel_values: torch.Tensor, layer: int | None, **kwargs
) -> tuple[BaseModelOutput, torch.Tensor]:
    """Outputs and features of every picture, some at a time, so that a long video takes no more memory.

    Args:
        tower: A vision encoder of transformers.
        pixel_values: (pictures, ...), as it takes them.
        layer: Index of the hidden states that are the features; the last hidden state if `None`.
        kwargs: Of the encoder, as `output_hidden_states` and `output_attentions`.

    Returns:
        The encoder's outputs of all pictures, and (pictures, features, channels).
    """
    wanted = kwargs.pop("output_hidden_states", None)
    wanted = tower.config.output_hidden_states if wanted is None else wanted
    outputs, features = [], []
    for some in pixel_values.split(_pictures_at_a_time(tower)):
        output = tower(some, output_hidden_states=wanted or layer is not None, return_dict=True, **kwargs)
        features.append(output.last_hidden_state if layer is None else output.hidden_states[layer])
        outputs.append(output)
        if not wanted:
            output.hidden_states = None
    return join_outputs(outputs, torch.cat), torch.cat(features)


def join_outputs(
    outputs: list[BaseModelOutput], join: Callable[[list[torch.Tensor]], torch.Tensor]
) -> BaseModelOutput:
    """One output of an encoder's outputs on some of the rows each, which `join` puts together tensor by tensor."""

    def of_all_layers(name: str) -> tuple[torch.Tensor, ...] | None:
        values = [getattr(output, name, None) for output in outputs]
        return None if values[0] is None else tuple(join(list(same)) for same in zip(*values, strict=True))

    return BaseModelOutput(
        last_hidden_state=join([output.last_hidden_state for output in outputs]),
        hidden_states=of_all_layers("hidden_states"),
        attentions=of_all_layers("attentions"),
    )


@dataclass
class EncoderOutput(BaseModelOutputWithPooling):
    r"""
    Of an encoder or its projectors.

    Args:
        deepstack_features (`list`, *optional*):
            By earlier layer of the encoder what `pooler_output` is of the last one.
        memories (`list`, *optional*):
            By layer of the text model that attends to patches of images their keys and values, image by image.
    """

    deepstack_features: list | None = None
    memories: list | None = None


def encode_patches(
    tower: nn.Module, pixel_values: torch.Tensor, grids: torch.Tensor, layers: list[int] | None = None, **kwargs
) -> EncoderOutput:
    """Outputs of a vision encoder that sees every picture in its own size, as Qwen3-VL's, some pictures at a time.

    Args:
        tower: A vision encoder of transformers.
        pixel_values: (patches, numbers of a patch), those of one picture after those of another.
        grids: (pictures, 3), patches of every picture: frames, rows, columns.
        layers: Those whose outputs, (patches, channels), are given as `deepstack_features`; if `None` the encoder's
            own, merged.
        kwargs: Of the encoder, as `output_hidden_states`.

    Returns:
        `last_hidden_state` (patches, channels), `pooler_output` (tokens, channels) and, where the encoder has them,
        `deepstack_features`, a list of the same shape, of all pictures in a row.

    Raises:
        ValueError: If there are more or fewer patches than the grids have.
    """
    counts = grids.prod(-1).tolist()
    if sum(counts) != len(pixel_values):
        raise ValueError(f"pixel_values has {len(pixel_values)} patches, but image_grid_thw tells of {sum(counts)}.")
    groups = _pictures_together(counts)
    patches = pixel_values.split([sum(counts[some]) for some in groups])
    outputs = []
    for values, some in zip(patches, groups, strict=True):
        with _outputs_of(tower.blocks, layers or ()) as captured:
            outputs.append(tower(values, grid_thw=grids[some], return_dict=True, **kwargs))
        if layers is not None:
            outputs[-1].deepstack_features = [captured[layer] for layer in layers]
    joined = join_outputs(outputs, torch.cat)
    deepstack = zip(*(getattr(output, "deepstack_features", None) or () for output in outputs), strict=True)
    return EncoderOutput(
        last_hidden_state=joined.last_hidden_state,
        pooler_output=torch.cat([output.pooler_output for output in outputs]),
        hidden_states=joined.hidden_states,
        deepstack_features=[torch.cat(same) for same in deepstack] or None,
    )


@contextmanager
def _outputs_of(blocks: nn.ModuleList, layers: Iterable[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What some of the blocks give in the forward passes inside, by their index."""
    captured = {}

    def keep(layer: int, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        captured[layer] = output

    handles = [blocks[layer].register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _pictures_together(counts: list[int]) -> list[slice]:
    """Neighbouring pictures with no more patches than are encoded at a time, or a single larger one."""
    groups, start, patches = [], 0, 0
    for index, count in enumerate(counts):
        if index > start and patches + count > PATCHES_AT_A_TIME:
            groups.append(slice(start, index))
            start, patches = index, 0
        patches += count
    return [*groups, slice(start, len(counts))]


def calls_for_pictures(tower: nn.Module, pixel_values: torch.Tensor, grids: torch.Tensor | None = None) -> int:
    """How often [`encode_pictures`], or with grids [`encode_patches`], calls the tower."""
    if grids is not None:
        return len(_pictures_together(grids.prod(-1).tolist()))
    return -(-len(pixel_values) // _pictures_at_a_time(tower))


def _pictures_at_a_time(tower: nn.Module) -> int:
    return getattr(tower, "pictures_at_a_time", PICTURES_AT_A_TIME)


def encode_clips(
    tower: nn.Module, input_features: torch.Tensor, mask: torch.Tensor | None, **kwargs
) -> BaseModelOutput:
    """Outputs of every clip, a few minutes of sound at a time, so that hours take no more memory.

    Args:
        tower: What [`build_audio_tower`] made.
        input_features: (clips, mels, frames) for Whisper, (clips, samples) for waveform encoders.
        mask: (clips, frames or samples), 0 for padding.
        kwargs: Of the encoder, as `output_hidden_states` and `output_attentions`.

    Returns:
        The encoder's outputs, (clips, frames, encoder hidden); frames of padding hold anything.
    """
    parts = _parts_of_clips(input_features, mask)
    outputs = [output for part in parts for output in _encode(tower, *part, **kwargs)]
    return outputs[0] if len(outputs) == 1 else join_outputs(outputs, _join_padded)


def _join_padded(rows: list[torch.Tensor]) -> torch.Tensor:
    """The rows of all tensors, (rows, ...) of various sizes, with zeros behind the shorter ones."""
    sizes = [max(size) for size in zip(*(some.shape[1:] for some in rows), strict=True)]
    return torch.cat([nn.functional.pad(some, _padding(some.shape[1:], sizes)) for some in rows])


def _padding(sizes: torch.Size, wanted: list[int]) -> list[int]:
    """What `pad` takes to bring `sizes` to `wanted`: pairs, the last dimension first."""
    missing = [new - old for old, new in zip(sizes, wanted, strict=True)]
    return [number for missed in reversed(missing) for number in (0, missed)]


def calls_for_clips(tower: nn.Module, input_features: torch.Tensor, mask: torch.Tensor | None) -> int:
    """How often [`encode_clips`] calls the tower, of the same arguments."""
    parts = _parts_of_clips(input_features, mask)
    return sum(len(clips) if _goes_clip_by_clip(tower, some) else 1 for clips, some in parts)


def _parts_of_clips(
    input_features: torch.Tensor, mask: torch.Tensor | None
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """The clips that are encoded at a time, and their masks."""
    steps = STEPS_AT_A_TIME if input_features.dim() == 2 else STEPS_AT_A_TIME // SAMPLES_PER_MEL_FRAME
    clips = input_features.split(max(1, steps // max(input_features.shape[-1], 1)))
    masks = [None] * len(clips) if mask is None else mask.split(len(clips[0]))
    return list(zip(clips, masks, strict=True))


def _goes_clip_by_clip(tower: nn.Module, mask: torch.Tensor | None) -> bool:
    """Whether the first convolution is normalised over time, so that padding would change the real frames."""
    if tower.config.model_type == "whisper" or mask is None or bool(mask.all()):
        return False
    return tower.config.feat_extract_norm == "group"


def _encode(tower: nn.Module, input_features: torch.Tensor, mask: torch.Tensor | None, **kwargs) -> list:
    """The encoder's outputs, of all clips at once or of one after the other."""
    if tower.config.model_type == "whisper" or mask is None or bool(mask.all()):
        return [tower(input_features, return_dict=True, **kwargs)]
    if not _goes_clip_by_clip(tower, mask):
        return [tower(input_features, attention_mask=mask, return_dict=True, **kwargs)]
    lengths = mask.sum(dim=-1).tolist()
    clips = zip(input_features, lengths, strict=True)
    return [tower(clip[None, :length], return_dict=True, **kwargs) for clip, length in clips]

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

import torch
from torch import nn
from transformers import AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder


PICTURES_AT_A_TIME = 32  # or tiles of pictures
STEPS_AT_A_TIME = 240 * 16_000  # samples: four minutes
SAMPLES_PER_MEL_FRAME = 160


def build_audio_tower(config: PreTrainedConfig) -> nn.Module:
    """The encoder of a configuration; of Whisper, an encoder-decoder, only the encoder."""
    if config.model_type == "whisper":
        return WhisperEncoder(config)
    return AutoModel.from_config(config)


def encode_pictures(
    tower: nn.Module, pixel_values: torch.Tensor, layer: int | None, **kwargs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden state and features of every picture, some at a time, so that a long video takes no more memory.

    Args:
        tower: A vision encoder of transformers.
        pixel_values: (pictures, ...), as it takes them.
        layer: Index of the hidden states that are the features; the last hidden state if `None`.
        kwargs: Of the encoder.

    Returns:
        Twice (pictures, features, channels).
    """
    last, features = [], []
    for some in pixel_values.split(_pictures_at_a_time(tower)):
        outputs = tower(some, output_hidden_states=layer is not None, return_dict=True, **kwargs)
        last.append(outputs.last_hidden_state)
        features.append(outputs.last_hidden_state if layer is None else outputs.hidden_states[layer])
    return torch.cat(last), torch.cat(features)


def calls_for_pictures(tower: nn.Module, pixel_values: torch.Tensor) -> int:
    """How often [`encode_pictures`] calls the tower."""
    return -(-len(pixel_values) // _pictures_at_a_time(tower))


def _pictures_at_a_time(tower: nn.Module) -> int:
    return getattr(tower, "pictures_at_a_time", PICTURES_AT_A_TIME)


def encode_clips(tower: nn.Module, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Frames of every clip, a few minutes of sound at a time, so that hours take no more memory.

    Args:
        tower: What [`build_audio_tower`] made.
        input_features: (clips, mels, frames) for Whisper, (clips, samples) for waveform encoders.
        mask: (clips, frames or samples), 0 for padding.

    Returns:
        (clips, frames, encoder hidden); frames of padding hold anything.
    """
    parts = _parts_of_clips(input_features, mask)
    if len(parts) == 1:
        return _encode(tower, *parts[0])
    frames = [_encode(tower, *part) for part in parts]
    return nn.utils.rnn.pad_sequence([clip for some in frames for clip in some], batch_first=True)


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


def _encode(tower: nn.Module, input_features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if tower.config.model_type == "whisper":
        return tower(input_features).last_hidden_state
    if mask is None or bool(mask.all()):
        return tower(input_features).last_hidden_state
    if not _goes_clip_by_clip(tower, mask):
        return tower(input_features, attention_mask=mask).last_hidden_state
    lengths = mask.sum(dim=-1).tolist()
    clips = [
        tower(clip[None, :length]).last_hidden_state[0] for clip, length in zip(input_features, lengths, strict=True)
    ]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True)

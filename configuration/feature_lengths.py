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
"""How many tokens a picture or clip becomes: the processor writes so many placeholders, and the model fills them."""

from typing import TypeVar

import torch


Length = TypeVar("Length", int, torch.Tensor)


def convolution_length(length: Length, kernel_size: int, stride: int, padding: int) -> Length:
    """Output length of a 1-d convolution over `length` steps."""
    return (length + 2 * padding - kernel_size) // stride + 1


def image_token_length(
    features: int | None, convolution: list[int] | None, patches_per_token: int, pooled: int | None = None
) -> int:
    """Tokens of a picture.

    Args:
        features: Features that the encoder gives of it and the model keeps; `None` will do if they are pooled.
        convolution: (kernel size, stride, padding) of the projector's convolution, `None` if it has none.
        patches_per_token: Patches that the projector's pixel shuffle makes one token of.
        pooled: Averages that are taken of the features in front of the projector, `None` if none are.
    """
    if pooled is not None:
        features = pooled
    if convolution is not None:
        features = convolution_length(features, *convolution)
    return features // patches_per_token


def audio_frame_length(length: Length, convolutions: list[list[int]], max_frames: int | None = None) -> Length:
    """Encoder frames of a clip.

    Args:
        length: Real input steps of the clip: samples of a waveform, or frames of a log-mel spectrogram.
        convolutions: (kernel size, stride, padding) of every convolution of the encoder.
        max_frames: Most frames the encoder gives, if it has a window.
    """
    for convolution in convolutions:
        length = convolution_length(length, *convolution)
    if max_frames is None:
        return length
    return length.clamp(max=max_frames) if isinstance(length, torch.Tensor) else min(length, max_frames)

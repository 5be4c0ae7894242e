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
"""Samples of a clip as (samples,) float32 around -1 to 1, whatever numbers they are stored as."""

import numpy as np

from .media_arrays import to_numpy


# Whole numbers of these types are PCM of their whole range; the unsigned ones have silence in the middle of it
PCM_TYPES = ("int8", "uint8", "int16", "uint16", "int32")
# No clip is stored as int64: lists and their arrays hold samples of the smallest of these depths that they fit into
PCM_BITS_OF_LISTS = (16, 24, 32)
LARGEST_BYTE = 255
LARGEST_INT16 = 32_767
# Loud samples go beyond 1, but not so far: larger ones are PCM that was made floats without being scaled
MAX_FLOAT_SAMPLE = 100.0


def to_waveform(clip, name: str) -> np.ndarray:
    """(samples,) float32 around -1 to 1, the mean of channels.

    Args:
        clip: An array, tensor or list of (samples,), (channels, samples) or (samples, channels). Floats are taken as
            they are; int8, uint8, int16, uint16 and int32, of either byte order, are PCM and divided by the range of
            their type, around its middle where it has no sign; lists of whole numbers and int64 are PCM of 16 bits, or
            of 24 or 32 where they do not fit.
        name: Of the clip, for messages.

    Raises:
        ValueError: If it is no waveform, or an empty one, or its numbers are of no known scale.
    """
    values = to_numpy(clip)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"{name} is empty or no waveform: its shape is {values.shape}, expected (samples,).")
    if values.dtype.kind in "iu":
        values = _scale_pcm(values, name)
    elif values.dtype.kind != "f":
        raise ValueError(f"{name} holds values of type {values.dtype}, expected floats or PCM as whole numbers.")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds samples that are not finite, expected numbers around -1 to 1.")
    if (peak := np.abs(values).max()) > MAX_FLOAT_SAMPLE:
        raise ValueError(
            f"{name} holds floats up to {peak:g}, expected numbers around -1 to 1: divide PCM by its range, as 32768."
        )
    return values.mean(axis=int(values.shape[1] < values.shape[0])) if values.ndim == 2 else values


def _scale_pcm(values: np.ndarray, name: str) -> np.ndarray:
    """Whole numbers as float64 from -1 to 1."""
    if values.dtype.newbyteorder("=").name in PCM_TYPES:
        info = np.iinfo(values.dtype)
        middle = (info.max + 1) // 2 if info.min == 0 else 0
        return (values.astype(np.float64) - middle) / 2 ** (info.bits - 1)
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high > 0 and (high <= LARGEST_BYTE or high > LARGEST_INT16):
        raise ValueError(
            f"{name} holds whole numbers from {low} to {high}, none below 0, and may be PCM with or without a sign: "
            "give an array of uint8, int16, uint16 or int32, or floats from -1 to 1."
        )
    bits = next((bits for bits in PCM_BITS_OF_LISTS if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)), None)
    if bits is None:
        raise ValueError(f"{name} holds whole numbers from {low} to {high}, which do not fit into 32 bits of PCM.")
    return values / 2 ** (bits - 1)


__all__ = ["to_waveform"]

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
"""Images of any mode, depth and layout in 8-bit RGB: transparency on white, values scaled by their range."""

import numpy as np
from PIL import Image
from transformers.image_utils import ChannelDimension
from transformers.utils import logging

from .media_arrays import to_numpy


logger = logging.get_logger(__name__)

LARGEST_BYTE, LARGEST_UINT16 = 255, 65_535
# Formats whose modes "I" and "I;16" have 16 bits; in memory these modes may hold what was an image of 8
FORMATS_OF_16_BITS = ("PNG", "PPM")
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second
# Floats that were resized by a cubic filter go so far beyond their range, as a share of it
OVERSHOOT = 0.1
# No image of 0 to 255 whose values are not whole is so dark all over, so these are of no known range
DARKEST_FLOAT = 16
ARRAY_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def image_to_rgb(image: Image.Image, original: Image.Image | None = None) -> Image.Image:
    """A Pillow image of any mode in 8-bit RGB, as it looks on a white ground.

    Args:
        image: The image.
        original: What it was opened as, if it is a copy that was turned: only that one tells the format of its file.

    Raises:
        ValueError: If its values are of no known range.
    """
    transparent = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values, file = np.asarray(image), image if original is None else original
        largest = _largest_of_file(file)
        if file.format == "TIFF" and file.mode.startswith("I;16") and file.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            values = largest - values  # which Pillow does for 8 bits only
        gray = Image.fromarray(_to_bytes(values, largest))
        if isinstance(transparent, int):  # the one gray that is seen through
            gray.putalpha(Image.fromarray((values != transparent).astype(np.uint8) * LARGEST_BYTE))
        image = gray
    if image.has_transparency_data:
        # Pillow converts "La", gray times opacity, to nothing else
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def array_to_rgb(array, input_data_format: str | ChannelDimension | None = None) -> Image.Image:
    """An array or tensor as a Pillow image in 8-bit RGB, as it looks on a white ground.

    Args:
        array: (height, width), or with 1, 3 or 4 channels before or after, or 2 after: gray or RGB, and opacity.
            Booleans are black and white; integers go to 255, or to 65535 if one is larger than 255; floats to 1, 255
            or 65535, whichever is the first that holds them.
        input_data_format: Where the channels are, if both ends are possible.

    Raises:
        ValueError: If its shape is another, or its values are of no known range.
    """
    array = to_numpy(array)
    axis = _channel_axis(array, input_data_format)
    if axis is not None:
        array = np.moveaxis(array, axis, -1)
    values = np.ascontiguousarray(_to_bytes(array))
    mode = ARRAY_MODES[1 if axis is None else values.shape[-1]]
    return image_to_rgb(Image.fromarray(values[..., 0] if axis is not None and mode == "L" else values, mode))


def is_between_0_and_1(array) -> bool:
    """Whether an array or tensor holds floats of this range, as an image that was rescaled does."""
    array = to_numpy(array)
    return array.dtype.kind == "f" and _largest_value(array) == 1


def _channel_axis(array: np.ndarray, input_data_format: str | ChannelDimension | None) -> int | None:
    """The axis of channels, the first or the last; `None` if there is none."""
    if array.ndim == 2 and array.size:
        return None
    if array.ndim == 3 and array.size:
        given = {} if input_data_format is None else {ChannelDimension.FIRST: 0, ChannelDimension.LAST: -1}
        axes = [given[ChannelDimension(input_data_format)]] if given else [0, -1]
        # Three channels before any other number, for an image may be 4 pixels high
        for channels in ((3,), (1, 4)):
            if found := [axis for axis in axes if array.shape[axis] in channels]:
                return found[0]
        if array.shape[-1] == 2 and -1 in axes:
            return -1
    raise ValueError(
        f"its shape is {array.shape}, expected (height, width), or this with 1, 3 or 4 channels before or after"
    )


def _to_bytes(values: np.ndarray, largest: int | None = None) -> np.ndarray:
    """uint8 from 0 to 255 of values from 0 to `largest`, by default what their type or their own largest says."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * LARGEST_BYTE
    if values.dtype.kind not in "iuf":
        raise ValueError(f"its values are of type {values.dtype}, expected integers or floats")
    largest = largest or _largest_value(values)
    if largest != LARGEST_BYTE:
        logger.warning_once(
            "An image of more than 8 bits or of floats is scaled by its range. transformers' own image processors do "
            "not do so where they read it themselves: give them 8-bit RGB."
        )
    return np.rint(values.astype(np.float64) * (LARGEST_BYTE / largest)).clip(0, LARGEST_BYTE).astype(np.uint8)


def _largest_of_file(image: Image.Image) -> int | None:
    """The largest value of an image of one channel by its file's format; `None` where that does not tell."""
    if image.format in FORMATS_OF_16_BITS and image.mode != "F":  # a PFM of floats is a PPM to Pillow
        return LARGEST_UINT16
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        return 2 ** image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] - 1
    return None


def _largest_value(values: np.ndarray) -> int:
    """1 (of floats), 255 or 65535: the first range that holds all values.

    Raises:
        ValueError: If none does.
    """
    low, high = values.min(), values.max()
    are_floats = values.dtype.kind == "f"
    beyond = OVERSHOOT if are_floats else 0
    for largest in ((1,) if are_floats else ()) + (LARGEST_BYTE, LARGEST_UINT16):
        if not -beyond * largest <= low <= high <= (1 + beyond) * largest:  # nor anything that is not a number
            continue
        if are_floats and largest > 1 and high < DARKEST_FLOAT and (values != np.rint(values)).any():
            break
        return largest
    raise ValueError(f"its values are {low:g} to {high:g}, expected 0 to 1 (floats), 0 to 255 or 0 to 65535")


__all__ = ["array_to_rgb", "image_to_rgb", "is_between_0_and_1"]

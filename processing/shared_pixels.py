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
"""Sizes of images that share one limit of pixels, as torchtitan's processor of RWKV-VL gives it to a whole prompt."""

import math

from PIL import Image
from transformers.image_utils import is_pil_image


# Sizes are rounded down to whole squares, so once more is usually enough
MAX_ROUNDS, SHRINK_FURTHER = 8, 0.995
Size = tuple[int, int]  # (height, width)


def resize_together(
    images: list[Image.Image], side: int, min_pixels: int, max_pixels: int, resample: int
) -> list[Image.Image]:
    """Images resized to whole squares of `side` pixels, each within the limits, and all together within the larger.

    Args:
        images: Of one prompt.
        side: Of the squares.
        min_pixels: Of each image, unless they have to shrink together.
        max_pixels: Of each, and of all together, unless every image is a single square.
        resample: Pillow's filter.

    Raises:
        ValueError: If one is no Pillow image, as arrays of floats that are not to be rescaled.
    """
    if not all(map(is_pil_image, images)):
        raise ValueError("Arrays of floats with do_rescale=False are not resized together: pass do_resize=False too.")
    sizes = [_fit(image.height, image.width, side, min_pixels, max_pixels) for image in images]
    sizes = _shrink_together(sizes, side, max_pixels)
    return [image.resize((width, height), resample) for image, (height, width) in zip(images, sizes, strict=True)]


def _fit(height: int, width: int, side: int, min_pixels: int, max_pixels: int) -> Size:
    """The size of one image by itself, as Qwen's image processors have it but for images smaller than a square."""
    if min(height, width) < side:
        scale = side / min(height, width)
        height, width = int(height * scale), int(width * scale)
    rounded = tuple(max(round(length / side) * side, side) for length in (height, width))
    if math.prod(rounded) > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return tuple(max(math.floor(length / scale / side) * side, side) for length in (height, width))
    if math.prod(rounded) < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(length * scale / side) * side for length in (height, width))
    return rounded


def _shrink_together(sizes: list[Size], side: int, max_pixels: int) -> list[Size]:
    total = sum(map(math.prod, sizes))
    if total <= max_pixels:
        return sizes
    scale, shrunk = math.sqrt(max_pixels / total), sizes
    for _ in range(MAX_ROUNDS):
        shrunk = [tuple(max(math.floor(length * scale / side) * side, side) for length in size) for size in sizes]
        total = sum(map(math.prod, shrunk))
        if total <= max(max_pixels, len(sizes) * side**2):
            break
        scale *= math.sqrt(max_pixels / total) * SHRINK_FURTHER
    return shrunk

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
"""Pictures cut into square tiles, the whole picture being the first: nanoVLM's way, and WorldRWKV's `autoimg`."""

import math

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import auto_docstring

from .image_processing_pil_pictures import PicturesPilBackend, read_pixels


class TilesImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    tile_size (`int`):
        Side of a tile in pixels; the longest edge of `size` is a multiple of it.
    """

    tile_size: int | None


@auto_docstring(
    custom_intro="""
    Resizes every picture so that its longer side is the longest edge of `size` and both sides are multiples of
    `tile_size`, and cuts it into tiles, row by row. In front of them comes the whole picture as one tile, unless it is
    but one. `num_patches` of the result are the tiles of each picture.
    """
)
class TilesImageProcessorPil(PicturesPilBackend):
    auto_classes = {"AutoImageProcessor": "TilesImageProcessorPil"}
    model_input_names = ["pixel_values", "num_patches"]
    valid_kwargs = TilesImageProcessorKwargs
    size = {"longest_edge": 768}
    tile_size = 384
    # WorldRWKV's: pixels between 0 and 1, although SigLIP2 was trained on others
    image_mean = [0.0, 0.0, 0.0]
    image_std = [1.0, 1.0, 1.0]

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """Tiles of a picture, the whole one among them, as serving engines ask for them.

        Args:
            height: Of the picture, in pixels.
            width: Likewise.
            images_kwargs: `size` and `tile_size` if they are not those of this image processor.
        """
        options = {"size": self.size, "tile_size": self.tile_size} | (images_kwargs or {})
        return _count_tiles(*_tile_grid(height, width, options["size"]["longest_edge"], options["tile_size"]))

    def _preprocess(
        self,
        images,
        size: SizeDict,
        tile_size,
        resample,
        do_rescale,
        rescale_factor,
        do_normalize,
        image_mean,
        image_std,
        return_tensors=None,
        **kwargs,
    ) -> BatchFeature:
        tiles, num_tiles = [], []
        for image in images:
            rows, columns = _tile_grid(image.height, image.width, size.longest_edge, tile_size)
            resized = image.resize((columns * tile_size, rows * tile_size), resample)
            pixels = read_pixels(resized, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            tiles += _cut(pixels, rows, columns)
            num_tiles.append(_count_tiles(rows, columns))
        return BatchFeature(data={"pixel_values": tiles, "num_patches": num_tiles}, tensor_type=return_tensors)


def _tile_grid(height: int, width: int, longest_edge: int, tile_size: int) -> tuple[int, int]:
    """Rows and columns of tiles that a picture is resized to (`DynamicResize` of nanoVLM, with enlarging).

    Raises:
        ValueError: If no whole number of tiles lies along the longest edge.
    """
    if longest_edge % tile_size:
        raise ValueError(f"the longest edge, {longest_edge}, is no multiple of tile_size, {tile_size}")
    longer, shorter = max(height, width), min(height, width)
    # In this order, as in the original: its rounding gives some pictures, as of 187 x 187, a row too many
    across = math.ceil(shorter * (longest_edge / longer) / tile_size)
    along = longest_edge // tile_size
    return (across, along) if width >= height else (along, across)


def _count_tiles(rows: int, columns: int) -> int:
    """Tiles of a grid, with that of the whole picture."""
    return rows * columns + 1 if rows * columns > 1 else 1


def _cut(pixels: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    """Tiles (channels, side, side) of (channels, height, width); first the whole picture, if they are several."""
    tiles = [tile for row in np.split(pixels, rows, axis=1) for tile in np.split(row, columns, axis=2)]
    if len(tiles) == 1:
        return tiles
    # As torchvision resizes tensors
    options = {"size": tiles[0].shape[1:], "mode": "bilinear", "antialias": True}
    whole = F.interpolate(torch.from_numpy(pixels)[None], **options)[0].numpy()
    return [whole, *tiles]


__all__ = ["TilesImageProcessorPil"]

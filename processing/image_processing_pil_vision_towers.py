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
"""Pictures for several vision towers at once: squashed to the square of each, by Pillow, and packed into one row."""

import numpy as np
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import auto_docstring

from .image_processing_pil_pictures import PicturesPilBackend, read_pixels


class VisionTowersImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    towers (`list[dict]`):
        What each tower sees, in their order: `size`, the side of its square, and `image_mean` and `image_std` of the
        three channels.
    """

    towers: list[dict] | None


@auto_docstring(
    custom_intro="""
    Makes of every picture one row of numbers: for one tower after the other its pixels, (channels, height, width)
    flattened. Every tower sees the whole picture, squashed to a square: nothing is cropped or padded.
    """
)
class VisionTowersImageProcessorPil(PicturesPilBackend):
    auto_classes = {"AutoImageProcessor": "VisionTowersImageProcessorPil"}
    valid_kwargs = VisionTowersImageProcessorKwargs
    # VisualRWKV's: DINOv2 and SigLIP at 448, SAM at 1024 with the statistics of ImageNet like DINOv2
    towers = [
        {"size": 448, "image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
        {"size": 448, "image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD},
        {"size": 1024, "image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
    ]

    def _validate_preprocess_kwargs(self, image_mean=None, image_std=None, do_normalize=None, **kwargs):
        """Refuses statistics for all towers at once: every tower has its own."""
        if image_mean is not None or image_std is not None:
            raise ValueError("image_mean and image_std belong to each of `towers`: give them there.")
        super()._validate_preprocess_kwargs(**kwargs)

    def _preprocess(
        self, images, towers, resample, do_rescale, rescale_factor, do_normalize, return_tensors=None, **kwargs
    ) -> BatchFeature:
        rows = []
        for image in images:
            squashed = [
                read_pixels(
                    image.resize((tower["size"], tower["size"]), resample),  # (channels, size, size)
                    do_rescale,
                    rescale_factor,
                    do_normalize,
                    tower["image_mean"],
                    tower["image_std"],
                )
                for tower in towers
            ]
            rows.append(np.concatenate([pixels.ravel() for pixels in squashed]))
        return BatchFeature(data={"pixel_values": rows}, tensor_type=return_tensors)


__all__ = ["VisionTowersImageProcessorPil"]

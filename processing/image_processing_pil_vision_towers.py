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
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ChannelDimension,
    PILImageResampling,
    is_pil_image,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils import auto_docstring

from ..configuration.source_code import WritesItsCode, class_references


MAX_PIXEL = np.float32(255)


class VisionTowersImagesKwargs(ImagesKwargs, total=False):
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
class VisionTowersImageProcessorPil(WritesItsCode, PilBackend):
    auto_classes = {"AutoImageProcessor": "VisionTowersImageProcessorPil"}
    valid_kwargs = VisionTowersImagesKwargs
    # VisualRWKV's: DINOv2 and SigLIP at 448, SAM at 1024 with the statistics of ImageNet like DINOv2
    towers = [
        {"size": 448, "image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
        {"size": 448, "image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD},
        {"size": 1024, "image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD},
    ]
    resample = PILImageResampling.BICUBIC
    do_convert_rgb = True

    def to_dict(self) -> dict:
        """Everything that a processor writes of it, the place of its code among it."""
        return super().to_dict() | {"auto_map": class_references(self.auto_classes)}

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs):
        """The picture as a Pillow image, which is resized without a copy of it as floats."""
        if not is_pil_image(image):
            array = super().process_image(image, input_data_format=input_data_format)
            image = to_pil_image(array, input_data_format=ChannelDimension.FIRST)
        return image.convert("RGB")

    def _preprocess(self, images, towers, resample, return_tensors=None, **kwargs) -> BatchFeature:
        rows = [
            np.concatenate([_read_pixels(image, resample, **tower).ravel() for tower in towers]) for image in images
        ]
        return BatchFeature(data={"pixel_values": rows}, tensor_type=return_tensors)


def _read_pixels(image, resample: int, size: int, image_mean: list[float], image_std: list[float]) -> np.ndarray:
    """(channels, size, size) float32 of an RGB picture: between 0 and 1, then normalised."""
    squashed = image.resize((size, size), resample)
    mean, std = np.asarray(image_mean, dtype=np.float32), np.asarray(image_std, dtype=np.float32)
    values = (np.asarray(squashed, dtype=np.float32) / MAX_PIXEL - mean) / std  # (height, width, channels)
    return values.transpose(2, 0, 1)


__all__ = ["VisionTowersImageProcessorPil"]

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
"""What our image processors share: they see pictures as Pillow does, and a saved folder carries their code."""

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling, is_pil_image
from transformers.utils import auto_docstring

from ..configuration.source_code import WritesItsCode, class_references
from .rgb_images import array_to_rgb, image_to_rgb


MAX_PIXEL = np.float32(255)


@auto_docstring(custom_intro="An image processor whose `_preprocess` takes Pillow images in RGB.")
class PicturesPilBackend(WritesItsCode, PilBackend):
    resample = PILImageResampling.BICUBIC
    do_convert_rgb = True

    def to_dict(self) -> dict:
        """Everything that a processor writes of it, the place of its code among it."""
        return super().to_dict() | {"auto_map": class_references(self.auto_classes)}

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs):
        """The picture as a Pillow image, which is resized without a copy of it as floats."""
        return image_to_rgb(image) if is_pil_image(image) else array_to_rgb(image, input_data_format)


def read_pixels(image, image_mean: list[float], image_std: list[float]) -> np.ndarray:
    """(channels, height, width) float32 of an RGB picture: between 0 and 1, then normalised."""
    mean, std = np.asarray(image_mean, dtype=np.float32), np.asarray(image_std, dtype=np.float32)
    values = (np.asarray(image, dtype=np.float32) / MAX_PIXEL - mean) / std  # (height, width, channels)
    return values.transpose(2, 0, 1)

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
from transformers.image_utils import PILImageResampling, is_pil_image, make_flat_list_of_images
from transformers.utils import auto_docstring

from ..configuration.source_code import WritesItsCode, class_references
from .rgb_images import array_to_rgb, image_to_rgb, is_between_0_and_1


MAX_PIXEL = 255


@auto_docstring(custom_intro="An image processor whose `_preprocess` takes Pillow images in RGB.")
class PicturesPilBackend(WritesItsCode, PilBackend):
    resample = PILImageResampling.BICUBIC
    do_convert_rgb = True
    do_rescale = True
    rescale_factor = 1 / MAX_PIXEL
    do_normalize = True

    def to_dict(self) -> dict:
        """Everything that a processor writes of it, the place of its code among it."""
        return super().to_dict() | {"auto_map": class_references(self.auto_classes)}

    def _validate_preprocess_kwargs(self, do_resize=None, do_center_crop=None, do_pad=None, **kwargs):
        """Refuses what these image processors would otherwise ignore."""
        unknown = {"do_resize=False": do_resize is False, "do_center_crop": do_center_crop, "do_pad": do_pad}
        if asked := [name for name, given in unknown.items() if given]:
            raise ValueError(f"{type(self).__name__} resizes every image, without crop or border: got {asked[0]}.")
        super()._validate_preprocess_kwargs(**kwargs)

    def _preprocess_image_like_inputs(self, images, *args, do_rescale=None, **kwargs):
        """Refuses floats from 0 to 1 that are not to be rescaled: as 8-bit RGB, all images are from 0 to 255."""
        if do_rescale is False:
            arrays = (image for image in make_flat_list_of_images(images) if not is_pil_image(image))
            if any(map(is_between_0_and_1, arrays)):
                raise ValueError(
                    f"do_rescale=False for an image of floats from 0 to 1: leave it out, {type(self).__name__} scales "
                    "every image by its range."
                )
        return super()._preprocess_image_like_inputs(images, *args, do_rescale=do_rescale, **kwargs)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, **kwargs):
        """The picture as a Pillow image, which is resized without a copy of it as floats."""
        return image_to_rgb(image) if is_pil_image(image) else array_to_rgb(image, input_data_format)


def read_pixels(
    image, do_rescale: bool, rescale_factor: float, do_normalize: bool, image_mean: list[float], image_std: list[float]
) -> np.ndarray:
    """(channels, height, width) float32 of an RGB image: from 0 to 255, rescaled and normalised as asked."""
    values = np.asarray(image, dtype=np.float32)  # (height, width, channels)
    if do_rescale:
        # A division, as the originals do it: the product is rounded to other values
        is_usual = rescale_factor == 1 / MAX_PIXEL
        values = values / np.float32(MAX_PIXEL) if is_usual else values * np.float32(rescale_factor)
    if do_normalize:
        values = (values - np.asarray(image_mean, dtype=np.float32)) / np.asarray(image_std, dtype=np.float32)
    return values.transpose(2, 0, 1)

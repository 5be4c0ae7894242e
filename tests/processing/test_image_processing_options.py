# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The options that every image processor of transformers has, in ours."""

import sys

import numpy as np
import pytest

from helpers.composites import random_image
from rwkv7_world import TilesImageProcessorPil, VisionTowersImageProcessorPil


MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]


def tiles(**options) -> TilesImageProcessorPil:
    return TilesImageProcessorPil(tile_size=8, size={"longest_edge": 8}, image_mean=MEAN, image_std=STD, **options)


def towers(**options) -> VisionTowersImageProcessorPil:
    tower = {"size": 8, "image_mean": MEAN, "image_std": STD}
    return VisionTowersImageProcessorPil(towers=[tower, tower], **options)


def seen(processor, **options) -> np.ndarray:
    """(channels, height, width) of what is seen first."""
    pixels = processor(random_image(0, 8, 8), return_tensors="np", **options)["pixel_values"][0]
    return pixels.ravel()[: 3 * 8 * 8].reshape(3, 8, 8)


@pytest.mark.parametrize("make", [tiles, towers])
def test_rescaling_and_normalising_are_done_as_asked(make):
    values = np.asarray(random_image(0, 8, 8), dtype=np.float32).transpose(2, 0, 1)
    mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (MEAN, STD))
    expected = {
        (): (values / 255 - mean) / std,
        (("do_rescale", False), ("do_normalize", False)): values,
        (("do_normalize", False),): values / 255,
        (("do_rescale", False),): (values - mean) / std,
        (("rescale_factor", -1.0), ("do_normalize", False)): -values,
        (("rescale_factor", 0.5),): (values / 2 - mean) / std,
    }
    for options, pixels in expected.items():
        np.testing.assert_allclose(seen(make(), **dict(options)), pixels, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(seen(make(**dict(options))), pixels, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [tiles, towers])
def test_options_are_saved(make, tmp_path):
    make(do_normalize=False, rescale_factor=0.5).save_pretrained(tmp_path)
    loaded = type(make()).from_pretrained(tmp_path)
    np.testing.assert_array_equal(seen(loaded), seen(make(do_normalize=False, rescale_factor=0.5)))


@pytest.mark.parametrize("make", [tiles, towers])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_resize": False}, "resizes every image, without crop or border: got do_resize=False"),
        ({"do_center_crop": True, "crop_size": 8}, "resizes every image, without crop or border: got do_center_crop"),
        ({"do_pad": True, "pad_size": 8}, "resizes every image, without crop or border: got do_pad"),
    ],
)
def test_what_would_be_ignored_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        seen(make(), **options)


def test_statistics_for_all_towers_at_once_are_refused():
    with pytest.raises(ValueError, match="belong to each of `towers`"):
        seen(towers(), image_mean=MEAN)


@pytest.mark.parametrize("make", [tiles, towers])
def test_arrays_of_other_channels_and_scales(make):
    image = np.asarray(random_image(0, 8, 8))
    opaque = np.dstack([image, np.full((8, 8), 255, np.uint8)])
    expected = make()(image, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(make()(opaque, return_tensors="np")["pixel_values"], expected)
    with pytest.raises(ValueError, match="do_rescale=False for an image of floats from 0 to 1"):
        make()(image / 255, do_rescale=False)
    with pytest.raises(ValueError, match=r"its shape is \(5, 8, 8\), expected \(height, width\)"):
        make()(np.zeros((5, 8, 8), np.uint8))


@pytest.mark.parametrize("make", [tiles, towers])
def test_the_keywords_have_the_name_that_transformers_expects(make):
    name = type(make()).__name__.removesuffix("Pil") + "Kwargs"
    assert make().valid_kwargs is getattr(sys.modules[type(make()).__module__], name)

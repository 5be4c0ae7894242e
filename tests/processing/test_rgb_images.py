# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Images with transparency, of 16 bits or of floats: seen alike in every form and by every image processor."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipImageProcessorPil
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from helpers.composites import IMAGE_SIZE, random_image, tiny_config, tiny_tokenizer
from rwkv7_world import RWKVWorldProcessor, TilesImageProcessorPil, VisionTowersImageProcessorPil
from rwkv7_world.processing import rgb_images
from rwkv7_world.processing.media import read_images


IMAGE = "<|image_pad|>"
SIZE = (30, 26)


def transparent(mode: str = "RGBA") -> Image.Image:
    """A picture with every degree of transparency, and black where nothing of it is seen."""
    image = random_image(mode="RGBA")
    opacity = np.resize(np.arange(256, dtype=np.uint8), image.size[::-1])
    opacity[:8] = 0
    values = np.asarray(image).copy()
    values[..., 3] = opacity
    values[:8, :, :3] = 0
    return Image.fromarray(values).convert(mode)


def on_white(image: Image.Image) -> Image.Image:
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def file_of(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def palette() -> Image.Image:
    """A palette of four colors, the second of which is seen through."""
    image = Image.fromarray(np.resize(np.arange(4, dtype=np.uint8), SIZE[::-1]), "P")
    image.putpalette([0, 0, 0, 9, 8, 7, 200, 30, 40, 90, 255, 10])
    image.info["transparency"] = 1
    return image


TRANSPARENT = {
    "RGBA": transparent(),
    "LA": transparent("LA"),
    "PA": transparent("PA"),
    "La": transparent("LA").convert("La"),
    "RGBa": transparent("RGBa"),
    "palette": palette(),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_seen_on_white(name):
    image = TRANSPARENT[name]
    assert np.array_equal(np.asarray(read_images(image)), np.asarray(on_white(image)))
    assert np.asarray(read_images(image))[0, 1].min() == 255  # of a pixel that is seen through


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "GIF"])
def test_transparency_of_files_is_seen_on_white(format, tmp_path):
    image = palette() if format == "GIF" else transparent()
    content = file_of(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {}))
    path = tmp_path / "image"
    path.write_bytes(content)
    expected = np.asarray(on_white(image))
    for source in (content, path, str(path), io.BytesIO(content), {"bytes": content, "path": None}):
        assert np.array_equal(np.asarray(read_images(source)), expected)


@pytest.mark.parametrize(("mode", "key"), [("P", b"\x00\xff\x00"), ("L", 0), ("RGB", (0, 0, 0)), ("I;16", 0)])
def test_transparency_beside_the_pixels_of_a_png_is_seen_on_white(mode, key):
    gray = np.resize(np.arange(3, dtype=np.uint8) * 100, SIZE[::-1])
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(gray // 100, "P")
        image.putpalette([0, 0, 0, 100, 100, 100, 200, 200, 200])
        key = b"\x00\xff\xff"
    else:
        image = Image.fromarray(gray).convert(mode)
    seen = np.asarray(read_images(file_of(image, "PNG", transparency=key)))
    assert np.array_equal(seen, np.repeat(np.where(gray == 0, 255, gray)[..., None], 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_of_arrays_is_seen_on_white(mode):
    image = transparent(mode)
    array, expected = np.asarray(image), np.asarray(on_white(image))
    deep = array.astype(np.uint16) * 257
    for given in (array, torch.from_numpy(array.copy()), deep, array.astype(np.float32) / 255, array.astype(np.int64)):
        assert np.array_equal(np.asarray(read_images(given)), expected)
    if mode == "RGBA":
        assert np.array_equal(np.asarray(read_images(array.transpose(2, 0, 1))), expected)


GRAY = np.asarray(random_image(mode="L"))
COLOR = np.asarray(random_image())
DEEP = {
    "16-bit PNG": file_of(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"),
    "16-bit TIFF": file_of(Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"),
    "32-bit TIFF": file_of(Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF"),
    "TIFF of floats": file_of(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"),
    "16-bit PGM": b"P5 30 26 65535\n" + (GRAY.astype(">u2") * 257).tobytes(),
    "I;16": Image.fromarray(GRAY.astype(np.uint16) * 257),
    "I;16B": Image.frombytes("I;16B", SIZE, (GRAY.astype(">u2") * 257).tobytes()),
    "I": Image.fromarray(GRAY.astype(np.int32) * 257),
    "I of 8 bits": Image.fromarray(GRAY).convert("I"),
    "I;16 of 8 bits": Image.fromarray(GRAY).convert("I;16"),
    "F": Image.fromarray(GRAY.astype(np.float32) / 255),
    "F of 0 to 255": Image.fromarray(GRAY).convert("F"),
    "uint16": GRAY.astype(np.uint16) * 257,
    "uint16 big-endian": GRAY.astype(">u2") * 257,
    "uint16 of 8 bits": GRAY.astype(np.uint16),
    "int64": GRAY.astype(np.int64),
    "float16": (GRAY / 255).astype(np.float16),
    "float64": GRAY / 255,
    "float32 of 0 to 255": GRAY.astype(np.float32),
    "float32 of 16 bits": GRAY.astype(np.float32) * 257,
    "tensor of bfloat16": torch.from_numpy(GRAY.copy()).bfloat16(),
    "tensor of floats": torch.from_numpy(GRAY / 255),
    "one channel": GRAY[None] / 255,
    "color, floats": COLOR / 255,
    "color, uint16": COLOR.astype(np.uint16) * 257,
    "color, channels first": (COLOR / 255).transpose(2, 0, 1),
    "color, a little beyond": np.where(COLOR.max() == COLOR, 1.04, COLOR / 255),
}


def test_an_image_of_many_levels_is_scaled_by_its_range():
    for name, source in DEEP.items():
        expected = COLOR if name.startswith("color") else np.repeat(GRAY[..., None], 3, axis=-1)
        tolerance = 1 if "float16" in name else 255 - int(COLOR.max()) if "beyond" in name else 0
        seen = np.asarray(read_images(source)).astype(int)
        assert np.abs(seen - expected).max() <= tolerance, name


def test_a_file_says_its_depth_even_if_it_is_dark():
    dark = Image.fromarray(GRAY.astype(np.uint16))
    for format in ("PNG", "TIFF"):
        assert np.asarray(read_images(file_of(dark, format))).max() == 1


def test_booleans_are_black_and_white():
    assert np.array_equal(np.asarray(read_images(GRAY > 99))[..., 0], (GRAY > 99) * 255)
    assert np.array_equal(np.asarray(read_images(Image.fromarray(GRAY > 99)))[..., 0], (GRAY > 99) * 255)


def processors() -> dict:
    """A composite's processor over one image processor of each kind, ours and stock."""
    stock = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    towers = [{"size": IMAGE_SIZE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}]
    ours = TilesImageProcessorPil(tile_size=8, size={"longest_edge": 16}), VisionTowersImageProcessorPil(towers=towers)
    named = {type(one).__name__: one for one in (stock, *ours)}
    config = tiny_config("siglip", num_token_per_image=4)
    return {name: RWKVWorldProcessor.from_model_config(config, tiny_tokenizer(), one) for name, one in named.items()}


@pytest.mark.parametrize("name", processors())
def test_every_image_processor_sees_the_same(name):
    processor = processors()[name]

    def seen(image):
        return processor(text=IMAGE, images=image, return_tensors="pt")["pixel_values"]

    gray = Image.fromarray(GRAY).convert("RGB")
    pairs = [(source, gray) for name, source in DEEP.items() if name in ("16-bit PNG", "I", "F", "uint16", "float64")]
    pairs += [(image, on_white(image)) for image in TRANSPARENT.values()]
    pairs += [(np.asarray(transparent()), on_white(transparent()))]
    for source, expected in pairs:
        assert torch.equal(seen(source), seen(expected))
        if not isinstance(source, bytes) and np.ndim(source) != 2 and name != "SiglipImageProcessorPil":
            alone = processor.image_processor(source, return_tensors="pt")["pixel_values"]
            assert torch.equal(alone, processor.image_processor(expected, return_tensors="pt")["pixel_values"])


def test_one_warning_says_that_stock_processors_read_deep_images_otherwise():
    rgb_images.logger.warning_once.cache_clear()
    with CaptureLogger(logging.get_logger("rwkv7_world.processing.rgb_images")) as captured:
        read_images([GRAY, transparent(), GRAY.astype(np.float32)])
        assert captured.out == ""
        read_images([DEEP["16-bit PNG"], DEEP["F"], DEEP["float64"]])
    assert captured.out.count("is scaled by its range") == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((26, 30, 5), np.uint8), r"shape is \(26, 30, 5\), expected \(height, width\)"),
        (np.zeros((0, 3), np.uint8), r"shape is \(0, 3\)"),
        (np.zeros((2, 30, 26), np.uint8), r"shape is \(2, 30, 26\)"),
        (COLOR / 127.5 - 1, "values are -1 to 1, expected 0 to 1"),
        (GRAY.astype(np.int32) - 9, "values are -4 to "),
        (GRAY.astype(np.int64) * 10**6, "expected 0 to 1 .floats., 0 to 255 or 0 to 65535"),
        (np.full((26, 30), np.nan), "values are nan to nan"),
        (GRAY / 80, "expected 0 to 1"),
        (GRAY.astype(complex), "values are of type complex128"),
    ],
)
def test_arrays_that_could_be_read_in_two_ways_are_refused(array, message):
    with pytest.raises(ValueError, match=f"^A picture in memory: not a picture that can be read .*{message}"):
        read_images(array)


def test_floats_that_are_not_to_be_rescaled_reach_a_stock_processor_as_they_are():
    processor = processors()["SiglipImageProcessorPil"]
    scaled = processor(text=IMAGE, images=COLOR / 255, do_rescale=False, return_tensors="pt")["pixel_values"]
    expected = processor(text=IMAGE, images=COLOR, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(scaled, expected, rtol=0, atol=0.02)


def test_where_channels_are_may_be_said():
    small = np.zeros((3, 5, 3), np.uint8)
    small[0] = 255
    assert read_images(small).size == (3, 5)
    assert read_images(small, "channels_last").size == (5, 3)
    assert read_images(np.zeros((4, 9, 3), np.uint8)).size == (9, 4)


GRAYS = np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (4, 1))


@pytest.mark.parametrize("largest", [1, 255])
def test_floats_of_a_pfm_file_are_scaled_by_their_range(largest):
    values = (GRAYS[::-1] / 255 * largest).astype("<f4")  # its rows go from the bottom to the top
    image = Image.open(io.BytesIO(b"Pf\n64 4\n-1.0\n" + values.tobytes()))
    assert np.array_equal(np.asarray(rgb_images.image_to_rgb(image))[..., 0], GRAYS)


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_a_deep_tiff_says_whether_0_is_white(white_is_zero):
    file = io.BytesIO()
    Image.fromarray(GRAYS.astype(np.uint16) * 257).save(file, "TIFF")
    tag = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert file.getvalue().count(tag) == 1
    content = (
        file.getvalue().replace(tag, struct.pack("<HHIHH", 262, 3, 1, 0, 0)) if white_is_zero else file.getvalue()
    )
    seen = np.asarray(rgb_images.image_to_rgb(Image.open(io.BytesIO(content))))[..., 0]
    assert np.array_equal(seen, 255 - GRAYS if white_is_zero else GRAYS)

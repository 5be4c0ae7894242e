# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures in tiles: grids, order and pixels of tiles, and as many placeholders as the tiles make."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, GotOcr2ImageProcessorPil, SiglipVisionConfig

from helpers.composites import IMAGE_SIZE, NUM_PATCHES, random_image, tiny_config, tiny_image_processor, tiny_tokenizer
from rwkv7_world import RWKV7Config, RWKVWorldConfig, RWKVWorldProcessor, TilesImageProcessorPil


IMAGE = "<|image_pad|>"
# (width, height), rows and columns of tiles of 384 in a picture whose longer side is 768
GRIDS = {
    (1, 1): (2, 2),
    (1, 5000): (2, 1),
    (5000, 1): (1, 2),
    (768, 768): (2, 2),
    (769, 768): (2, 2),
    (768, 769): (2, 2),
    (768, 384): (1, 2),
    (768, 385): (2, 2),
    (384, 768): (2, 1),
    (384, 384): (2, 2),
    (1920, 1080): (2, 2),
    (600, 1300): (2, 1),
    # 187 * (768 / 187) is a little more than 768: the original's rounding
    (187, 187): (3, 2),
}


@pytest.mark.parametrize("size", GRIDS)
def test_grids_are_the_originals(size):
    rows, columns = GRIDS[size]
    seen = TilesImageProcessorPil()(Image.new("RGB", size), return_tensors="pt")
    assert seen["pixel_values"].shape == (rows * columns + 1, 3, 384, 384)
    assert seen["num_patches"].tolist() == [rows * columns + 1]


sides = st.integers(1, 300)


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, tile_size=st.integers(2, 9), along=st.integers(1, 4))
def test_tiles_are_the_resized_picture_row_by_row(width, height, tile_size, along):
    processor = TilesImageProcessorPil(tile_size=tile_size, size={"longest_edge": along * tile_size})
    image = random_image(0, width, height)
    seen = processor(image, return_tensors="np")
    tiles, count = seen["pixel_values"], int(seen["num_patches"][0])
    assert len(tiles) == count == processor.get_number_of_image_patches(height, width)
    across = max(1, (count - 1) // along)
    needed = -(-min(width, height) * along // max(width, height))
    assert across - needed in (0, 1)  # 1 where the division was rounded up
    rows, columns = (across, along) if width >= height else (along, across)
    resized = image.resize((columns * tile_size, rows * tile_size), Image.Resampling.BICUBIC)
    grid = tiles[count > 1 :].reshape(rows, columns, 3, tile_size, tile_size)
    joined = grid.transpose(0, 3, 1, 4, 2).reshape(rows * tile_size, columns * tile_size, 3)
    np.testing.assert_array_equal(joined, np.asarray(resized, dtype=np.float32) / np.float32(255))


def test_a_picture_of_one_tile_is_not_repeated():
    processor = TilesImageProcessorPil(tile_size=8, size={"longest_edge": 8})
    assert processor(random_image())["num_patches"] == [1]
    assert len(processor(random_image())["pixel_values"]) == 1


def test_the_first_tile_is_the_whole_picture():
    """A picture without detail looks the same from afar."""
    ramp = np.linspace(0, 255, 768).round().astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (700, 768, 3)).copy())
    whole = TilesImageProcessorPil()(image)["pixel_values"][0]
    expected = np.broadcast_to((np.arange(384) + 0.5) / 384, (3, 384, 384))
    np.testing.assert_allclose(whole, expected, atol=0.005)


def test_pixels_may_be_normalised():
    image, half = random_image(), [0.5, 0.5, 0.5]
    plain = tiny_image_processor("tiles")(image)["pixel_values"]
    normalised = tiny_image_processor("tiles")(image, image_mean=half, image_std=half)["pixel_values"]
    np.testing.assert_allclose(np.stack(normalised), np.stack(plain) * 2 - 1, atol=1e-5)


def test_a_longest_edge_that_tiles_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="longest edge, 50, is no multiple of tile_size, 24"):
        tiny_image_processor("tiles")(random_image(), size={"longest_edge": 50})


def test_arrays_tensors_and_other_modes_are_seen_as_pictures():
    processor, image = tiny_image_processor("tiles"), random_image()
    expected, array = processor(image)["pixel_values"], np.asarray(image)
    for source in (array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), [image]):
        np.testing.assert_array_equal(processor(source)["pixel_values"], expected)
    gray = image.convert("L")
    np.testing.assert_array_equal(processor(gray)["pixel_values"], processor(gray.convert("RGB"))["pixel_values"])


def test_a_saved_image_processor_loads_by_the_auto_class(tmp_path):
    processor = tiny_image_processor("tiles")
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is TilesImageProcessorPil
    for again in (loaded, pickle.loads(pickle.dumps(processor))):
        for name, values in processor(random_image()).items():
            np.testing.assert_array_equal(again(random_image())[name], values)


# --- Placeholders ----------------------------------------------------------------------------------------------------


def processor_of(image_processor, **options) -> RWKVWorldProcessor:
    return RWKVWorldProcessor.from_model_config(tiny_config("siglip", **options), tiny_tokenizer(), image_processor)


def count_in_rows(inputs) -> list[int]:
    return (inputs["input_ids"] == tiny_tokenizer().image_token_id).sum(dim=1).tolist()


def test_a_tile_of_worldrwkv_makes_115_tokens():
    """SigLIP2 gives 576 features of 384 pixels, and the convolution takes 6 of every 5."""
    vision_config = SiglipVisionConfig(image_size=384, patch_size=16)
    projector = {"vision_projector_type": "gelu_mlp", "vision_projector_kernel_size": 6, "vision_projector_stride": 5}
    config = RWKVWorldConfig(text_config=RWKV7Config(), vision_config=vision_config, **projector)
    processor = RWKVWorldProcessor.from_model_config(config, tiny_tokenizer(), TilesImageProcessorPil())
    inputs = processor(
        text=[IMAGE, IMAGE],
        images=[[Image.new("RGB", size)] for size in ((640, 480), (300, 900))],
        return_tensors="pt",
        padding=True,
    )
    assert count_in_rows(inputs) == [5 * 115, 3 * 115]
    told = processor._get_num_multimodal_tokens(image_sizes=[(480, 640), (900, 300)])
    assert (told["num_image_tokens"], told["num_image_patches"]) == ([5 * 115, 3 * 115], [5, 3])


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.lists(st.tuples(sides, sides), max_size=3), min_size=1, max_size=3))
def test_every_picture_has_placeholders_for_its_own_tiles(sizes):
    image_processor = tiny_image_processor("tiles")
    processor = processor_of(image_processor)
    images = [[random_image(0, *size) for size in row] for row in sizes]
    text = [f"a{'b'.join([IMAGE] * len(row))}c" for row in sizes]
    inputs = processor(text=text, images=images, return_tensors="pt", padding=True)
    tiles = [[image_processor.get_number_of_image_patches(height, width) for width, height in row] for row in sizes]
    assert count_in_rows(inputs) == [NUM_PATCHES * sum(row) for row in tiles]
    assert "num_patches" not in inputs
    assert len(inputs.get("pixel_values", ())) == sum(map(sum, tiles))
    told = processor._get_num_multimodal_tokens(
        image_sizes=[(height, width) for row in sizes for width, height in row]
    )
    assert told["num_image_patches"] == [count for row in tiles for count in row]


def test_tiles_averaged_to_a_number_of_tokens_are_counted_too():
    processor = processor_of(tiny_image_processor("tiles"), num_token_per_image=4)
    inputs = processor(text=IMAGE, images=random_image(0, 100, 20), return_tensors="pt")
    assert count_in_rows(inputs) == [3 * 4]
    assert processor._get_num_multimodal_tokens(image_sizes=[(20, 100)])["num_image_tokens"] == [3 * 4]


def test_an_image_processor_of_transformers_may_cut_the_tiles():
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = processor_of(GotOcr2ImageProcessorPil(size=size, crop_to_patches=True, min_patches=1, max_patches=6))
    inputs = processor(text=IMAGE + IMAGE, images=[random_image(0, 100, 50), random_image(1)], return_tensors="pt")
    assert count_in_rows(inputs) == [NUM_PATCHES * len(inputs["pixel_values"])]
    assert len(inputs["pixel_values"]) > 2

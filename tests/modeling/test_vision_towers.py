# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Any vision encoders of transformers side by side, chosen by configuration, against the encoders themselves."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersModel,
    SamVisionConfig,
    SamVisionModel,
    SiglipVisionModel,
)

from helpers.composites import (
    random_clip,
    random_image,
    randomize,
    tiny_composite,
    tiny_feature_extractor,
    tiny_tokenizer,
    vision_config,
)
from rwkv7_world import (
    RWKVWorldProcessor,
    VisionTowerConfig,
    VisionTowersConfig,
    VisionTowersImageProcessorPil,
    VisionTowersModel,
)


SAM = SamVisionConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_dim=20,
    image_size=48,
    patch_size=8,
    output_channels=4,
    window_size=4,
    global_attn_indexes=[1],
)
CLASSES = {
    "siglip": SiglipVisionModel,
    "clip": CLIPVisionModel,
    "dinov2_with_registers": Dinov2WithRegistersModel,
    "sam": SamVisionModel,
}
# Encoder, its layer, and what of its features is kept, here in words: patches without prefix, or squares of a map
LISTS = {
    "VisualRWKV's": [("dinov2_with_registers", -2), ("siglip", -2), ("sam", None)],
    "another order, other layers": [("sam", None), ("clip", 0), ("siglip", None), ("clip", None)],
    "one": [("clip", -1)],
}
PREFIX = {"siglip": 0, "clip": 1, "dinov2_with_registers": 3}


def towers_config(towers: list[tuple[str, int | None]]) -> VisionTowersConfig:
    made = []
    for name, layer in towers:
        config = SAM if name == "sam" else vision_config(name)
        made.append(
            VisionTowerConfig(
                encoder_config=type(config)(**config.to_dict()),
                feature_layer=layer,
                unshuffle_factor=2 if name == "sam" else 1,
            )
        )
    return VisionTowersConfig(towers=made)


def pixels_of(config: VisionTowersConfig, images: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, *tower.pixel_shape, generator=generator) for tower in config.towers]


def packed(pixels: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([values.flatten(1) for values in pixels], dim=1)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("towers", LISTS.values(), ids=LISTS)
def test_features_are_those_of_the_encoders_side_by_side(towers):
    config = towers_config(towers)
    model = randomize(VisionTowersModel(config)).eval()
    pixels, expected = pixels_of(config), []
    for (name, layer), own, tower, values in zip(towers, config.towers, model.towers, pixels, strict=True):
        encoder = CLASSES[name](own.encoder_config).eval()
        encoder.load_state_dict(tower.state_dict())
        outputs = encoder(values, output_hidden_states=True)
        if name == "sam":
            expected.append(F.pixel_unshuffle(outputs.last_hidden_state, 2).flatten(2).transpose(1, 2))
        else:
            hidden = outputs.last_hidden_state if layer is None else outputs.hidden_states[layer]
            expected.append(hidden[:, PREFIX[name] :])
    features = model(packed(pixels)).last_hidden_state
    assert features.shape == (5, config.num_patches, config.hidden_size)
    torch.testing.assert_close(features, torch.cat(expected, dim=-1), atol=1e-5, rtol=1e-5)


def image_processor_of(config: VisionTowersConfig) -> VisionTowersImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    return VisionTowersImageProcessorPil(
        towers=[{"size": tower.pixel_shape[1], "image_mean": half, "image_std": half} for tower in config.towers]
    )


@pytest.mark.parametrize("projector", ["mlp", "pixel_shuffle", "linear", "gated_mlp"])
def test_a_composite_of_towers_and_ears_reads_mixed_batches(projector, tmp_path):
    """Rows with a picture, with a clip, with both and with neither; saved and loaded by the Auto classes."""
    vision = towers_config(LISTS["VisualRWKV's"])
    options = {"vision_projector_scale_factor": 3} if projector == "pixel_shuffle" else {}
    made = tiny_composite(None, "wavlm", vision_config=vision, vision_projector_type=projector, **options)
    parts = (image_processor_of(vision), tiny_feature_extractor("wavlm"))
    RWKVWorldProcessor.from_model_config(made.config, tiny_tokenizer(), *parts).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    image, audio = "<|image_pad|>", "<|audio_pad|>"
    rows = [
        (f"a{image}b", [random_image(0)], []),
        ("only text here", [], []),
        (f"{audio} what{image}?{image}", [random_image(1), random_image(2, 9, 40)], [random_clip(0, 3000)]),
        (f"hm {audio}", [], [random_clip(1, 1500)]),
    ]

    def logits(rows):
        texts, images, clips = zip(*rows, strict=True)
        clips = [clip for row in clips for clip in row]
        media = {"audio": clips, "sampling_rate": 16_000} if clips else {}
        if any(images):
            media["images"] = list(images)
        return model(**processor(text=list(texts), padding=True, return_tensors="pt", **media)).logits

    batch = logits(rows)
    for row, whole in zip(rows, batch, strict=True):
        alone = logits([row])[0]
        torch.testing.assert_close(whole[-len(alone) :], alone, atol=5e-5, rtol=0)


def test_gradients_and_checkpointing_reach_the_towers():
    config = towers_config(LISTS["VisualRWKV's"])
    model = randomize(VisionTowersModel(config)).train()
    with torch.enable_grad():
        wanted = model(packed(pixels_of(config))).last_hidden_state.square().mean()
        wanted.backward()
        gradient = model.towers[0].embeddings.patch_embeddings.projection.weight.grad.clone()
        model.zero_grad()
        model.activation_checkpointing_enable()
        model(packed(pixels_of(config))).last_hidden_state.square().mean().backward()
    assert gradient.abs().max() > 0
    torch.testing.assert_close(model.towers[0].embeddings.patch_embeddings.projection.weight.grad, gradient)


def test_the_choice_of_attention_reaches_the_towers(tmp_path):
    config = towers_config(LISTS["VisualRWKV's"])
    made = randomize(VisionTowersModel(config)).eval()
    made.save_pretrained(tmp_path)
    for name in ("eager", "sdpa"):
        model = AutoModel.from_pretrained(tmp_path, attn_implementation=name)
        assert [tower.config._attn_implementation for tower in model.towers] == [name] * 3
        expected = made(packed(pixels_of(config))).last_hidden_state
        torch.testing.assert_close(model(packed(pixels_of(config))).last_hidden_state, expected, atol=1e-5, rtol=0)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_pixels_of_other_sizes_are_refused():
    config = towers_config(LISTS["VisualRWKV's"])
    model = VisionTowersModel(config)
    for wrong in (torch.zeros(2, 3, 24, 24), torch.zeros(1, 100)):
        with pytest.raises(
            ValueError, match="expected \\(images, 10368\\): pixels of towers of 3x24x24, 3x24x24, 3x48x48"
        ):
            model(wrong)


def test_towers_that_do_not_go_together_are_refused():
    siglip, clip = vision_config("siglip"), vision_config("clip")
    with pytest.raises(ValueError, match=r"The towers give \[9, 36\] features of a picture"):
        VisionTowersConfig(towers=[{"encoder_config": siglip}, {"encoder_config": SAM}])
    with pytest.raises(ValueError, match="unshuffle_factor is 2, but clip_vision_model gives features in a row"):
        VisionTowerConfig(encoder_config=clip, unshuffle_factor=2)
    with pytest.raises(ValueError, match="Unknown vision encoder 'beit': pass num_prefix_tokens"):
        VisionTowerConfig(encoder_config={"model_type": "beit"})
    config = VisionTowerConfig(encoder_config={"model_type": "beit"}, num_prefix_tokens=1)
    assert config.num_prefix_tokens == 1


def test_pooling_wants_a_square_grid():
    with pytest.raises(ValueError, match="num_token_per_image is 5, expected a square number"):
        tiny_composite("siglip", num_token_per_image=5)
    model = tiny_composite("clip", num_token_per_image=4)  # keeps the class token
    with pytest.raises(ValueError, match="10 features make no square grid"):
        model.get_image_features(torch.zeros(1, 3, 24, 24))


@pytest.mark.parametrize("tokens", [1, 4, 9])
def test_patches_of_one_encoder_are_pooled_too(tokens):
    config = {"num_token_per_image": tokens, "vision_feature_select_strategy": "default"}
    model, image = tiny_composite("clip", **config), torch.randn(1, 3, 24, 24)
    patches = CLIPVisionModel(model.config.vision_config).eval()
    patches.load_state_dict(model.model.vision_tower.state_dict())
    grid = patches(image).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (3, 3))
    pooled = F.adaptive_avg_pool2d(grid, int(tokens**0.5)).flatten(2).transpose(1, 2)
    (features,) = model.get_image_features(image).pooler_output
    torch.testing.assert_close(features, model.model.vision_projector(pooled)[0])


# --- Pixels ----------------------------------------------------------------------------------------------------------


def test_a_saved_image_processor_loads_by_the_auto_class(tmp_path):
    processor = VisionTowersImageProcessorPil()
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is VisionTowersImageProcessorPil
    assert [tower["size"] for tower in loaded.towers] == [448, 448, 1024]
    image = random_image()
    given = loaded(image, return_tensors="pt")["pixel_values"]
    assert given.shape == (1, 3 * (448**2 + 448**2 + 1024**2))
    torch.testing.assert_close(given, processor(image, return_tensors="pt")["pixel_values"], atol=0, rtol=0)


def test_arrays_tensors_and_other_modes_are_seen_as_pictures():
    processor = image_processor_of(towers_config(LISTS["one"]))
    image = random_image()
    expected = processor(image)["pixel_values"][0]
    array = np.asarray(image)
    for given in (array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), [image], image.convert("RGBA")):
        np.testing.assert_array_equal(processor(given)["pixel_values"][0], expected)
    gray = image.convert("L")
    np.testing.assert_array_equal(
        processor(gray)["pixel_values"][0], processor(gray.convert("RGB"))["pixel_values"][0]
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3000, 2)])
def test_pictures_of_any_shape_are_squashed(size):
    config = towers_config(LISTS["one"])
    pixels = image_processor_of(config)(Image.new("RGB", size, (255, 0, 0)), return_tensors="pt")["pixel_values"]
    red, green, blue = pixels[0].unflatten(0, config.towers[0].pixel_shape)
    assert bool((red == 1).all() and (green == -1).all() and (blue == -1).all())


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    """20000 x 20000 pixels, which would be 1.2 GB."""
    path, config = tmp_path / "huge.png", towers_config(LISTS["one"])
    Image.new("1", (20_000, 20_000)).save(path)
    made = tiny_composite(None, None, vision_config=config)
    processor = RWKVWorldProcessor.from_model_config(made.config, tiny_tokenizer(), image_processor_of(config))
    with warnings.catch_warnings(), pytest.raises(ValueError, match="huge.png: not a picture that can be .*pixels"):
        warnings.simplefilter("ignore")
        processor(text="<|image_pad|>", images=path)


def test_clip_config_of_a_two_tower_model_gives_its_vision_encoder():
    both = {"model_type": "clip", "vision_config": {"hidden_size": 16, "num_attention_heads": 2}}
    assert isinstance(VisionTowerConfig(encoder_config=both).encoder_config, CLIPVisionConfig)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`get_image_features` and `get_audio_features` give an encoder's hidden states and attentions, as LLaVA's do."""

import pytest
import torch

from helpers.composites import tiny_composite
from rwkv7_world import VisionTowersConfig
from rwkv7_world.configuration.configuration_vision_towers import VisionTowerConfig


ASKED = {"output_hidden_states": True, "output_attentions": True}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def assert_same_tuples(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def images_for(config, images: int) -> torch.Tensor:
    shape = (images, config.num_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", [None, -2])
@pytest.mark.parametrize("name", ["siglip", "clip", "dinov2_with_registers"])
def test_those_of_a_vision_encoder(name, layer, monkeypatch):
    model = tiny_composite(name, vision_feature_layer=layer)
    model.set_attn_implementation("eager")
    pixels = images_for(model.config.vision_config, 5)
    expected = model.model.vision_tower(pixels, **ASKED)
    monkeypatch.setattr("rwkv7_world.modeling_rwkv7_world.encoders.PICTURES_AT_A_TIME", 2)
    outputs = model.get_image_features(pixels, **ASKED)
    assert_same_tuples(outputs.hidden_states, expected.hidden_states)
    assert_same_tuples(outputs.attentions, expected.attentions)
    plain = model.get_image_features(pixels)
    assert plain.hidden_states is None and plain.attentions is None
    assert_same_tuples(tuple(outputs.pooler_output), tuple(plain.pooler_output))


def test_those_of_several_vision_encoders():
    encoders = [tiny_composite(name).config.vision_config for name in ("siglip", "clip")]
    towers = [
        VisionTowerConfig(encoder_config=encoders[0]),
        VisionTowerConfig(encoder_config=encoders[1], feature_layer=0),
    ]
    model = tiny_composite(None, vision_config=VisionTowersConfig(towers=towers))
    model.set_attn_implementation("eager")
    pixels = [images_for(config, 5) for config in encoders]
    expected = [tower(x, **ASKED) for tower, x in zip(model.model.vision_tower.towers, pixels, strict=True)]
    outputs = model.get_image_features(torch.cat([x.flatten(1) for x in pixels], dim=1), **ASKED)
    for name in ("hidden_states", "attentions"):
        assert_same_tuples(outputs[name], (*expected[0][name], *expected[1][name]))


@pytest.mark.parametrize("name", ["whisper", "wavlm", "hubert"])
def test_those_of_an_audio_encoder(name):
    model = tiny_composite(None, name)
    model.set_attn_implementation("eager")
    config = model.config.audio_config
    shape = (2, config.num_mel_bins, 2 * config.max_source_positions) if name == "whisper" else (2, 3000)
    clips = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = model.model.audio_tower(clips, **ASKED)
    outputs = model.get_audio_features(clips, **ASKED)
    assert_same_tuples(outputs.hidden_states, expected.hidden_states)
    assert_same_tuples(outputs.attentions, expected.attentions)
    assert model.get_audio_features(clips).hidden_states is None


@pytest.mark.parametrize("name", ["wavlm", "hubert"])
def test_hidden_states_of_padded_clips_are_those_of_each_clip(name):
    model = tiny_composite(None, name)
    clips = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 3000, dtype=torch.long)
    mask[1, 2000:] = 0
    outputs = model.get_audio_features(clips * mask, mask, output_hidden_states=True)
    alone = model.get_audio_features(clips[1:, :2000], output_hidden_states=True)
    for whole, own in zip(outputs.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(whole[1, : own.shape[1]], own[0], atol=1e-4, rtol=1e-3)

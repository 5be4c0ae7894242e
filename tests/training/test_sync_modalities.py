# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What processes have to encode alike: which sharded models need it, and how often towers are called."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helpers import composites
from rwkv7_world.modeling_rwkv7_world import encoders
from rwkv7_world.training.distributed.sync_modalities import has_towers_in_shares


@pytest.fixture
def mesh():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_towers_that_are_sharded_by_themselves_are_found(mesh):
    model = composites.tiny_composite("siglip")
    assert not has_towers_in_shares(model)
    for block in model.model.language_model.layers:
        fully_shard(block, mesh=mesh)
    assert not has_towers_in_shares(model)
    fully_shard(model.model.vision_tower.encoder.layers[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert has_towers_in_shares(model)


def count_calls(tower, run) -> int:
    calls = []
    handle = tower.register_forward_hook(lambda *args: calls.append(1))
    run()
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("pictures", [1, 3, 5, 6])
def test_calls_of_a_vision_tower_are_known_beforehand(monkeypatch, pictures):
    monkeypatch.setattr(encoders, "PICTURES_AT_A_TIME", 3)
    tower = composites.tiny_composite("siglip").model.vision_tower
    pixels = torch.rand(pictures, 3, composites.IMAGE_SIZE, composites.IMAGE_SIZE)
    expected = count_calls(tower, lambda: encoders.encode_pictures(tower, pixels, None))
    assert encoders.calls_for_pictures(tower, pixels) == expected


@pytest.mark.parametrize("encoder", ["wavlm", "hubert_group"])
@pytest.mark.parametrize("clips", [2, 3, 5])
def test_calls_of_an_audio_tower_are_known_beforehand(monkeypatch, encoder, clips):
    samples = composites.SAMPLING_RATE // 4
    monkeypatch.setattr(encoders, "STEPS_AT_A_TIME", 2 * samples)
    tower = composites.tiny_composite(audio=encoder).model.audio_tower
    mask = torch.ones(clips, samples, dtype=torch.long)
    mask[1, samples // 2 :] = 0
    sound = torch.rand(clips, samples)
    expected = count_calls(tower, lambda: encoders.encode_clips(tower, sound, mask))
    assert encoders.calls_for_clips(tower, sound, mask) == expected

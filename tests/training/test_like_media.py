# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Which sharded models can take batches of unlike media."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from helpers import composites
from rwkv7_world.training.like_media import has_towers_in_shares


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

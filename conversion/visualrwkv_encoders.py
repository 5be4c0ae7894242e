# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""VisualRWKV's towers from their own repositories, for files that do not hold them."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .encoders import load_tower, read_encoder_config
from .visualrwkv_towers import SAM_UNSHUFFLE, TOWERS


USUAL_ENCODERS = (
    "facebook/dinov2-with-registers-large",
    "google/siglip-so400m-patch14-384",
    "facebook/sam-vit-base",
)

# Where the layers lie and the positions, of towers that leave out the last layer
_LAYERS = {"dinov2_with_registers": "encoder.layer.", "siglip_vision_model": "encoder.layers."}
_POSITIONS = {
    "dinov2_with_registers": "embeddings.position_embeddings",
    "siglip_vision_model": "embeddings.position_embedding.weight",
}
# Fields of a configuration that list its layers
_OF_ALL_LAYERS = ("stage_names", "out_features", "out_indices", "_out_features", "_out_indices")


@dataclass(frozen=True)
class LoadedTower:
    """A tower as our model holds it: configuration, and weights by name inside it."""

    config: PreTrainedConfig
    weights: dict[str, torch.Tensor]


def read_tower_configs(sources: Sequence[str | os.PathLike[str]]) -> list[PreTrainedConfig]:
    """Configurations of DINOv2 with registers, SigLIP and SAM, whole.

    Args:
        sources: Three folders or Hub ids, in this order.

    Raises:
        OSError: If one cannot be had.
        ValueError: If they are not three, or one is of another model type.
    """
    if len(sources) != len(TOWERS):
        names = ", ".join(tower.name for tower in TOWERS)
        raise ValueError(f"{len(sources)} encoders were given, expected {len(TOWERS)}: {names}, in this order")
    return [
        read_encoder_config(source, "vision", (tower.model_type,))
        for source, tower in zip(sources, TOWERS, strict=True)
    ]


def load_towers(sources: Sequence[str | os.PathLike[str]], configs: Sequence[PreTrainedConfig]) -> list[LoadedTower]:
    """The towers as VisualRWKV uses them: one grid of patches for all, no layer that is never used.

    Positions of the first two are brought to the grid as timm does it.

    Raises:
        OSError: If a file cannot be had.
        ValueError: If weights are missing.
    """
    sam = configs[-1]
    side = sam.image_size // sam.patch_size // SAM_UNSHUFFLE
    return [_load(source, config, side) for source, config in zip(sources, configs, strict=True)]


def _load(source: str | os.PathLike[str], config: PreTrainedConfig, side: int) -> LoadedTower:
    if config.model_type not in _LAYERS:
        return LoadedTower(config, load_tower(source, config).state_dict())
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
        config.hidden_act = "gelu"  # timm's is exact, whatever the configuration says
    weights = load_tower(source, config).state_dict()
    kept = {name: value for name, value in config.to_dict().items() if name not in _OF_ALL_LAYERS}
    changes = {"num_hidden_layers": config.num_hidden_layers - 1, "image_size": side * config.patch_size}
    config = type(config)(**kept | changes)
    unused = f"{_LAYERS[config.model_type]}{config.num_hidden_layers}."
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(unused)}
    positions = _POSITIONS[config.model_type]
    weights[positions] = _resize_positions(weights[positions], side)
    return LoadedTower(config, weights)


def _resize_positions(positions: torch.Tensor, side: int) -> torch.Tensor:
    """Positions (..., rows, width) of a square grid, with or without one in front, for a grid of `side` patches."""
    rows = positions.shape[-2]
    grid = math.isqrt(rows)
    in_front, patches = positions[..., : rows - grid**2, :], positions[..., rows - grid**2 :, :]
    square = patches.reshape(1, grid, grid, -1).permute(0, 3, 1, 2).float()  # (1, width, rows, columns)
    resized = F.interpolate(square, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    resized = resized.flatten(2).transpose(1, 2).to(positions.dtype)  # (1, patches, width)
    return torch.cat([in_front, resized.reshape(*positions.shape[:-2], side**2, -1)], dim=-2)

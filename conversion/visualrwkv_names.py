# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What VisualRWKV 7.00 calls its tensors, and what names tell of files of other versions.

A file holds `rwkv.*`, a text model by BlinkDL's names, `proj.*`, and mostly `vit.*`, the three towers. VisualRWKV's
own `export.py` writes the first apart, without its prefix.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .visualrwkv_towers import TOWERS, TowerEntry, TowerSizes
from .weights import Shape, check_exactly


TEXT_PREFIX, PROJECTOR_PREFIX, TOWERS_PREFIX = "rwkv.", "proj.", "vit."

# What names tell of other versions, the most telling first
_FOREIGN_NAMES = [
    (r"rwkv\.blocks\.\d+\.att\.time_maa_.*", "a VisualRWKV 6 checkpoint (RWKV-6)"),
    (r"rwkv\.blocks\.\d+\.att\.time_(decay|first|faaaa|mix_\w)", "a VisualRWKV 5 checkpoint or older"),
    (r"vtc\..*", "a VisualRWKV 7.03 or 7.04 checkpoint (it compresses visual tokens)"),
    (r"vrwkv\..*", "a VisualRWKV 7.10 checkpoint (without a vision encoder)"),
    (r"proj\.proj\..*", "a VisualRWKV 6 checkpoint (HD or UHD)"),
    (
        r"vit\.(?!(dino|siglip|sam)_featurizer\.).*",
        "a VisualRWKV checkpoint with one vision encoder (as 6 or 7.01)",
    ),
]


@dataclass(frozen=True)
class VisualProjector:
    """A projector, as its tensors tell.

    Attributes:
        type: `vision_projector_type` of the configuration.
        encoder_dim: Width of the features of all towers.
        names: Name of each tensor in our model, by its name in the file without prefix.
    """

    type: str
    encoder_dim: int
    names: dict[str, str]


# Name of each tensor of a projector in our model, by its name in a file
LINEAR_NAMES = {"weight": "linear.weight"}
GATED_NAMES = {
    "gate.weight": "gate.weight",
    "o_proj.weight": "linear.weight",
    "ln_v.weight": "norm.weight",
    "ln_v.bias": "norm.bias",
}


def is_visualrwkv(names: Iterable[str]) -> bool:
    """Whether these are names of VisualRWKV, of any version, whole or without the text model."""
    names = list(names)
    visual = (PROJECTOR_PREFIX, TOWERS_PREFIX)
    return any(name.startswith((TEXT_PREFIX, "vrwkv.", "vtc.")) for name in names) or (
        bool(names) and all(name.startswith(visual) for name in names)
    )


def refuse_other_versions(names: Iterable[str]) -> None:
    """Refuses files of other versions than 7.00.

    Raises:
        ValueError: Says what the file is, and names the tensor that tells.
    """
    names = list(names)
    for pattern, meaning in _FOREIGN_NAMES:
        found = next((name for name in names if re.fullmatch(pattern, name)), None)
        if found is not None:
            raise ValueError(f"{meaning}, which is not supported: expected 7.00 (it holds the tensor {found})")


def under(shapes: Mapping[str, Shape], prefix: str) -> dict[str, Shape]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def read_projector(shapes: Mapping[str, Shape], hidden_size: int) -> VisualProjector:
    """The projector of a checkpoint.

    Args:
        shapes: Shapes of all its tensors.
        hidden_size: Width of the text model.

    Raises:
        ValueError: If it is unknown, or a tensor is missing, unknown or of another shape.
    """
    shapes = under(shapes, PROJECTOR_PREFIX)
    type, names, main = ("gated_mlp", GATED_NAMES, "o_proj.weight")
    if shapes.keys() == LINEAR_NAMES.keys():
        type, names, main = ("linear", LINEAR_NAMES, "weight")
    if main not in shapes:
        raise ValueError(f"the tensor {PROJECTOR_PREFIX}{main} is missing")
    if len(shapes[main]) != 2:
        raise ValueError(f"{PROJECTOR_PREFIX}{main} has the shape {shapes[main]}, expected 2 dimensions")
    width = shapes[main][1]
    expected = {main: (hidden_size, width)}
    if type == "gated_mlp":
        expected |= {"gate.weight": (width, width), "ln_v.weight": (hidden_size,), "ln_v.bias": (hidden_size,)}
    check_exactly(shapes, expected, PROJECTOR_PREFIX, "a projector")
    return VisualProjector(type, width, names)


def read_towers(shapes: Mapping[str, Shape]) -> list[TowerSizes]:
    """Sizes of the three towers of a checkpoint; none if it holds no towers.

    Raises:
        ValueError: If a tensor of a tower is missing, unknown or of another shape.
    """
    if not under(shapes, TOWERS_PREFIX):
        return []
    return [_read_tower(tower, under(shapes, tower.prefix)) for tower in TOWERS]


def _read_tower(tower, shapes: dict[str, Shape]) -> TowerSizes:
    if not shapes:
        raise ValueError(f"the tower {tower.name} is missing: no tensor is called {tower.prefix}*")
    try:
        sizes = tower.read_sizes(shapes)
    except ValueError as error:
        raise ValueError(f"{tower.prefix}*: {error}") from error
    known = {name: shape for name, shape in shapes.items() if not tower.unused.fullmatch(name)}
    expected = {name: entry.shape for name, entry in tower.entries(sizes).items()}
    check_exactly(known, expected, tower.prefix, f"the tower {tower.name}")
    return sizes


def tower_entries(sizes: list[TowerSizes]) -> dict[str, TowerEntry]:
    """Every tensor of the towers by its name in a file; targets are named as in our vision tower."""
    entries = {}
    for index, (tower, tower_sizes) in enumerate(zip(TOWERS, sizes, strict=True)):
        for name, entry in tower.entries(tower_sizes).items():
            targets = tuple(f"towers.{index}.{target}" for target in entry.targets)
            entries[tower.prefix + name] = TowerEntry(targets, entry.shape, entry.layout)
    return entries

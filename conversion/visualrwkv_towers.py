# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The three vision towers of VisualRWKV 7.00: what its files call their tensors, and how those lie in our model.

DINOv2 with registers and SigLIP have timm's names, SAM's image encoder those of its authors. Of the first two the last
layer is never used: features are the output of the one before it. Sizes come from shapes, but for numbers of heads,
which no shape of the first two tells: their heads have the widths that they have in the models that were used.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from transformers import Dinov2WithRegistersConfig, PreTrainedConfig, SamVisionConfig, SiglipVisionConfig
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from .weights import Shape, unchanged


DINO_HEAD_DIM, SIGLIP_HEAD_DIM = 64, 72
LAYER_NORM_EPS = 1e-6
# Squares of SAM's map that become one feature, so that it has as many as the other towers
SAM_UNSHUFFLE = 2


class Layout(Enum):
    """How a tensor of a file lies in our towers."""

    SAME = "same"
    FUSED = "fused"  # queries, keys and values in one, each a tensor of its own here
    NO_CLASS = "no class"  # positions without one of the class token, which is zero
    FLAT = "flat"  # (1, patches, width) -> (patches, width)


@dataclass(frozen=True)
class TowerEntry:
    """One tensor of a tower in the file.

    Attributes:
        targets: Its names in our tower; none if it is never used.
        shape: In the file.
        layout: What lies between the two.
    """

    targets: tuple[str, ...]
    shape: Shape
    layout: Layout = Layout.SAME

    def changes(self) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
        """What makes each target of the tensor in the file."""
        if self.layout is Layout.FUSED:
            return {target: _Piece(index) for index, target in enumerate(self.targets)}
        change = {Layout.NO_CLASS: _with_class, Layout.FLAT: _without_batch}.get(self.layout, unchanged)
        return dict.fromkeys(self.targets, change)

    def to_file(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """The tensor of the file from its targets, in their order.

        Raises:
            ValueError: If the class token has a position, which a file has no place for.
        """
        if self.layout is Layout.FUSED:
            return torch.cat(tensors)
        (tensor,) = tensors
        if self.layout is Layout.NO_CLASS:
            if tensor[:, 0].any():
                raise ValueError(f"{self.targets[0]} has a position of the class token, which a file has no place for")
            return tensor[:, 1:]
        return tensor[None] if self.layout is Layout.FLAT else tensor


@dataclass(frozen=True)
class _Piece:
    """One of three equal pieces."""

    index: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(3)[self.index]


def _with_class(positions: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def _without_batch(positions: torch.Tensor) -> torch.Tensor:
    return positions[0]


def _zero_token(token: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(token[0])


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a tower.

    Attributes:
        layers: All of them, the unused one too.
        hidden: Width of the transformer.
        mlp: Width of its MLPs.
        patch: Side of a patch in pixels.
        side: Patches in a row of the picture.
        registers: Register tokens.
        channels: Of the map that SAM gives.
        head_dim: Width of a head.
        positions: Relative positions of each of SAM's layers: fewer where attention stays in a window.
    """

    layers: int
    hidden: int
    mlp: int
    patch: int
    side: int
    registers: int = 0
    channels: int = 0
    head_dim: int = 0
    positions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tower:
    """A kind of tower: `prefix` of its names in a file, and what its sizes say of them."""

    name: str
    prefix: str
    model_type: str
    read_sizes: Callable[[Mapping[str, Shape]], TowerSizes]
    entries: Callable[[TowerSizes], dict[str, TowerEntry]]
    config: Callable[[TowerSizes], PreTrainedConfig]
    feature_layer: int | None
    image_mean: list[float]
    image_std: list[float]
    unshuffle_factor: int = 1
    unused: re.Pattern = re.compile("(?!)")  # names of tensors that are never used, whatever their shapes
    # Tensors of our tower that the file does not have: which of its own they are made of, and how
    derived: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = field(default_factory=dict)


# --- DINOv2 with registers and SigLIP, by timm's names ---------------------------------------------------------------


def _size(shapes: Mapping[str, Shape], name: str, axis: int, dims: int) -> int:
    if name not in shapes:
        raise ValueError(f"the tensor {name} is missing")
    if len(shapes[name]) != dims:
        raise ValueError(f"{name} has the shape {shapes[name]}, expected {dims} dimensions")
    return shapes[name][axis]


def _count_layers(shapes: Mapping[str, Shape]) -> int:
    layers = 1 + max((int(name.split(".")[1]) for name in shapes if re.match(r"blocks\.\d+\.", name)), default=-1)
    if layers > len(shapes):  # before a table of that many layers is made
        raise ValueError(f"{len(shapes)} tensors cannot make the {layers} layers that their names tell of")
    return layers


def _read_vit_sizes(shapes: Mapping[str, Shape], head_dim: int) -> TowerSizes:
    hidden, layers = _size(shapes, "patch_embed.proj.weight", 0, 4), _count_layers(shapes)
    patches = _size(shapes, "pos_embed", 1, 3)
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"pos_embed has {patches} positions, expected a square number")
    if hidden % head_dim:
        raise ValueError(f"the width {hidden} is no multiple of {head_dim}, the width of a head")
    if layers < 2:
        raise ValueError(f"it has {layers} layers, expected at least 2, for features come from the last but one")
    return TowerSizes(
        layers=layers,
        hidden=hidden,
        mlp=_size(shapes, "blocks.0.mlp.fc1.weight", 0, 2),
        patch=_size(shapes, "patch_embed.proj.weight", 2, 4),
        side=math.isqrt(patches),
        head_dim=head_dim,
    )


def _read_dino_sizes(shapes: Mapping[str, Shape]) -> TowerSizes:
    return replace(_read_vit_sizes(shapes, DINO_HEAD_DIM), registers=_size(shapes, "reg_token", 1, 3))


def _read_siglip_sizes(shapes: Mapping[str, Shape]) -> TowerSizes:
    return _read_vit_sizes(shapes, SIGLIP_HEAD_DIM)


def _norm(name: str, ours: str, width: int) -> dict[str, TowerEntry]:
    return {f"{name}.{end}": TowerEntry((f"{ours}.{end}",), (width,)) for end in ("weight", "bias")}


def _linear(name: str, ours: str, outputs: int, *inputs: int) -> dict[str, TowerEntry]:
    """A matrix or the kernel of a convolution, with its bias."""
    return {
        f"{name}.weight": TowerEntry((f"{ours}.weight",), (outputs, *inputs)),
        f"{name}.bias": TowerEntry((f"{ours}.bias",), (outputs,)),
    }


def _fused_attention(name: str, ours: str, width: int) -> dict[str, TowerEntry]:
    def targets(end: str) -> tuple[str, ...]:
        return tuple(f"{ours}.{letter}_proj.{end}" for letter in "qkv")

    return {
        f"{name}.qkv.weight": TowerEntry(targets("weight"), (3 * width, width), Layout.FUSED),
        f"{name}.qkv.bias": TowerEntry(targets("bias"), (3 * width,), Layout.FUSED),
    }


def _dino_block(name: str, ours: str, sizes: TowerSizes) -> dict[str, TowerEntry]:
    entries = _fused_attention(f"{name}.attn", f"{ours}.attention", sizes.hidden)
    entries |= _linear(f"{name}.attn.proj", f"{ours}.attention.o_proj", sizes.hidden, sizes.hidden)
    entries |= _linear(f"{name}.mlp.fc1", f"{ours}.mlp.fc1", sizes.mlp, sizes.hidden)
    entries |= _linear(f"{name}.mlp.fc2", f"{ours}.mlp.fc2", sizes.hidden, sizes.mlp)
    for number in "12":
        entries |= _norm(f"{name}.norm{number}", f"{ours}.norm{number}", sizes.hidden)
        scale = TowerEntry((f"{ours}.layer_scale{number}.lambda1",), (sizes.hidden,))
        entries[f"{name}.ls{number}.gamma"] = scale
    return entries


def _siglip_block(name: str, ours: str, sizes: TowerSizes) -> dict[str, TowerEntry]:
    entries = _fused_attention(f"{name}.attn", f"{ours}.self_attn", sizes.hidden)
    entries |= _linear(f"{name}.attn.proj", f"{ours}.self_attn.out_proj", sizes.hidden, sizes.hidden)
    entries |= _linear(f"{name}.mlp.fc1", f"{ours}.mlp.fc1", sizes.mlp, sizes.hidden)
    entries |= _linear(f"{name}.mlp.fc2", f"{ours}.mlp.fc2", sizes.hidden, sizes.mlp)
    for number in "12":
        entries |= _norm(f"{name}.norm{number}", f"{ours}.layer_norm{number}", sizes.hidden)
    return entries


def _blocks(block: Callable, ours: str, sizes: TowerSizes) -> dict[str, TowerEntry]:
    """All layers, of which the last has no place in our model."""
    entries = {}
    for layer in range(sizes.layers - 1):
        entries |= block(f"blocks.{layer}", f"{ours}.{layer}", sizes)
    unused = block(f"blocks.{sizes.layers - 1}", "", sizes)
    return entries | {name: replace(entry, targets=()) for name, entry in unused.items()}


def _dino_entries(sizes: TowerSizes) -> dict[str, TowerEntry]:
    hidden, patches = sizes.hidden, sizes.side**2
    entries = {
        "cls_token": TowerEntry(("embeddings.cls_token",), (1, 1, hidden)),
        "reg_token": TowerEntry(("embeddings.register_tokens",), (1, sizes.registers, hidden)),
        "pos_embed": TowerEntry(("embeddings.position_embeddings",), (1, patches, hidden), Layout.NO_CLASS),
    }
    patch = "embeddings.patch_embeddings.projection"
    entries |= _linear("patch_embed.proj", patch, hidden, 3, sizes.patch, sizes.patch)
    return entries | _blocks(_dino_block, "encoder.layer", sizes) | _norm("norm", "layernorm", hidden)


def _siglip_entries(sizes: TowerSizes) -> dict[str, TowerEntry]:
    hidden, patches = sizes.hidden, sizes.side**2
    positions = "embeddings.position_embedding.weight"
    entries = {"pos_embed": TowerEntry((positions,), (1, patches, hidden), Layout.FLAT)}
    patch = "embeddings.patch_embedding"
    entries |= _linear("patch_embed.proj", patch, hidden, 3, sizes.patch, sizes.patch)
    return entries | _blocks(_siglip_block, "encoder.layers", sizes) | _norm("norm", "post_layernorm", hidden)


def _dino_config(sizes: TowerSizes) -> PreTrainedConfig:
    if sizes.mlp % sizes.hidden:
        raise ValueError(f"the width of its MLPs, {sizes.mlp}, is no multiple of its own, {sizes.hidden}")
    return Dinov2WithRegistersConfig(
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers - 1,
        num_attention_heads=sizes.hidden // sizes.head_dim,
        mlp_ratio=sizes.mlp // sizes.hidden,
        image_size=sizes.side * sizes.patch,
        patch_size=sizes.patch,
        num_register_tokens=sizes.registers,
        layer_norm_eps=LAYER_NORM_EPS,
    )


def _siglip_config(sizes: TowerSizes) -> PreTrainedConfig:
    return SiglipVisionConfig(
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers - 1,
        num_attention_heads=sizes.hidden // sizes.head_dim,
        image_size=sizes.side * sizes.patch,
        patch_size=sizes.patch,
        layer_norm_eps=LAYER_NORM_EPS,
        hidden_act="gelu",  # timm's is exact, unlike the default
        vision_use_head=False,
    )


# --- SAM's image encoder, by its authors' names ----------------------------------------------------------------------


def _read_sam_sizes(shapes: Mapping[str, Shape]) -> TowerSizes:
    layers = _count_layers(shapes)
    return TowerSizes(
        layers=layers,
        hidden=_size(shapes, "patch_embed.proj.weight", 0, 4),
        mlp=_size(shapes, "blocks.0.mlp.lin1.weight", 0, 2),
        patch=_size(shapes, "patch_embed.proj.weight", 2, 4),
        side=_size(shapes, "pos_embed", 1, 4),
        channels=_size(shapes, "neck.0.weight", 0, 4),
        head_dim=_size(shapes, "blocks.0.attn.rel_pos_h", 1, 2),
        positions=tuple(_size(shapes, f"blocks.{layer}.attn.rel_pos_h", 0, 2) for layer in range(layers)),
    )


def _sam_entries(sizes: TowerSizes) -> dict[str, TowerEntry]:
    hidden, channels, root = sizes.hidden, sizes.channels, "vision_encoder"
    entries = {"pos_embed": TowerEntry((f"{root}.pos_embed",), (1, sizes.side, sizes.side, hidden))}
    entries |= _linear("patch_embed.proj", f"{root}.patch_embed.projection", hidden, 3, sizes.patch, sizes.patch)
    for layer, positions in enumerate(sizes.positions):
        name, ours = f"blocks.{layer}", f"{root}.layers.{layer}"
        for axis in ("rel_pos_h", "rel_pos_w"):
            entries[f"{name}.attn.{axis}"] = TowerEntry((f"{ours}.attn.{axis}",), (positions, sizes.head_dim))
        entries |= _linear(f"{name}.attn.qkv", f"{ours}.attn.qkv", 3 * hidden, hidden)
        entries |= _linear(f"{name}.attn.proj", f"{ours}.attn.proj", hidden, hidden)
        entries |= _linear(f"{name}.mlp.lin1", f"{ours}.mlp.lin1", sizes.mlp, hidden)
        entries |= _linear(f"{name}.mlp.lin2", f"{ours}.mlp.lin2", hidden, sizes.mlp)
        for number in "12":
            entries |= _norm(f"{name}.norm{number}", f"{ours}.layer_norm{number}", hidden)
    entries["neck.0.weight"] = TowerEntry((f"{root}.neck.conv1.weight",), (channels, hidden, 1, 1))
    entries["neck.2.weight"] = TowerEntry((f"{root}.neck.conv2.weight",), (channels, channels, 3, 3))
    entries |= _norm("neck.1", f"{root}.neck.layer_norm1", channels)
    return entries | _norm("neck.3", f"{root}.neck.layer_norm2", channels)


def _sam_config(sizes: TowerSizes) -> PreTrainedConfig:
    whole = 2 * sizes.side - 1  # relative positions of a layer that sees the whole picture
    windows = sorted({positions for positions in sizes.positions if positions != whole})
    if len(windows) > 1 or sizes.hidden % sizes.head_dim:
        raise ValueError(
            f"its layers have {', '.join(map(str, windows))} relative positions of {sizes.head_dim}, expected {whole} "
            f"or one other number, and a divisor of its width {sizes.hidden}"
        )
    return SamVisionConfig(
        hidden_size=sizes.hidden,
        mlp_dim=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // sizes.head_dim,
        image_size=sizes.side * sizes.patch,
        patch_size=sizes.patch,
        output_channels=sizes.channels,
        window_size=(windows[0] + 1) // 2 if windows else sizes.side,
        global_attn_indexes=[layer for layer, positions in enumerate(sizes.positions) if positions == whole],
        layer_norm_eps=LAYER_NORM_EPS,
    )


# In the order in which their features stand side by side
TOWERS = (
    Tower(
        "DINOv2",
        "vit.dino_featurizer.",
        Dinov2WithRegistersConfig.model_type,
        _read_dino_sizes,
        _dino_entries,
        _dino_config,
        feature_layer=-1,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        # Only a model that learns to fill gaps uses it, and timm has none: zeros, shaped as the class token is
        derived={"embeddings.mask_token": ("cls_token", _zero_token)},
    ),
    Tower(
        "SigLIP",
        "vit.siglip_featurizer.",
        SiglipVisionConfig.model_type,
        _read_siglip_sizes,
        _siglip_entries,
        _siglip_config,
        feature_layer=-1,
        image_mean=IMAGENET_STANDARD_MEAN,
        image_std=IMAGENET_STANDARD_STD,
        unused=re.compile(r"attn_pool\..*"),
    ),
    Tower(
        "SAM",
        "vit.sam_featurizer.",
        SamVisionConfig.model_type,
        _read_sam_sizes,
        _sam_entries,
        _sam_config,
        feature_layer=None,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
        unshuffle_factor=SAM_UNSHUFFLE,
    ),
)


def sizes_of_config(config: PreTrainedConfig) -> TowerSizes:
    """Sizes in the file of a tower of our model, whose configuration a `Tower` made."""
    common = {
        "hidden": config.hidden_size,
        "patch": config.patch_size,
        "side": config.image_size // config.patch_size,
        "head_dim": config.hidden_size // config.num_attention_heads,
    }
    if config.model_type == Dinov2WithRegistersConfig.model_type:
        mlp, registers = config.hidden_size * config.mlp_ratio, config.num_register_tokens
        return TowerSizes(layers=config.num_hidden_layers + 1, mlp=mlp, registers=registers, **common)
    if config.model_type == SiglipVisionConfig.model_type:
        return TowerSizes(layers=config.num_hidden_layers + 1, mlp=config.intermediate_size, **common)
    reach = {True: common["side"], False: config.window_size}
    positions = tuple(2 * reach[layer in config.global_attn_indexes] - 1 for layer in range(config.num_hidden_layers))
    layers, channels = config.num_hidden_layers, config.output_channels
    return TowerSizes(layers=layers, mlp=config.mlp_dim, channels=channels, positions=positions, **common)

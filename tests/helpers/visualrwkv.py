# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints in VisualRWKV 7.00's published format, and a plain reading of what the original computed.

Everything here is written from the description of the original, token by token and window by window in plain PyTorch,
apart from the library and from transformers' encoders.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SamVisionConfig,
    SamVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from .composites import randomize
from .worldrwkv import HIDDEN, text_logits


IMAGE_TOKEN = 65535
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a tower; heads of the first two towers have the width that they have in the published models."""

    hidden: int
    heads: int
    mlp: int
    layers: int
    patch: int
    side: int  # patches in a row
    registers: int = 0
    channels: int = 0
    window: int = 0
    whole_layers: tuple[int, ...] = ()

    @property
    def pixels(self) -> int:
        """Side of the picture it sees."""
        return self.patch * self.side


DINO = TowerSizes(hidden=128, heads=2, mlp=256, layers=3, patch=14, side=4, registers=4)
SIGLIP = TowerSizes(hidden=144, heads=2, mlp=160, layers=3, patch=14, side=4)
SAM = TowerSizes(hidden=64, heads=2, mlp=80, layers=3, patch=16, side=8, channels=8, window=3, whole_layers=(1,))
NUM_PATCHES = DINO.side**2
FEATURES = DINO.hidden + SIGLIP.hidden + 4 * SAM.channels


# --- Tensors by their published names --------------------------------------------------------------------------------


class _Random:
    """Tensors by name, from one generator; without a seed only their shapes, on the device "meta"."""

    def __init__(self, seed: int | None):
        self.options = {"device": "meta"} if seed is None else {"generator": torch.Generator().manual_seed(seed)}
        self.tensors = {}

    def normal(self, name: str, *shape: int, mean: float = 0.0, scale: float = 0.2) -> None:
        self.tensors[name] = mean + scale * torch.randn(*shape, **self.options)

    def linear(self, name: str, outputs: int, *inputs: int, bias: bool = True, gain: float = 1.0) -> None:
        self.normal(f"{name}.weight", outputs, *inputs, scale=gain / np.prod(inputs) ** 0.5)
        if bias:
            self.normal(f"{name}.bias", outputs)

    def norm(self, name: str, width: int) -> None:
        self.normal(f"{name}.weight", width, mean=1)
        self.normal(f"{name}.bias", width)


def random_vit(sizes: TowerSizes, seed: int | None = 1) -> dict[str, torch.Tensor]:
    """A timm vision transformer: DINOv2 with registers if it has any, else SigLIP with its pooling head."""
    random, width = _Random(seed), sizes.hidden
    random.normal("pos_embed", 1, sizes.side**2, width)
    random.linear("patch_embed.proj", width, 3, sizes.patch, sizes.patch)
    if sizes.registers:
        random.normal("cls_token", 1, 1, width)
        random.normal("reg_token", 1, sizes.registers, width)
    else:
        random.normal("attn_pool.latent", 1, 1, width)
        for name, outputs, inputs in (("q", width, width), ("kv", 2 * width, width), ("proj", width, width)):
            random.linear(f"attn_pool.{name}", outputs, inputs)
        random.norm("attn_pool.norm", width)
        random.linear("attn_pool.mlp.fc1", sizes.mlp, width)
        random.linear("attn_pool.mlp.fc2", width, sizes.mlp)
    for layer in range(sizes.layers):
        _random_block(random, f"blocks.{layer}.", sizes, ("fc1", "fc2"))
        if sizes.registers:
            random.normal(f"blocks.{layer}.ls1.gamma", width, mean=1)
            random.normal(f"blocks.{layer}.ls2.gamma", width, mean=1)
    random.norm("norm", width)
    return random.tensors


def _random_block(random: _Random, block: str, sizes: TowerSizes, mlp: tuple[str, str]) -> None:
    width = sizes.hidden
    random.norm(f"{block}norm1", width)
    random.norm(f"{block}norm2", width)
    random.linear(f"{block}attn.qkv", 3 * width, width)
    random.linear(f"{block}attn.proj", width, width)
    random.linear(f"{block}mlp.{mlp[0]}", sizes.mlp, width)
    random.linear(f"{block}mlp.{mlp[1]}", width, sizes.mlp)


def random_sam(sizes: TowerSizes = SAM, seed: int | None = 2) -> dict[str, torch.Tensor]:
    """SAM's image encoder, by its authors' names."""
    random, width = _Random(seed), sizes.hidden
    random.normal("pos_embed", 1, sizes.side, sizes.side, width)
    random.linear("patch_embed.proj", width, 3, sizes.patch, sizes.patch)
    for layer in range(sizes.layers):
        reach = sizes.side if layer in sizes.whole_layers else sizes.window
        _random_block(random, f"blocks.{layer}.", sizes, ("lin1", "lin2"))
        for axis in ("rel_pos_h", "rel_pos_w"):
            random.normal(f"blocks.{layer}.attn.{axis}", 2 * reach - 1, width // sizes.heads)
    random.linear("neck.0", sizes.channels, width, 1, 1, bias=False)
    random.norm("neck.1", sizes.channels)
    random.linear("neck.2", sizes.channels, sizes.channels, 3, 3, bias=False)
    random.norm("neck.3", sizes.channels)
    return random.tensors


def random_towers() -> dict[str, torch.Tensor]:
    """`vit.*` of a checkpoint."""
    parts = {"dino": random_vit(DINO, 1), "siglip": random_vit(SIGLIP, 3), "sam": random_sam()}
    return {f"vit.{part}_featurizer.{name}": w for part, tensors in parts.items() for name, w in tensors.items()}


def random_projector(type: str = "mlp", features: int = FEATURES) -> dict[str, torch.Tensor]:
    """`proj.*` of a checkpoint with `--proj_type` "mlp" or "linear"."""
    random = _Random(4)
    if type == "linear":
        random.linear("proj", HIDDEN, features, bias=False)
        return random.tensors
    random.linear("proj.gate", features, features, bias=False)
    random.linear("proj.o_proj", HIDDEN, features, bias=False)
    random.norm("proj.ln_v", HIDDEN)
    return random.tensors


# --- What the original computed --------------------------------------------------------------------------------------


def read_pixels(image: Image.Image, size: int, statistics) -> torch.Tensor:
    """(channels, size, size) of one picture: squashed by Pillow, to floats, normalised."""
    squashed = np.array(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics)
    return (torch.from_numpy(squashed).permute(2, 0, 1).float() / 255 - mean) / std


def pixels_of_towers(image: Image.Image) -> list[torch.Tensor]:
    """What each tower sees of a picture."""
    seen = ((DINO, IMAGENET), (SIGLIP, HALVES), (SAM, IMAGENET))
    return [read_pixels(image, sizes.pixels, statistics) for sizes, statistics in seen]


def _layer_norm(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)


def _linear(w: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _mlp(w: dict[str, torch.Tensor], first: str, second: str, x: torch.Tensor) -> torch.Tensor:
    """With the exact GELU."""
    hidden = _linear(w, first, x)
    return _linear(w, second, hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)))


def _patches(w: dict[str, torch.Tensor], pixels: torch.Tensor, sizes: TowerSizes) -> torch.Tensor:
    """(rows, columns, width)."""
    x = F.conv2d(pixels[None], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=sizes.patch)
    return x[0].permute(1, 2, 0)


def vit_features(w: dict[str, torch.Tensor], pixels: torch.Tensor, sizes: TowerSizes) -> torch.Tensor:
    """(patches, width): output of the last block but one, without the final norm and what stands before patches."""
    x = _patches(w, pixels, sizes).flatten(0, 1) + w["pos_embed"][0]
    if sizes.registers:  # position of the class token is part of it
        x = torch.cat([w["cls_token"][0], w["reg_token"][0], x])
    for layer in range(sizes.layers - 1):
        block = f"blocks.{layer}."
        scales = [w.get(f"{block}ls{number}.gamma", torch.ones(())) for number in "12"]
        q, k, v = _linear(w, f"{block}attn.qkv", _layer_norm(w, f"{block}norm1", x)).chunk(3, dim=-1)
        heads = [part.unflatten(-1, (sizes.heads, -1)).transpose(0, 1) for part in (q, k, v)]  # (heads, time, width)
        weights = torch.softmax(heads[0] @ heads[1].transpose(1, 2) * heads[0].shape[-1] ** -0.5, dim=-1)
        attended = (weights @ heads[2]).transpose(0, 1).flatten(1)
        x = x + scales[0] * _linear(w, f"{block}attn.proj", attended)
        x = x + scales[1] * _mlp(w, f"{block}mlp.fc1", f"{block}mlp.fc2", _layer_norm(w, f"{block}norm2", x))
    return x[1 + sizes.registers :] if sizes.registers else x


def _sam_attention(w: dict[str, torch.Tensor], attn: str, x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Attention over a square (side, side, width), with a bias by row and by column that depends on the query."""
    side = len(x)
    q, k, v = (
        part.unflatten(-1, (num_heads, -1)).permute(2, 0, 1, 3)  # (heads, rows, columns, width)
        for part in _linear(w, f"{attn}.qkv", x).chunk(3, dim=-1)
    )
    difference = torch.arange(side)[:, None] - torch.arange(side) + side - 1
    by_row, by_column = w[f"{attn}.rel_pos_h"][difference], w[f"{attn}.rel_pos_w"][difference]
    scores = torch.einsum("nhwc,nijc->nhwij", q, k) * q.shape[-1] ** -0.5
    scores = scores + torch.einsum("nhwc,hic->nhwi", q, by_row)[..., None]
    scores = scores + torch.einsum("nhwc,wjc->nhwj", q, by_column)[..., None, :]
    weights = torch.softmax(scores.flatten(3), dim=-1).unflatten(-1, (side, side))
    attended = torch.einsum("nhwij,nijc->hwnc", weights, v).flatten(2)
    return _linear(w, f"{attn}.proj", attended)


def sam_features(w: dict[str, torch.Tensor], pixels: torch.Tensor, sizes: TowerSizes = SAM) -> torch.Tensor:
    """(patches, channels): the neck's map, 2 by 2 squares of it made one feature."""
    x = _patches(w, pixels, sizes) + w["pos_embed"][0]  # (rows, columns, width)
    for layer in range(sizes.layers):
        block, side = f"blocks.{layer}.", sizes.side
        y = _layer_norm(w, f"{block}norm1", x)
        if layer in sizes.whole_layers:
            y = _sam_attention(w, f"{block}attn", y, sizes.heads)
        else:
            step = sizes.window
            padded = F.pad(y, (0, 0, 0, -side % step, 0, -side % step))
            for i in range(0, side, step):
                for j in range(0, side, step):
                    window = padded[i : i + step, j : j + step].clone()
                    padded[i : i + step, j : j + step] = _sam_attention(w, f"{block}attn", window, sizes.heads)
            y = padded[:side, :side]
        x = x + y
        x = x + _mlp(w, f"{block}mlp.lin1", f"{block}mlp.lin2", _layer_norm(w, f"{block}norm2", x))
    x = _layer_norm(w, "neck.1", x @ w["neck.0.weight"][:, :, 0, 0].T)
    x = F.conv2d(x.permute(2, 0, 1)[None], w["neck.2.weight"], padding=1)[0].permute(1, 2, 0)
    x = _layer_norm(w, "neck.3", x)
    squares = [
        x[i : i + 2, j : j + 2].permute(2, 0, 1).flatten()  # channel, then row, then column
        for i in range(0, sizes.side, 2)
        for j in range(0, sizes.side, 2)
    ]
    return torch.stack(squares)


def tower_features(w: dict[str, torch.Tensor], image: Image.Image) -> torch.Tensor:
    """(patches, FEATURES): DINOv2, SigLIP and SAM side by side."""

    def part(name: str) -> dict[str, torch.Tensor]:
        prefix = f"vit.{name}_featurizer."
        return {key.removeprefix(prefix): value for key, value in w.items() if key.startswith(prefix)}

    dino, siglip, sam = pixels_of_towers(image)
    features = [vit_features(part("dino"), dino, DINO), vit_features(part("siglip"), siglip, SIGLIP)]
    return torch.cat([*features, sam_features(part("sam"), sam)], dim=1)


def project(w: dict[str, torch.Tensor], features: torch.Tensor, tokens: int = NUM_PATCHES) -> torch.Tensor:
    """Token embeddings (tokens, hidden) of the features (patches, FEATURES) of one picture."""
    side, cells = int(len(features) ** 0.5), int(tokens**0.5)
    grid = features.T.reshape(-1, side, side)
    x = F.adaptive_avg_pool2d(grid, cells).flatten(1).T
    if "proj.weight" in w:
        return x @ w["proj.weight"].T
    x = (x * torch.sigmoid(x @ w["proj.gate.weight"].T)) @ w["proj.o_proj.weight"].T
    return F.layer_norm(x, (HIDDEN,), w["proj.ln_v.weight"], w["proj.ln_v.bias"], eps=1e-5)


def plain_logits(
    text: dict[str, torch.Tensor], ids: list[int], image_tokens: list[torch.Tensor], pads: int = 0
) -> torch.Tensor:
    """Logits (time, vocab) of a prompt; `pads` embeddings of token 261 stand in front, as in `evaluate.py`."""
    x = text["emb.weight"][ids].clone()
    places = [position for position, token in enumerate(ids) if token == IMAGE_TOKEN]
    if places:
        x[places] = torch.cat(image_tokens)
    x = torch.cat([text["emb.weight"][[261] * pads], x])
    return text_logits(text, x)[pads:]


def published_sizes() -> tuple[TowerSizes, TowerSizes, TowerSizes]:
    """DINOv2-L, SigLIP so400m and SAM-B as published."""
    dino = replace(DINO, hidden=1024, heads=16, mlp=4096, layers=24, side=32)
    siglip = replace(SIGLIP, hidden=1152, heads=16, mlp=4304, layers=27, side=32)
    sam = replace(
        SAM, hidden=768, heads=12, mlp=3072, layers=12, side=64, channels=256, window=14, whole_layers=(2, 5, 8, 11)
    )
    return dino, siglip, sam


# --- Encoders on their own -------------------------------------------------------------------------------------------


def save_towers(folder: Path, side: int) -> tuple[list[Path], list[torch.nn.Module]]:
    """Stock encoders of transformers, whole, for pictures of another size than they are used at."""
    dino = Dinov2WithRegistersConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=14 * side, patch_size=14
    )
    siglip = SiglipVisionConfig(
        hidden_size=144,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=160,
        image_size=14 * side,
        patch_size=14,
    )
    sam = SamVisionConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=80,
        image_size=SAM.pixels,
        patch_size=SAM.patch,
        output_channels=SAM.channels,
        window_size=SAM.window,
        global_attn_indexes=[1],
    )
    towers = [Dinov2WithRegistersModel(dino), SiglipVisionModel(siglip), SamVisionModel(sam)]
    folders = [folder / tower.config.model_type for tower in towers]
    for seed, (tower, path) in enumerate(zip(towers, folders, strict=True)):
        randomize(tower, seed).eval().save_pretrained(path)
    return folders, towers

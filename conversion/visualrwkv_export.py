# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders that were made of VisualRWKV 7.00's files back to one such file, bit for bit."""

import os
from pathlib import Path

import torch
from tqdm.utils import CallbackIOWrapper
from transformers import AutoConfig, PreTrainedConfig

from ..configuration.configuration_vision_towers import VisionTowersConfig
from ..modeling_rwkv7_world.blinkdl_names import Sizes
from .blinkdl import Conversion
from .folder import check_finite, open_folder, progress_bar
from .output import whole_file
from .text_checkpoint import absolute, check_epsilons, naming, tensors_in_blinkdl
from .visualrwkv import EXTRA_FILE, OUR_PROJECTOR, OUR_TEXT, OUR_TOWERS
from .visualrwkv_names import (
    GATED_NAMES,
    LINEAR_NAMES,
    PROJECTOR_PREFIX,
    TEXT_PREFIX,
    TOWERS_PREFIX,
    tower_entries,
)
from .visualrwkv_towers import TOWERS, sizes_of_config


def convert_to_visualrwkv(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> Conversion:
    """Writes a folder that `convert_visualrwkv` wrote as one `.pth` file of VisualRWKV 7.00.

    Every tensor comes back bit for bit. Towers are in the file if they were in the one that the folder came from: only
    then are the layers at hand that our model leaves out. VisualRWKV itself takes missing towers from their own files.

    Args:
        source: The folder.
        destination: The new file. If anything fails there is none.
        dtype: Of the tensors written. `None` keeps that of every tensor.
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the folder holds no model of this kind, or numbers that are not finite; if `destination` is
            taken.
        OSError: If something cannot be read or written.
    """
    source, destination = absolute(source), absolute(destination)
    if not (source / "config.json").is_file():
        raise FileNotFoundError(f"{source}: not a model folder, it holds no config.json")
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    try:
        tensors, sizes = _in_file(source, config, open_folder(source, EXTRA_FILE))
    except ValueError as error:
        raise naming(source, error) from error
    tensors = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in tensors.items()}
    check_finite(tensors, source)
    total = sum(tensor.nbytes for tensor in tensors.values())
    with whole_file(destination) as path, open(path, "wb") as file, progress_bar(total, show_progress) as bar:
        torch.save(tensors, CallbackIOWrapper(bar.update, file, "write"))
    written = tuple(sorted({tensor.dtype for tensor in tensors.values()}, key=str))
    return Conversion(sizes, sum(tensor.numel() for tensor in tensors.values()), written)


def _in_file(
    source: Path, config: PreTrainedConfig, found: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], Sizes]:
    """The tensors of a folder by their names in a file of VisualRWKV, and the sizes of its text model."""
    vision = getattr(config, "vision_config", None)
    kinds = [tower.encoder_config.model_type for tower in getattr(vision, "towers", [])]
    projector = {"gated_mlp": GATED_NAMES, "linear": LINEAR_NAMES}.get(getattr(config, "vision_projector_type", None))
    if kinds != [tower.model_type for tower in TOWERS] or projector is None:
        raise ValueError(f"holds a {config.model_type} model, expected one that was made of VisualRWKV 7.00")
    extra = {name: found[name] for name in found if name.startswith((TEXT_PREFIX, TOWERS_PREFIX))}
    text_config = config.text_config.to_dict()
    tensors, sizes = _text_in_file(source, found, extra, text_config)
    check_epsilons(source, text_config, sizes)
    sources = {PROJECTOR_PREFIX + name: OUR_PROJECTOR + ours for name, ours in projector.items()}
    missing = sorted(sources.values() - found.keys())
    if missing:
        raise ValueError(f"the tensor {missing[0]} is missing")
    tensors |= {name: found[ours] for name, ours in sources.items()}
    if any(name.startswith(TOWERS_PREFIX) for name in extra):
        tensors |= _towers_in_file(vision, found)
    return tensors | {name: extra[name] for name in extra if name.startswith(TOWERS_PREFIX)}, sizes


def _text_in_file(
    source: Path, found: dict[str, torch.Tensor], extra: dict[str, torch.Tensor], text_config: dict
) -> tuple[dict[str, torch.Tensor], Sizes]:
    text = {
        name.replace(OUR_TEXT, "model.", 1): found[name] for name in found if name.startswith((OUR_TEXT, "lm_head."))
    }
    text |= {name.removeprefix(TEXT_PREFIX): extra[name] for name in extra if name.startswith(TEXT_PREFIX)}
    renamed, sizes = tensors_in_blinkdl(source, text, text_config)
    return {TEXT_PREFIX + name: tensor for name, tensor in renamed.items()}, sizes


def _towers_in_file(vision: VisionTowersConfig, found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, entry in tower_entries([sizes_of_config(tower.encoder_config) for tower in vision.towers]).items():
        targets = [OUR_TOWERS + target for target in entry.targets]
        missing = [target for target in targets if target not in found]
        if missing:
            raise ValueError(f"the tensor {missing[0]} is missing")
        if targets:
            tensors[name] = entry.to_file([found[target] for target in targets])
    return tensors

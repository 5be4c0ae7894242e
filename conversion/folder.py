# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a model folder: safetensors, whole or in shards with their index."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub.serialization import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from tqdm import tqdm

from ..modeling_rwkv7_world.checkpoint_files import open_safetensors


INDEX_FILE = "model.safetensors.index.json"
SHARD_PATTERN = "model{suffix}.safetensors"


def write_shards(
    folder: Path,
    sizes: dict[str, int],
    read: Callable[[list[str]], dict[str, torch.Tensor]],
    max_shard_size: int | str,
    source: Path | None = None,
    places: Mapping[str, str] | None = None,
) -> None:
    """Writes the weights of a model into `folder`, one shard in memory at a time.

    Args:
        folder: An existing folder.
        sizes: Bytes of every tensor, by name.
        read: Gives the tensors of the names asked for.
        max_shard_size: Largest file, in bytes or as "5GB".
        source: Where the tensors come from, if it is one file or folder.
        places: As of [`check_finite`].

    Raises:
        ValueError: If a tensor holds numbers that are not finite; names it and where it comes from.
    """
    shards = split_state_dict_into_shards_factory(
        sizes, get_storage_size=lambda size: size, filename_pattern=SHARD_PATTERN, max_shard_size=max_shard_size
    )
    for file_name, names in shards.filename_to_tensors.items():
        tensors = read(names)
        check_finite(tensors, source, places)
        save_file(tensors, folder / file_name, {"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def check_finite(
    tensors: Mapping[str, torch.Tensor], source: Path | None = None, places: Mapping[str, str] | None = None
) -> None:
    """Refuses tensors with numbers that are not finite: nothing can be computed with such weights.

    Args:
        tensors: By name.
        source: Where they come from, if it is one file or folder.
        places: File and name there of each, if they have other names there.

    Raises:
        ValueError: Names the first and where it comes from, and what to do.
    """
    if bad := names_not_finite(tensors):
        place = places[bad[0]] if places else f"{source}: {bad[0]}" if source else bad[0]
        advice = (
            "take an earlier checkpoint if the training diverged, fetch the file again if it is damaged, or write a "
            f"wider dtype if they are too large for {tensors[bad[0]].dtype}"
        )
        raise ValueError(f"{place}: holds numbers that are not finite; {advice}")


def names_not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not tensor.isfinite().all()]


def open_folder(folder: Path, *extra_files: str) -> dict[str, torch.Tensor]:
    """All tensors of a folder by the names in its files, mapped: their bytes are read when used.

    Args:
        folder: A folder with `model.safetensors`, or shards of it with their index.
        extra_files: More files to read, where they exist.

    Raises:
        FileNotFoundError: If a file of weights is missing.
        ValueError: If one is damaged.
    """
    files = [folder / SHARD_PATTERN.format(suffix="")]
    if (folder / INDEX_FILE).is_file():
        weight_map = read_json(folder / INDEX_FILE).get("weight_map", {})
        files = [folder / Path(name).name for name in sorted(set(weight_map.values()))]
    files += [folder / name for name in extra_files if (folder / name).is_file()]
    tensors = {}
    for file in files:
        tensors |= open_safetensors(file)
    return tensors


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        ValueError: If it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def progress_bar(total_bytes: int, show: bool) -> tqdm:
    """A bar on stderr, drawn if that is a terminal and `show` is true."""
    return tqdm(total=total_bytes, unit="B", unit_scale=True, disable=None if show else True)

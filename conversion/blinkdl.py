# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""BlinkDL's `.pth` files to Hub-ready folders and back, bit for bit.

What the fla format has no place for (the unused value mix of layer 0, a trained state merged into the weights) is kept
under its own name in `EXTRA_FILE` of the folder, where nothing but the way back looks for it.
"""

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.serialization import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper
from transformers import GenerationConfig

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from .blinkdl_names import Entry, Sizes, all_entries, check_shapes, read_sizes
from .output import whole_file, whole_folder
from .pth_file import open_pth, read_tensors


# In a folder of its own: servers take every *.safetensors beside config.json for weights
EXTRA_FILE = "blinkdl/extra.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_PATTERN = "model{suffix}.safetensors"
WORLD_VOCAB_SIZE = 65536
BLINKDL_NORM_EPS, BLINKDL_GROUP_NORM_EPS = 1e-5, 64e-5  # a `.pth` file has no place for others
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Conversion:
    """What was converted: sizes, number of parameters, dtypes written, tensors kept aside, whether text has ids."""

    sizes: Sizes
    parameters: int
    dtypes: tuple[torch.dtype, ...]
    kept_aside: tuple[str, ...] = ()
    has_tokenizer: bool = False


def convert_to_hub(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> Conversion:
    """Writes a BlinkDL checkpoint as a folder that `RWKV7ForCausalLM.from_pretrained` loads.

    The folder holds config.json, generation_config.json, the weights, and for models of 65536 tokens the World
    tokenizer. Memory stays under one shard and about half a gigabyte.

    Args:
        source: A `.pth` file of RWKV-7, of any size.
        destination: A new or empty folder. If anything fails it is left as it was.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the file is none of RWKV-7, damaged, or not only tensors; if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = _absolute(source), _absolute(destination)
    tensors = open_pth(source)
    sizes = _sizes_of(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    dtypes = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    numbers = {name: tensor.numel() for name, tensor in tensors.items()}
    del tensors  # unmaps the file
    entries = {name: entry for name, entry in all_entries(sizes).items() if name in numbers}
    kept_aside = [name for name, entry in entries.items() if entry.fla_name is None]
    shards = split_state_dict_into_shards_factory(
        {name: numbers[name] * dtypes[name].itemsize for name in entries if name not in kept_aside},
        get_storage_size=lambda size: size,
        filename_pattern=SHARD_PATTERN,
        max_shard_size=max_shard_size,
    )
    total = sum(numbers[name] * dtypes[name].itemsize for name in entries)
    with whole_folder(destination) as folder, _bar(total, show_progress) as bar:
        for file_name, names in shards.filename_to_tensors.items():
            save_file(_fla_tensors(source, names, entries, dtypes, bar), folder / file_name, {"format": "pt"})
        if shards.is_sharded:
            weight_map = {entries[name].fla_name: file for name, file in shards.tensor_to_filename.items()}
            index = {"metadata": shards.metadata, "weight_map": weight_map}
            (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        if kept_aside:
            (folder / EXTRA_FILE).parent.mkdir()
            save_file(_copies(source, kept_aside, bar), folder / EXTRA_FILE)
        has_tokenizer = _save_companions(folder, sizes, dtypes["emb.weight"])
    written = tuple(sorted(set(dtypes.values()), key=str))
    return Conversion(sizes, sum(numbers.values()), written, tuple(kept_aside), has_tokenizer)


def convert_to_blinkdl(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> Conversion:
    """Writes a folder in the fla format as one BlinkDL `.pth` file.

    A folder that `convert_to_hub` wrote gives back the file that it came from, every tensor bit for bit.

    Args:
        source: A folder with `model.safetensors`, or shards of it with their index.
        destination: The new file. If anything fails there is none.
        dtype: Of the tensors written. `None` keeps that of every tensor.
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the folder holds no RWKV-7 text model, or one that a `.pth` file cannot hold; if `destination`
            is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = _absolute(source), _absolute(destination)
    config = _read_config(source)
    found = _open_folder(source)
    sizes = _sizes_of(source, _shapes_in_blinkdl(source, found))
    _check_epsilons(source, config, sizes)
    by_source = {entry.fla_name or name: (name, entry) for name, entry in all_entries(sizes).items()}
    tensors = {}
    for fla_name in (name for name in by_source if name in found):
        name, entry = by_source[fla_name]
        tensors[name] = entry.change.to_blinkdl(found[fla_name]).to(dtype or found[fla_name].dtype)
    total = sum(tensor.nbytes for tensor in tensors.values())
    with whole_file(destination) as path, open(path, "wb") as file, _bar(total, show_progress) as bar:
        torch.save(tensors, CallbackIOWrapper(bar.update, file, "write"))
    written = tuple(sorted({tensor.dtype for tensor in tensors.values()}, key=str))
    return Conversion(sizes, sum(tensor.numel() for tensor in tensors.values()), written)


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _bar(total_bytes: int, show_progress: bool) -> tqdm:
    # `None` draws it only on a terminal
    return tqdm(total=total_bytes, unit="B", unit_scale=True, disable=None if show_progress else True)


def _sizes_of(source: Path, shapes: dict[str, tuple[int, ...]]) -> Sizes:
    try:
        sizes = read_sizes(shapes)
        check_shapes(shapes, sizes)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return sizes


def _fla_tensors(
    source: Path, names: Iterable[str], entries: dict[str, Entry], dtypes: dict[str, torch.dtype], bar: tqdm
) -> dict[str, torch.Tensor]:
    """One shard in the fla format, in memory."""
    shard = {}
    for name, tensor in read_tensors(source, names):
        entry = entries[name]
        shard[entry.fla_name] = entry.change.to_fla(tensor).to(dtypes[name], copy=True)
        bar.update(shard[entry.fla_name].nbytes)
    return shard


def _copies(source: Path, names: Iterable[str], bar: tqdm) -> dict[str, torch.Tensor]:
    copies = {}
    for name, tensor in read_tensors(source, names):
        copies[name] = tensor.clone(memory_format=torch.contiguous_format)
        bar.update(tensor.nbytes)
    return copies


def _save_companions(folder: Path, sizes: Sizes, dtype: torch.dtype) -> bool:
    """Configuration, generation defaults and, for the World vocabulary, the tokenizer; whether there is one."""
    config = RWKV7Config(
        architectures=["RWKV7ForCausalLM"],
        dtype=dtype,
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers,
        head_dim=sizes.head_dim,
        num_heads=sizes.heads,
        decay_low_rank_dim=sizes.decay_rank,
        a_low_rank_dim=sizes.a_rank,
        v_low_rank_dim=sizes.v_rank,
        gate_low_rank_dim=sizes.gate_rank,
        norm_eps=BLINKDL_NORM_EPS,
        group_norm_eps=None if sizes.head_dim * BLINKDL_NORM_EPS == BLINKDL_GROUP_NORM_EPS else BLINKDL_GROUP_NORM_EPS,
    )
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    if sizes.vocab == WORLD_VOCAB_SIZE:
        RWKVWorldTokenizer().save_pretrained(folder)
    return sizes.vocab == WORLD_VOCAB_SIZE


def _read_config(folder: Path) -> dict:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: not a model folder, it holds no config.json")
    return _read_json(folder / "config.json")


def _check_epsilons(folder: Path, config: dict, sizes: Sizes) -> None:
    norm_eps = config.get("norm_eps", BLINKDL_NORM_EPS)
    found = {"norm_eps": norm_eps, "group_norm_eps": config.get("group_norm_eps") or sizes.head_dim * norm_eps}
    expected = {"norm_eps": BLINKDL_NORM_EPS, "group_norm_eps": BLINKDL_GROUP_NORM_EPS}
    for name, value in found.items():
        if not math.isclose(value, expected[name]):
            raise ValueError(f"{folder}: {name} is {value:g}, but all who read .pth files take {expected[name]:g}")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def _open_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder by the names in its files, mapped: their bytes are read when used."""
    files = [folder / SHARD_PATTERN.format(suffix="")]
    if (folder / INDEX_FILE).is_file():
        weight_map = _read_json(folder / INDEX_FILE).get("weight_map", {})
        files = [folder / Path(name).name for name in sorted(set(weight_map.values()))]
    if (folder / EXTRA_FILE).is_file():
        files.append(folder / EXTRA_FILE)
    tensors = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file")
        try:
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
        except SafetensorError as error:
            raise ValueError(f"{file}: not a safetensors file, or not a whole one ({error})") from error
    return tensors


def _shapes_in_blinkdl(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of a folder will have in a `.pth` file, by the names there."""
    layers = 1 + max((int(found[1]) for name in tensors if (found := _LAYER.match(name))), default=-1)
    if not 0 < layers <= len(tensors):
        raise ValueError(f"{folder}: no RWKV-7 text model in the fla format, it holds no tensor model.layers.0.*")
    any_sizes = Sizes(layers, 0, 0, 0, 0, 0, 0, 0, 0, 0)  # the names do not depend on them
    by_source = {entry.fla_name or name: (name, entry) for name, entry in all_entries(any_sizes).items()}
    shapes = {}
    for source_name, tensor in tensors.items():
        name, entry = by_source.get(source_name, (source_name, Entry(source_name, ())))
        shapes[name] = entry.change.shape_in_blinkdl(tuple(tensor.shape))
    return shapes

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""BlinkDL's `.pth` files to Hub-ready folders and back, bit for bit.

What the fla format has no place for (the unused value mix of layer 0) is kept under its own name in `EXTRA_FILE` of
the folder, where nothing but the way back looks for it. A state from state tuning that was merged into the checkpoint
becomes the learned initial state of the model.
"""

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper
from transformers import GenerationConfig

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from .blinkdl_names import Entry, Sizes, all_entries, check_shapes, read_sizes
from .folder import check_finite, open_folder, progress_bar, read_json, write_shards
from .output import whole_file, whole_folder
from .pth_file import open_pth, read_tensors


# In a folder of its own: servers take every *.safetensors beside config.json for weights
EXTRA_FILE = "blinkdl/extra.safetensors"
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
    source, destination = absolute(source), absolute(destination)
    tensors = open_pth(source)
    sizes = sizes_of(source, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    dtypes = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    numbers = {name: tensor.numel() for name, tensor in tensors.items()}
    del tensors  # unmaps the file
    entries = {name: entry for name, entry in all_entries(sizes).items() if name in numbers}
    by_fla_name = {entry.fla_name: name for name, entry in entries.items() if entry.fla_name is not None}
    kept_aside = [name for name, entry in entries.items() if entry.fla_name is None]
    stored = {fla_name: numbers[name] * dtypes[name].itemsize for fla_name, name in by_fla_name.items()}
    total = sum(numbers[name] * dtypes[name].itemsize for name in entries)
    with whole_folder(destination) as folder, progress_bar(total, show_progress) as bar:
        write_shards(
            folder,
            stored,
            lambda names: _fla_tensors(source, [by_fla_name[name] for name in names], entries, dtypes, bar),
            max_shard_size,
            source,
        )
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
    source, destination = absolute(source), absolute(destination)
    config = _read_config(source)
    renamed, sizes = tensors_in_blinkdl(source, open_folder(source, EXTRA_FILE))
    check_epsilons(source, config, sizes)
    tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in renamed.items()}
    check_finite(tensors, source)
    total = sum(tensor.nbytes for tensor in tensors.values())
    with whole_file(destination) as path, open(path, "wb") as file, progress_bar(total, show_progress) as bar:
        torch.save(tensors, CallbackIOWrapper(bar.update, file, "write"))
    written = tuple(sorted({tensor.dtype for tensor in tensors.values()}, key=str))
    return Conversion(sizes, sum(tensor.numel() for tensor in tensors.values()), written)


def absolute(path: str | os.PathLike[str]) -> Path:
    """`path` from the root, without `~`."""
    return Path(os.path.abspath(Path(path).expanduser()))


def naming(source: Path, error: ValueError) -> ValueError:
    """`error` with the file `source` in front of its message, if it does not stand there."""
    message = str(error)
    return error if message.startswith(str(source)) else ValueError(f"{source}: {message}")


def sizes_of(source: Path, shapes: dict[str, tuple[int, ...]]) -> Sizes:
    """Sizes of a text model, from the shapes of exactly its tensors in BlinkDL's format.

    Raises:
        ValueError: If they are not those of an RWKV-7 model; names the file `source`.
    """
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
    config = text_config_of(sizes, architectures=["RWKV7ForCausalLM"], dtype=dtype)
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    if sizes.vocab == WORLD_VOCAB_SIZE:
        RWKVWorldTokenizer().save_pretrained(folder)
    return sizes.vocab == WORLD_VOCAB_SIZE


def text_config_of(sizes: Sizes, **kwargs) -> RWKV7Config:
    """Configuration of a checkpoint; more of its fields may be given."""
    return RWKV7Config(
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
        learned_initial_state=sizes.has_initial_state,
        norm_eps=BLINKDL_NORM_EPS,
        group_norm_eps=None if sizes.head_dim * BLINKDL_NORM_EPS == BLINKDL_GROUP_NORM_EPS else BLINKDL_GROUP_NORM_EPS,
        **kwargs,
    )


def _read_config(folder: Path) -> dict:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: not a model folder, it holds no config.json")
    return read_json(folder / "config.json")


def tensors_in_blinkdl(folder: Path, found: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Sizes]:
    """The tensors of a text model in the fla format as they lie in a `.pth` file, and its sizes.

    Args:
        folder: Where they come from.
        found: By their names in the fla format, and in `.pth` files where that has no place for them.

    Raises:
        ValueError: If they are not those of an RWKV-7 model.
    """
    sizes = sizes_of(folder, shapes_in_blinkdl(folder, found))
    by_source = {entry.fla_name or name: (name, entry) for name, entry in all_entries(sizes).items()}
    tensors = {}
    for fla_name in (name for name in by_source if name in found):
        name, entry = by_source[fla_name]
        tensors[name] = entry.change.to_blinkdl(found[fla_name])
    return tensors, sizes


def check_epsilons(folder: Path, config: dict, sizes: Sizes) -> None:
    """Refuses a text model whose norms a `.pth` file has no place for.

    Raises:
        ValueError: If an epsilon is another than all who read such files take.
    """
    norm_eps = config.get("norm_eps", BLINKDL_NORM_EPS)
    found = {"norm_eps": norm_eps, "group_norm_eps": config.get("group_norm_eps") or sizes.head_dim * norm_eps}
    expected = {"norm_eps": BLINKDL_NORM_EPS, "group_norm_eps": BLINKDL_GROUP_NORM_EPS}
    for name, value in found.items():
        if not math.isclose(value, expected[name]):
            raise ValueError(f"{folder}: {name} is {value:g}, but all who read .pth files take {expected[name]:g}")


def shapes_in_blinkdl(folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of a folder will have in a `.pth` file, by the names there."""
    layers = 1 + max((int(found[1]) for name in tensors if (found := _LAYER.match(name))), default=-1)
    if not 0 < layers <= len(tensors):
        raise ValueError(f"{folder}: no RWKV-7 text model in the fla format, it holds no tensor model.layers.0.*")
    any_sizes = Sizes(layers, 0, 0, 0, 0, 0, 0, 0, 0, 0, has_initial_state=True)  # the names do not depend on the rest
    by_source = {entry.fla_name or name: (name, entry) for name, entry in all_entries(any_sizes).items()}
    shapes = {}
    for source_name, tensor in tensors.items():
        name, entry = by_source.get(source_name, (source_name, Entry(source_name, ())))
        shapes[name] = entry.change.shape_in_blinkdl(tuple(tensor.shape))
    return shapes

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Text models of every layout, as their tensors lie in BlinkDL's `.pth` files.

The layout is told by the names of tensors, sizes by their shapes; `config.json` gives the rest.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..configuration.other_layouts import to_our_fields
from ..modeling_rwkv7_world.blinkdl_names import (
    BLINKDL_GROUP_NORM_EPS,
    BLINKDL_NORM_EPS,
    Entry,
    Sizes,
    all_entries,
    sizes_of,
    text_config_of,
)
from ..modeling_rwkv7_world.checkpoint_files import open_weights, read_tensors
from ..modeling_rwkv7_world.checkpoint_layouts import MIXES, blinkdl_name_of
from .folder import open_folder, read_json
from .weights import Reader, Shape


# In a folder of its own: servers take every *.safetensors beside config.json for weights
EXTRA_FILE = "blinkdl/extra.safetensors"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FLA_NAME = re.compile(r"model\.layers\.\d+\.attn\.w_lora\.lora\.0\.weight")
UNUSED_VALUE_MIX = tuple(f"blocks.0.att.v{end}" for end in "012")
# Of `config.json`, what tensors do not tell and every layout may hold
_KEPT_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "initializer_range")


@dataclass(frozen=True)
class TextCheckpoint:
    """A text model by the names and in the shapes of BlinkDL's files.

    Attributes:
        source: Where it lies.
        sizes: Its sizes.
        shapes: Of every tensor.
        dtypes: Of every tensor.
        read: Gives name and tensor of those asked for, one by one.
        raw_config: Its `config.json`, whatever the layout; empty if there is none.
    """

    source: Path
    sizes: Sizes
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]
    read: Reader
    raw_config: dict

    def config(self, **kwargs) -> RWKV7Config:
        """Configuration of the model; more of its fields may be given."""
        fields = to_our_fields(self.raw_config)
        kept = {name: fields[name] for name in _KEPT_FIELDS if name in fields}
        if fields:
            norm_eps = fields.get("norm_eps", BLINKDL_NORM_EPS)
            kept |= {"norm_eps": norm_eps, "group_norm_eps": fields.get("group_norm_eps")}
        return text_config_of(self.sizes, **{"architectures": ["RWKV7ForCausalLM"], **kept, **kwargs})

    def check_epsilons(self) -> None:
        """Refuses a model whose norms a `.pth` file has no place for; see [`check_epsilons`]."""
        check_epsilons(self.source, self.config().to_dict(), self.sizes)


def open_text_checkpoint(source: str | os.PathLike[str]) -> TextCheckpoint:
    """Opens a text model of any layout: nothing but names, shapes and dtypes is read before it is asked for.

    Args:
        source: A `.pth` file; a `.safetensors` file with the names of the official layout or BlinkDL's; a folder with
            `model.safetensors`, or shards of it with their index, in the fla, official, Goose or BlinkDL's layout.

    Raises:
        ValueError: If it is none of RWKV-7, damaged, or not only tensors; or a tensor is missing, unknown or of
            another shape.
        OSError: If something cannot be read.
    """
    source = absolute(source)
    is_pth = not source.is_dir() and source.suffix != ".safetensors"
    tensors, raw_config = _open_folder(source) if source.is_dir() else (open_weights(source), {})
    if source.is_file() and not is_pth:
        tensors = {blinkdl_name_of(name): tensor for name, tensor in tensors.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = sizes_of(source, shapes)
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    # A `.pth` file is mapped anew from time to time, so that memory does not grow with it
    read = partial(read_tensors, source) if is_pth else partial(_named, tensors)
    return TextCheckpoint(source, sizes, shapes, dtypes, read, raw_config)


def _with_single_mixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Older fla files hold the six mixes of a time mix in one tensor, (6, hidden)."""
    single = {}
    for name, tensor in tensors.items():
        if name.endswith(".attn.x_x") and tensor.shape[0] == len(MIXES):
            rows = zip(MIXES, tensor, strict=True)
            single |= {f"{name.removesuffix('x')}{s}": row.reshape(1, 1, -1) for s, row in rows}
        else:
            single[name] = tensor
    return single


def _named(tensors: dict[str, torch.Tensor], names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, tensors[name]) for name in names)


def _open_folder(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a folder by their names in `.pth` files, and its configuration."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    found = open_folder(folder, EXTRA_FILE)
    if config.get("tie_word_embeddings"):
        for embeddings, head in (("model.embeddings", "lm_head"), ("rwkv7.emb", "head"), ("emb", "head")):
            if f"{embeddings}.weight" in found:
                found.setdefault(f"{head}.weight", found[f"{embeddings}.weight"])
    if any(map(_FLA_NAME.fullmatch, found)):
        if not config:
            raise ValueError(f"{folder}: not a model folder, it holds no config.json")
        return tensors_in_blinkdl(folder, _with_single_mixes(found), config)[0], config
    if not any(re.search(r"(^|\.)(blocks|layers)\.\d+\.", name) for name in found):
        raise ValueError(f"{folder}: no RWKV-7 text model of any layout, it holds no tensor of a layer")
    tensors = {blinkdl_name_of(name): tensor for name, tensor in found.items()}
    unused = [tensors[name] for name in UNUSED_VALUE_MIX if name in tensors]
    if any(name.startswith("rwkv7.") for name in found) and not any(tensor.any() for tensor in unused):
        for name in UNUSED_VALUE_MIX:  # zeros that the official layout puts where a file had none
            tensors.pop(name, None)
    return tensors, config


def absolute(path: str | os.PathLike[str]) -> Path:
    """`path` from the root, without `~`."""
    return Path(os.path.abspath(Path(path).expanduser()))


def naming(source: Path, error: ValueError) -> ValueError:
    """`error` with the file `source` in front of its message, if it does not stand there."""
    message = str(error)
    return error if message.startswith(str(source)) else ValueError(f"{source}: {message}")


def tensors_in_blinkdl(
    folder: Path, found: dict[str, torch.Tensor], config: dict
) -> tuple[dict[str, torch.Tensor], Sizes]:
    """The tensors of a text model in the fla format as they lie in a `.pth` file, and its sizes.

    Args:
        folder: Where they come from.
        found: By their names in the fla format, and in `.pth` files where that has no place for them.
        config: The configuration of the text model, which tells what shapes do not.

    Raises:
        ValueError: If they are not those of an RWKV-7 model.
    """
    sizes = sizes_of(folder, shapes_in_blinkdl(folder, found, config))
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


def shapes_in_blinkdl(folder: Path, tensors: dict[str, torch.Tensor], config: dict) -> dict[str, tuple[int, ...]]:
    """The shapes that the tensors of a folder will have in a `.pth` file, by the names there."""
    layers = 1 + max((int(found[1]) for name in tensors if (found := _LAYER.match(name))), default=-1)
    if not 0 < layers <= len(tensors):
        raise ValueError(f"{folder}: no RWKV-7 text model in the fla format, it holds no tensor model.layers.0.*")
    # The names do not depend on the other sizes
    any_sizes = Sizes(
        layers,
        *[0] * 9,
        has_initial_state=True,
        deep_embed=0,
        deep_attn=0,
        deep_attn_rank=0,
        row_vectors=tuple(config.get("blinkdl_row_vectors") or ()),
    )
    by_source = {entry.fla_name or name: (name, entry) for name, entry in all_entries(any_sizes).items()}
    shapes = {}
    for source_name, tensor in tensors.items():
        name, entry = by_source.get(source_name, (source_name, Entry(source_name, ())))
        shapes[name] = entry.change.shape_in_blinkdl(tuple(tensor.shape))
    return shapes

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of RWKV-7 in BlinkDL's `.pth` files, and what each tensor is called in the fla format.

Every size is read from the shapes of a checkpoint, never computed: the published models follow no one formula.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch

from ..configuration.configuration_rwkv7 import RWKV7Config


class Change(Enum):
    """How a tensor of a `.pth` file becomes the parameter of the fla format."""

    NONE = "none"
    FLATTEN = "flatten"  # (1, 1, C) -> (C,)
    TRANSPOSE = "transpose"  # used as x @ w -> weight of a Linear

    def to_fla(self, tensor: torch.Tensor) -> torch.Tensor:
        if self is Change.FLATTEN:
            return tensor.flatten()
        return tensor.t().contiguous() if self is Change.TRANSPOSE else tensor

    def to_blinkdl(self, tensor: torch.Tensor) -> torch.Tensor:
        if self is Change.FLATTEN:
            return tensor.view(1, 1, -1)
        return tensor.t().contiguous() if self is Change.TRANSPOSE else tensor

    def shape_in_blinkdl(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape in the `.pth` file of a parameter of shape `shape`."""
        if self is Change.FLATTEN:
            return (1, 1, *shape)
        return shape[::-1] if self is Change.TRANSPOSE else shape


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint."""

    layers: int
    vocab: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int
    decay_rank: int
    a_rank: int
    v_rank: int | None  # of a model with one layer, which has no value mix
    gate_rank: int
    has_initial_state: bool = False  # whether a state from state tuning was merged into it
    deep_embed: int | None = None  # side of the matrices of RWKV-7a
    deep_attn: int | None = None  # width of the queries of RWKV-7b
    deep_attn_rank: int | None = None
    row_vectors: tuple[str, ...] = ()  # of RWKV-7a, those of shape (1, 1, size), by their names in a block


@dataclass(frozen=True)
class Entry:
    """One tensor: its name in the fla format, its shape in the `.pth` file, and what lies between the two.

    `fla_name` is `None` for a tensor that the fla format has no place for; it may be missing.
    """

    fla_name: str | None
    shape: tuple[int, ...]
    change: Change = Change.NONE


BLINKDL_NORM_EPS, BLINKDL_GROUP_NORM_EPS = 1e-5, 64e-5  # a `.pth` file has no place for others

RENAMED_PARTS = {
    "emb": "model.embeddings",
    "ln_out": "model.norm",
    "head": "lm_head",
    "ln0": "pre_norm",
    "ln1": "attn_norm",
    "ln2": "ffn_norm",
    "att": "attn",
    "receptance": "r_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "ln_x": "g_norm",
}
DEEP_EMBED = r"blocks\.\d+\.ffn\.(s_emb|s_emb_x|s[012])(\..*)?"  # names that only RWKV-7a and 7b have
DEEP_ATTN = r"blocks\.\d+\.qkv\..*"  # names that only RWKV-7b has
DEEP_EMBED_VECTORS = ("ffn.s0", "qkv.x_q", "qkv.x_k", "qkv.x_v")
DEEP_ATTN_PARTS = {"qkv": "deep_embed_attn", "qq": "q_proj", "lnq": "q_norm", "lnk": "k_norm", "lnv": "v_norm"}
LOW_RANK_ENDS = {"0": "lora.2.bias", "1": "lora.0.weight", "2": "lora.2.weight"}

# What names tell of files that are no plain RWKV-7 model, the most telling first
_FOREIGN_NAMES = [
    (r".*\.ffn\.enn(\..*)?|.*\.qkv\.(kk|vv|ennk|emm).*|.*\.rosa.*", "an RWKV-8 model, which is not supported"),
    (r".*\.att\.time_maa_.*", "an RWKV-6 model, expected RWKV-7"),
    (r".*\.att\.time_mix_g|.*\.att\.time_faaaa", "an RWKV-5 model, expected RWKV-7"),
    (r".*\.att\.time_(decay|first|mix_\w)", "an RWKV-4 or RWKV-5 model, expected RWKV-7"),
    (r"(modality|llm|proj|encoder|language_model|speech_encoder)\..*", "a multimodal checkpoint, not a text model"),
    (r".*\.(lora_[AB]|bone|miss|disha)(\..*)?", "a PEFT adapter, or a model with one not merged"),
]


def fla_name_of(name: str) -> str:
    """Name in the fla format of a tensor that both formats have.

    >>> fla_name_of("blocks.3.att.w1")
    'model.layers.3.attn.w_lora.lora.0.weight'
    """
    if not name.startswith("blocks."):
        part, end = name.split(".")
        return f"{RENAMED_PARTS[part]}.{end}"
    _, layer, *parts = name.split(".")
    low_rank = re.fullmatch(r"([wavgsk])([012])", parts[-1])
    if low_rank:
        parts[-1] = f"{low_rank[1]}_lora.{LOW_RANK_ENDS[low_rank[2]]}"
    if parts[0] == "ffn":
        place = "ffn.deep_embed." if parts[1].startswith("s_") else "ffn."
        return f"model.layers.{layer}.{place}" + ".".join(parts[1:])
    renamed = RENAMED_PARTS | DEEP_ATTN_PARTS
    return f"model.layers.{layer}." + ".".join(renamed.get(part, part) for part in parts)


def all_entries(sizes: Sizes) -> dict[str, Entry]:
    """Every tensor of a checkpoint of these sizes, by its name in the `.pth` file."""
    entries = {"emb.weight": Entry("model.embeddings.weight", (sizes.vocab, sizes.hidden))}
    for layer in range(sizes.layers):
        entries |= _layer_entries(sizes, layer)
    entries |= _norm("ln_out", sizes)
    entries["head.weight"] = Entry("lm_head.weight", (sizes.vocab, sizes.hidden))
    return entries


def _layer_entries(sizes: Sizes, layer: int) -> dict[str, Entry]:
    hidden, ffn = sizes.hidden, sizes.ffn
    block, att = f"blocks.{layer}.", f"blocks.{layer}.att."
    entries = {}
    for norm in ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
        entries |= _norm(block + norm, sizes)
    entries |= {f"{att}x_{s}": _entry(f"{att}x_{s}", (1, 1, hidden)) for s in "rwkvag"}
    ranks = {"w": sizes.decay_rank, "a": sizes.a_rank, "v": sizes.v_rank, "g": sizes.gate_rank}
    for s, rank in ranks.items():
        if rank is not None:
            entries |= _low_rank(att + s, rank, hidden, has_place=s != "v" or layer > 0)
    for s in ("k_k", "k_a"):
        entries[att + s] = _entry(att + s, (1, 1, hidden), Change.FLATTEN)
    entries[att + "r_k"] = _entry(att + "r_k", (sizes.heads, sizes.head_dim))
    for s in ("receptance", "key", "value", "output"):
        entries[f"{att}{s}.weight"] = _entry(f"{att}{s}.weight", (hidden, hidden))
    entries |= _norm(att + "ln_x", sizes)
    if sizes.has_initial_state:
        fla_name = f"model.layers.{layer}.attn.initial_state.weight"
        entries[att + "time_state"] = Entry(fla_name, (sizes.heads, sizes.head_dim, sizes.head_dim))
    entries[f"{block}ffn.x_k"] = _entry(f"{block}ffn.x_k", (1, 1, hidden), Change.FLATTEN)
    entries[f"{block}ffn.key.weight"] = _entry(f"{block}ffn.key.weight", (ffn, hidden))
    entries[f"{block}ffn.value.weight"] = _entry(f"{block}ffn.value.weight", (hidden, ffn))
    if sizes.deep_embed is not None:
        entries |= _deep_embed(block, sizes, sizes.deep_embed)
    if sizes.deep_attn is not None:
        entries |= _deep_attn(f"{block}qkv.", sizes, sizes.deep_attn, sizes.deep_attn_rank)
    return entries


def _deep_embed(block: str, sizes: Sizes, side: int) -> dict[str, Entry]:
    """What RWKV-7a has more in a layer."""
    name = f"{block}ffn.s"
    return {
        f"{name}_emb.weight": _entry(f"{name}_emb.weight", (sizes.vocab, side**2)),
        f"{name}_emb_x.weight": _entry(f"{name}_emb_x.weight", (side**2, sizes.hidden)),
        f"{name}1": _entry(f"{name}1", (sizes.hidden, side), Change.TRANSPOSE),
        f"{name}2": _entry(f"{name}2", (side, sizes.ffn), Change.TRANSPOSE),
        f"{name}0": _deep_vector(f"{name}0", sizes.ffn, sizes),
    }


def _deep_attn(prefix: str, sizes: Sizes, width: int, rank: int) -> dict[str, Entry]:
    """What RWKV-7b has besides in a layer."""
    hidden = sizes.hidden
    entries = {f"{prefix}qq.weight": _entry(f"{prefix}qq.weight", (width, hidden))}
    for s, size in (("k", width), ("v", hidden)):
        entries |= {
            f"{prefix}{s}1": _entry(f"{prefix}{s}1", (hidden, rank), Change.TRANSPOSE),
            f"{prefix}{s}2": _entry(f"{prefix}{s}2", (rank, size), Change.TRANSPOSE),
            f"{prefix}{s}_emb.weight": _entry(f"{prefix}{s}_emb.weight", (sizes.vocab, size)),
            f"{prefix}{s}_emb_x.weight": _entry(f"{prefix}{s}_emb_x.weight", (size, hidden)),
        }
    for s, size in (("q", width), ("k", width), ("v", hidden)):
        entries[f"{prefix}x_{s}"] = _deep_vector(f"{prefix}x_{s}", size, sizes)
        entries |= {f"{prefix}ln{s}.{end}": _entry(f"{prefix}ln{s}.{end}", (size,)) for end in ("weight", "bias")}
    return entries


def _deep_vector(name: str, size: int, sizes: Sizes) -> Entry:
    if name.split(".", 2)[2] in sizes.row_vectors:
        return _entry(name, (1, 1, size), Change.FLATTEN)
    return _entry(name, (size,))


def _entry(name: str, shape: tuple[int, ...], change: Change = Change.NONE) -> Entry:
    return Entry(fla_name_of(name), shape, change)


def _norm(name: str, sizes: Sizes) -> dict[str, Entry]:
    return {f"{name}.{end}": _entry(f"{name}.{end}", (sizes.hidden,)) for end in ("weight", "bias")}


def _low_rank(name: str, rank: int, hidden: int, has_place: bool) -> dict[str, Entry]:
    """Bias and both matrices of a low-rank map; the value mix of layer 0 is unused and has no place."""
    entries = {
        f"{name}0": ((1, 1, hidden), Change.FLATTEN),
        f"{name}1": ((hidden, rank), Change.TRANSPOSE),
        f"{name}2": ((rank, hidden), Change.TRANSPOSE),
    }
    if name.endswith("g"):
        del entries[f"{name}0"]
    if not has_place:
        return {name: Entry(None, shape) for name, (shape, _) in entries.items()}
    return {name: _entry(name, shape, change) for name, (shape, change) in entries.items()}


def read_sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """The sizes of a checkpoint from the shapes in its `.pth` form.

    Raises:
        ValueError: If it is no RWKV-7 text model, or a tensor that tells a size is missing or has another rank.
    """
    refuse_foreign_names(shapes)
    layers = [int(name.split(".")[1]) for name in shapes if re.match(r"blocks\.\d+\.", name)]
    if not layers:
        raise ValueError("no RWKV-7 checkpoint: it holds no tensor blocks.0.*")

    def size(name: str, axis: int, dims: int = 2) -> int:
        if name not in shapes:
            raise ValueError(f"the tensor {name} is missing")
        if len(shapes[name]) != dims:
            raise ValueError(f"{name} has the shape {tuple(shapes[name])}, expected {dims} dimensions")
        return shapes[name][axis]

    has_attn = any(re.fullmatch(DEEP_ATTN, name) for name in shapes)
    has_embed = has_attn or any(re.fullmatch(DEEP_EMBED, name) for name in shapes)
    value_mix = next((f"blocks.{layer}.att.v1" for layer in (1, 0) if f"blocks.{layer}.att.v1" in shapes), None)
    if value_mix is None and max(layers) > 0:
        raise ValueError("the tensor blocks.1.att.v1 is missing")
    return Sizes(
        layers=max(layers) + 1,
        vocab=size("emb.weight", 0),
        hidden=size("emb.weight", 1),
        heads=size("blocks.0.att.r_k", 0),
        head_dim=size("blocks.0.att.r_k", 1),
        ffn=size("blocks.0.ffn.key.weight", 0),
        decay_rank=size("blocks.0.att.w1", 1),
        a_rank=size("blocks.0.att.a1", 1),
        v_rank=value_mix and size(value_mix, 1),
        gate_rank=size("blocks.0.att.g1", 1),
        has_initial_state=any(name.endswith(".att.time_state") for name in shapes),
        deep_embed=size("blocks.0.ffn.s1", 1) if has_embed else None,
        deep_attn=size("blocks.0.qkv.qq.weight", 0) if has_attn else None,
        deep_attn_rank=size("blocks.0.qkv.k1", 1) if has_attn else None,
        row_vectors=tuple(name for name in DEEP_EMBED_VECTORS if len(shapes.get(f"blocks.0.{name}", ())) == 3),
    )


def refuse_foreign_names(names: Iterable[str]) -> None:
    """Refuses files that hold something else, by the names in them.

    Raises:
        ValueError: Says what the file is, and names the tensor that tells.
    """
    names = list(names)
    if names and all(name.endswith(".att.time_state") for name in names):
        raise ValueError("a trained state, not a model: load it with rwkv7_world.state.load_trained_state")
    for pattern, meaning in _FOREIGN_NAMES:
        for name in names:
            if re.fullmatch(pattern, name):
                raise ValueError(f"{meaning} (it holds the tensor {name})")


def check_shapes(shapes: Mapping[str, tuple[int, ...]], sizes: Sizes) -> None:
    """Checks that a checkpoint holds exactly the tensors of an RWKV-7 model of `sizes`, each of its shape.

    Raises:
        ValueError: Names the first tensor that is missing, unknown, or of another shape.
    """
    if sizes.heads * sizes.head_dim != sizes.hidden:
        shape = (sizes.heads, sizes.head_dim)
        raise ValueError(f"blocks.0.att.r_k has the shape {shape}, which does not make {sizes.hidden} channels")
    if sizes.layers > len(shapes):  # before a table of that many layers is made
        raise ValueError(f"{len(shapes)} tensors cannot make the {sizes.layers} layers that their names tell of")
    entries = all_entries(sizes)
    missing = [name for name, entry in entries.items() if entry.fla_name is not None and name not in shapes]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"the tensor {missing[0]} is missing{more}")
    unknown = sorted(shapes.keys() - entries.keys())
    if unknown:
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ValueError(f"unexpected tensor {unknown[0]} in RWKV-7{more}")
    for name, shape in shapes.items():
        if tuple(shape) != entries[name].shape:
            raise ValueError(f"{name} has the shape {tuple(shape)}, expected {entries[name].shape}")


def sizes_of(source: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
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


def text_config_of(sizes: Sizes, **kwargs) -> RWKV7Config:
    """Configuration of a checkpoint; more of its fields may be given."""
    follows = sizes.head_dim * BLINKDL_NORM_EPS == BLINKDL_GROUP_NORM_EPS
    group_norm_eps = None if follows else BLINKDL_GROUP_NORM_EPS
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
        deep_embed_dim=sizes.deep_embed,
        deep_embed_attn_dim=sizes.deep_attn,
        deep_embed_attn_low_rank_dim=sizes.deep_attn_rank,
        blinkdl_row_vectors=list(sizes.row_vectors) or None,
        **{"norm_eps": BLINKDL_NORM_EPS, "group_norm_eps": group_norm_eps, **kwargs},
    )

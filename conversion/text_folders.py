# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Text models of every layout to folders: ours, and those of others' code.

What the fla format has no place for (the unused value mix of layer 0) is kept under its own name in `EXTRA_FILE` of
the folder, where nothing but the way back looks for it. A state from state tuning that was merged into the checkpoint
becomes the learned initial state of the model.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from ..configuration.other_layouts import FLA, OFFICIAL, default_ranks, layout_of
from ..modeling_rwkv7_world.blinkdl_names import all_entries
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from ..processing.world_vocabulary import VOCABULARY_FILE_NAME
from .blinkdl import Conversion
from .folder import progress_bar
from .output import whole_folder
from .text_checkpoint import EXTRA_FILE, UNUSED_VALUE_MIX, TextCheckpoint, absolute, open_text_checkpoint
from .weights import Weight, make_plan, read_plan, write_plan


WORLD_VOCAB_SIZE = 65536
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    VOCABULARY_FILE_NAME,
    "chat_template.jinja",
)
# Fields of `config.json` that have a meaning for fla's class
_FLA_FIELDS = (
    *("architectures", "model_type", "dtype", "attn", "a_low_rank_dim", "decay_low_rank_dim", "gate_low_rank_dim"),
    *("v_low_rank_dim", "head_dim", "num_heads", "hidden_act", "hidden_ratio", "hidden_size", "intermediate_size"),
    *("initializer_range", "max_position_embeddings", "norm_bias", "norm_eps", "norm_first", "num_hidden_layers"),
    *("tie_word_embeddings", "use_cache", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
)
_OFFICIAL_FIELDS = (
    *("model_type", "dtype", "vocab_size", "hidden_size", "num_hidden_layers", "head_dim", "num_heads"),
    *("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim", "intermediate_size", "norm_eps"),
    *("norm_bias", "tie_word_embeddings", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def convert_to_hub(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> Conversion:
    """Writes a text model of any layout as a folder that `RWKV7ForCausalLM.from_pretrained` loads.

    The folder holds config.json, generation_config.json, the weights, and for models of 65536 tokens the World
    tokenizer. Of a `.pth` file no more than one shard and about half a gigabyte is in memory at once.

    Args:
        source: What [`open_text_checkpoint`] takes.
        destination: A new or empty folder. If anything fails it is left as it was.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the source is none of RWKV-7, damaged, or not only tensors; if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    checkpoint = open_text_checkpoint(source)

    def write_config(folder: Path, written: torch.dtype) -> None:
        checkpoint.config(dtype=written).save_pretrained(folder)

    return _write_fla_tensors(checkpoint, destination, write_config, dtype, max_shard_size, show_progress)


def convert_to_fla(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> Conversion:
    """As [`convert_to_hub`], with nothing of ours in the folder: for fla's own class, vLLM, SGLang and llama.cpp.

    Raises:
        ValueError: As `convert_to_hub`, and if the model has something that fla's class has not.
        OSError: If something cannot be read or written.
    """
    checkpoint = open_text_checkpoint(source)
    _check_plain(checkpoint, "the fla format")

    def write_config(folder: Path, written: torch.dtype) -> None:
        config = checkpoint.config(dtype=written).to_dict()
        fields = {name: config[name] for name in _FLA_FIELDS} | {"attn_mode": "chunk", "fuse_norm": True}
        _write_json(folder / CONFIG_NAME, fields)

    return _write_fla_tensors(checkpoint, destination, write_config, dtype, max_shard_size, show_progress)


def convert_to_official(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> Conversion:
    """Writes a text model of any layout in that of `RWKV/RWKV7-<size>-<date>`, for its class `Rwkv7ForCausalLM`.

    That class's code is not written: it is transformers' own, or comes from such a repository.

    Raises:
        ValueError: As `convert_to_hub`, and if the model has something that this class has not.
        OSError: If something cannot be read or written.
    """
    checkpoint = open_text_checkpoint(source)
    _check_plain(checkpoint, "the official layout")
    sizes, destination = checkpoint.sizes, absolute(destination)
    v_rank = sizes.v_rank or default_ranks(OFFICIAL, sizes.hidden)["v_low_rank_dim"]
    shapes = dict(
        zip(UNUSED_VALUE_MIX, ((1, 1, sizes.hidden), (sizes.hidden, v_rank), (v_rank, sizes.hidden)), strict=True)
    )
    zeros = {
        name: Weight(None, tensor=torch.zeros(shape, dtype=checkpoint.dtypes["emb.weight"]))
        for name, shape in shapes.items()
    }
    weights = zeros | {name: Weight(name) for name in checkpoint.dtypes}
    weights = {name if name.startswith("head.") else f"rwkv7.{name}": weight for name, weight in weights.items()}
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    with whole_folder(destination) as folder, progress_bar(sum(plan.stored.values()), show_progress) as bar:
        write_plan(plan, folder, checkpoint.read, bar, max_shard_size, checkpoint.source)
        config = checkpoint.config(dtype=plan.dtypes["rwkv7.emb.weight"]).to_dict() | {"v_low_rank_dim": v_rank}
        fields = {name: config[name] for name in _OFFICIAL_FIELDS} | {"architectures": ["Rwkv7ForCausalLM"]}
        _write_json(folder / CONFIG_NAME, fields | {"wkv_state_dtype": "float32", "wkv_implementation": "eager"})
        has_tokenizer = _save_companions(folder, checkpoint)
    return Conversion(sizes, sum(plan.numbers.values()), plan.written_dtypes, has_tokenizer=has_tokenizer)


def _check_plain(checkpoint: TextCheckpoint, layout: str) -> None:
    """Refuses a model of which a layout has no place for something."""
    config = checkpoint.config()
    if config.deep_embed_dim is not None:
        kind = "an RWKV-7a model (DeepEmbed)" if config.deep_embed_attn_dim is None else "an RWKV-7b model (DEA)"
        raise ValueError(f"{checkpoint.source}: {kind}, which {layout} has no place for")
    if config.learned_initial_state:
        raise ValueError(f"{checkpoint.source}: starts from a learned state, which {layout} has no place for")
    expected = config.head_dim * config.norm_eps
    if not math.isclose(config.group_norm_eps or expected, expected):
        raise ValueError(
            f"{checkpoint.source}: group_norm_eps is {config.group_norm_eps:g}, but {layout} takes "
            f"head_dim * norm_eps, here {expected:g}"
        )


def _write_fla_tensors(
    checkpoint: TextCheckpoint,
    destination: str | os.PathLike[str],
    write_config: Callable[[Path, torch.dtype], None],
    dtype: torch.dtype | None,
    max_shard_size: int | str,
    show_progress: bool,
) -> Conversion:
    entries = {name: entry for name, entry in all_entries(checkpoint.sizes).items() if name in checkpoint.dtypes}
    kept_aside = [name for name, entry in entries.items() if entry.fla_name is None]
    weights = {
        entry.fla_name: Weight(name, entry.change.to_fla) for name, entry in entries.items() if name not in kept_aside
    }
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    aside = make_plan({name: Weight(name) for name in kept_aside}, checkpoint.shapes, checkpoint.dtypes, None)
    total = sum(plan.stored.values()) + sum(aside.stored.values())
    with whole_folder(absolute(destination)) as folder, progress_bar(total, show_progress) as bar:
        write_plan(plan, folder, checkpoint.read, bar, max_shard_size, checkpoint.source)
        if kept_aside:
            (folder / EXTRA_FILE).parent.mkdir()
            save_file(read_plan(aside, kept_aside, checkpoint.read, bar), folder / EXTRA_FILE)
        write_config(folder, plan.dtypes["model.embeddings.weight"])
        has_tokenizer = _save_companions(folder, checkpoint)
    numbers = sum(plan.numbers.values()) + sum(aside.numbers.values())
    written = tuple(sorted({*plan.written_dtypes, *aside.written_dtypes}, key=str))
    return Conversion(checkpoint.sizes, numbers, written, tuple(kept_aside), has_tokenizer)


def _write_json(path: Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save_companions(folder: Path, checkpoint: TextCheckpoint) -> bool:
    """Writes generation defaults and the tokenizer; whether there is one.

    Those of a source folder are kept, but for tokenizers of World in other layouts: ours gives the same ids, and
    leaves special strings in what users say alone.
    """
    source, is_world = checkpoint.source, checkpoint.sizes.vocab == WORLD_VOCAB_SIZE
    if (source / GENERATION_CONFIG_NAME).is_file():
        shutil.copyfile(source / GENERATION_CONFIG_NAME, folder / GENERATION_CONFIG_NAME)
    else:
        GenerationConfig.from_model_config(checkpoint.config()).save_pretrained(folder)
    has_own = (source / "tokenizer.json").is_file()
    if has_own and (not is_world or layout_of(checkpoint.raw_config) == FLA):
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    elif is_world:
        RWKVWorldTokenizer().save_pretrained(folder)
    return has_own or is_world

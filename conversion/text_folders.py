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
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from ..configuration.other_layouts import FLA, OFFICIAL, default_ranks, layout_of
from ..modeling_rwkv7_world.blinkdl_names import all_entries
from ..processing.text_chat_formats import CHAT_FORMATS, chat_format_of, check_chat_format
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from ..processing.world_vocabulary import VOCABULARY_FILE_NAME
from .blinkdl import Conversion
from .folder import progress_bar, read_json
from .output import whole_folder
from .text_checkpoint import EXTRA_FILE, UNUSED_VALUE_MIX, TextCheckpoint, absolute, open_text_checkpoint
from .weights import Weight, make_plan, place_in, read_plan, write_plan


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


@dataclass(frozen=True)
class TextConversion(Conversion):
    """What was converted; `template` is the chat template that was written, a key of `CHAT_FORMATS`, if one was."""

    template: str | None = None


def convert_to_hub(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
    template: str | None = None,
) -> TextConversion:
    """Writes a text model of any layout as a folder that `RWKV7ForCausalLM.from_pretrained` loads.

    The folder holds config.json, generation_config.json, the weights, and for models of 65536 tokens the World
    tokenizer. Of a `.pth` file no more than one shard and about half a gigabyte is in memory at once.

    Args:
        source: What [`open_text_checkpoint`] takes.
        destination: A new or empty folder. If anything fails it is left as it was.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.
        template: How the model talks, a key of `CHAT_FORMATS`. By default a folder in the fla format keeps what it
            has, the official layout is `g1i`, and of others the name tells. With it come settings of sampling.

    Raises:
        ValueError: If the source is none of RWKV-7, damaged, or not only tensors; if `destination` is taken; if there
            is no such template, or the vocabulary is not World's.
        OSError: If something cannot be read or written.
    """
    checkpoint = open_text_checkpoint(source)

    def write_config(folder: Path, written: torch.dtype) -> None:
        checkpoint.config(dtype=written).save_pretrained(folder)

    companions = _Companions(checkpoint, template, stops=True)
    return _write_fla_tensors(checkpoint, destination, write_config, companions, dtype, max_shard_size, show_progress)


def convert_to_fla(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
    template: str | None = None,
) -> TextConversion:
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

    companions = _Companions(checkpoint, template)
    return _write_fla_tensors(checkpoint, destination, write_config, companions, dtype, max_shard_size, show_progress)


def convert_to_official(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
    template: str | None = None,
) -> TextConversion:
    """Writes a text model of any layout in that of `RWKV/RWKV7-<size>-<date>`, for its class `Rwkv7ForCausalLM`.

    That class's code is not written: it is transformers' own, or comes from such a repository.

    Raises:
        ValueError: As `convert_to_hub`, and if the model has something that this class has not.
        OSError: If something cannot be read or written.
    """
    checkpoint = open_text_checkpoint(source)
    _check_plain(checkpoint, "the official layout")
    companions = _Companions(checkpoint, template, presets=False)  # its own builder writes none
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
        write_plan(plan, folder, checkpoint.read, bar, max_shard_size, place_in(checkpoint.source))
        config = checkpoint.config(dtype=plan.dtypes["rwkv7.emb.weight"]).to_dict() | {"v_low_rank_dim": v_rank}
        fields = {name: config[name] for name in _OFFICIAL_FIELDS} | {"architectures": ["Rwkv7ForCausalLM"]}
        _write_json(folder / CONFIG_NAME, fields | {"wkv_state_dtype": "float32", "wkv_implementation": "eager"})
        companions.save(folder)
    numbers = sum(plan.numbers.values())
    return TextConversion(sizes, numbers, plan.written_dtypes, (), companions.has_tokenizer, companions.template)


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
    companions: "_Companions",
    dtype: torch.dtype | None,
    max_shard_size: int | str,
    show_progress: bool,
) -> TextConversion:
    entries = {name: entry for name, entry in all_entries(checkpoint.sizes).items() if name in checkpoint.dtypes}
    kept_aside = [name for name, entry in entries.items() if entry.fla_name is None]
    weights = {
        entry.fla_name: Weight(name, entry.change.to_fla) for name, entry in entries.items() if name not in kept_aside
    }
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    aside = make_plan({name: Weight(name) for name in kept_aside}, checkpoint.shapes, checkpoint.dtypes, None)
    total = sum(plan.stored.values()) + sum(aside.stored.values())
    with whole_folder(absolute(destination)) as folder, progress_bar(total, show_progress) as bar:
        write_plan(plan, folder, checkpoint.read, bar, max_shard_size, place_in(checkpoint.source))
        if kept_aside:
            (folder / EXTRA_FILE).parent.mkdir()
            save_file(read_plan(aside, kept_aside, checkpoint.read, bar), folder / EXTRA_FILE)
        write_config(folder, plan.dtypes["model.embeddings.weight"])
        companions.save(folder)
    numbers = sum(plan.numbers.values()) + sum(aside.numbers.values())
    written = tuple(sorted({*plan.written_dtypes, *aside.written_dtypes}, key=str))
    return TextConversion(
        checkpoint.sizes, numbers, written, tuple(kept_aside), companions.has_tokenizer, companions.template
    )


def _write_json(path: Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _Companions:
    """What a folder holds beside the weights: generation defaults, the tokenizer and its chat template.

    Those of a source folder are kept, but for tokenizers of World in other layouts: ours gives the same ids, and
    leaves special strings in what users say alone.

    Args:
        checkpoint: The model.
        template: Key of `CHAT_FORMATS`, if one was asked for.
        presets: Whether settings of sampling come with a template.
        stops: Whether what ends an answer does: `generate` of other classes than ours asks for a tokenizer then.

    Attributes:
        template: Key of `CHAT_FORMATS` that is written; `None` if what there is stays.
        has_tokenizer: Whether the folder gets a tokenizer.

    Raises:
        ValueError: If the template cannot be written.
    """

    def __init__(self, checkpoint: TextCheckpoint, template: str | None, presets: bool = True, stops: bool = False):
        self.checkpoint, self.presets, self.stops = checkpoint, presets, stops
        self.was_asked_for = template is not None
        source, vocab = checkpoint.source, checkpoint.sizes.vocab
        layout, is_world = layout_of(checkpoint.raw_config), vocab == WORLD_VOCAB_SIZE
        has_own = (source / "tokenizer.json").is_file()
        self.keeps_own = has_own and (not is_world or layout == FLA)
        self.has_tokenizer = has_own or is_world
        if self.was_asked_for:
            check_chat_format(template)
            if not is_world:
                raise ValueError(
                    f"{source}: template {template} is for World's vocabulary, this one has {vocab} tokens"
                )
        elif is_world and not self.keeps_own:
            template = "g1i" if layout == OFFICIAL else chat_format_of(source)
        self.template = template

    def save(self, folder: Path) -> None:
        """Writes all of it into `folder`."""
        source = self.checkpoint.source
        if self.keeps_own:
            for name in TOKENIZER_FILES:
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        if self.template is not None:
            if self.keeps_own:
                tokenizer = RWKVWorldTokenizer.from_pretrained(folder)
                tokenizer.chat_template = CHAT_FORMATS[self.template].template
                tokenizer.response_template = CHAT_FORMATS[self.template].response_template
            else:
                tokenizer = RWKVWorldTokenizer.for_chat(self.template)
            tokenizer.save_pretrained(folder)
        self._save_generation_config(folder)

    def _save_generation_config(self, folder: Path) -> None:
        given = self.checkpoint.source / GENERATION_CONFIG_NAME
        fields = read_json(given) if given.is_file() else {}
        if not self.stops and fields.get("stop_strings") in [[each.stop_string] for each in CHAT_FORMATS.values()]:
            del fields["stop_strings"]
        elif given.is_file() and (self.template is None or not self.presets):
            shutil.copyfile(given, folder / GENERATION_CONFIG_NAME)
            return
        fields = GenerationConfig.from_model_config(self.checkpoint.config()).to_diff_dict() | fields
        if self.template is not None and self.presets:
            chat_format = CHAT_FORMATS[self.template]
            fields = fields | chat_format.sampling if self.was_asked_for else chat_format.sampling | fields
            fields["eos_token_id"] = chat_format.eos_token_id
            if self.stops:
                fields["stop_strings"] = [chat_format.stop_string]
        GenerationConfig(**fields).save_pretrained(folder)

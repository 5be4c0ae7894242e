# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Loads the other layouts of RWKV-7 by transformers' own checkpoint conversion, and refuses what is not loaded whole.

BlinkDL's names (`blocks.0.att.receptance.weight`) stand bare in files of his, behind `rwkv7.` in the official layout
and behind `model.` in others; the Goose layout spells some parts out. No rule is for names of the fla format.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, Transpose, WeightConverter, WeightRenaming, WeightTransform

from ..configuration.configuration_rwkv7 import RWKV7Config
from .blinkdl_names import (
    DEEP_ATTN_PARTS,
    LOW_RANK_ENDS,
    RENAMED_PARTS,
    all_entries,
    sizes_of,
    text_config_of,
)
from .checkpoint_files import open_weights


# What stands in front of BlinkDL's names, and what his `att` is called elsewhere
_PREFIX = r"^(?:rwkv7\.|model\.)?"
_TIME_MIX = r"\.(?:attention|self_attn|att)\.(?:time_mixer\.)?"
MIXES = "rwkvag"  # in the order of old fla files, which hold the six in one tensor

# What may be missing: heads that are new, and starts of a sequence, which are zeros as in a model without them
_MAY_BE_MISSING = re.compile(r"(?:.*\.)?(?:score|initial_state|initial_token)\..*")
_MAY_BE_LEFT = re.compile(r"(?:lm_head|score)\..*")  # heads, of a model that has another or none
MAX_TENSORS_NAMED = 3
FILE_SUFFIXES = (".pth", ".safetensors")


def blinkdl_name_of(name: str) -> str:
    """Name in BlinkDL's files of a tensor that has the same shape there, whatever layout it is of.

    >>> blinkdl_name_of("rwkv7.blocks.3.att.w1"), blinkdl_name_of("model.layers.3.attention.time_mixer.w1")
    ('blocks.3.att.w1', 'blocks.3.att.w1')
    """
    name = re.sub(r"^(?:rwkv7|model)\.(?=blocks\.|layers\.|emb\.|ln_out\.|head\.)", "", name)
    name = re.sub(r"^layers\.", "blocks.", name)
    name = re.sub(r"^(blocks\.\d+)\.(?:attention|self_attn|attn)\.", r"\1.att.", name)
    return name.replace(".att.time_mixer.", ".att.").replace(".feed_forward.", ".ffn.")


class _LoadsOnly:
    """A rule for loading; what is saved has the names of the fla format, whatever was loaded."""

    __slots__ = ()

    def reverse_transform(self) -> WeightTransform:
        return WeightRenaming("(?!)", "(?!)")  # matches nothing


class _Renaming(_LoadsOnly, WeightRenaming):
    __slots__ = ()


class _Converter(_LoadsOnly, WeightConverter):
    __slots__ = ()


class _Reshape(ConversionOps):
    """One tensor in another shape, or cut into several of that shape along its first axis."""

    def __init__(self, *shape: int):
        self.shape = shape

    def convert(self, input_dict: dict, source_patterns: list[str], target_patterns: list[str], **kwargs) -> dict:
        (tensor,) = input_dict.values()
        tensor = tensor[0] if isinstance(tensor, list) else tensor
        parts = tensor.chunk(len(target_patterns)) if len(target_patterns) > 1 else [tensor]
        return {name: part.reshape(self.shape) for name, part in zip(target_patterns, parts, strict=True)}


def loading_rules() -> list[WeightTransform]:
    """Rules that bring the names and shapes of every layout to those of the fla format."""
    unlike = r"(?:time_mixer\.)?k_[ka]$"  # of another shape than in the fla format, so no mere matter of names
    rules = [
        *(_Renaming(rf"{_PREFIX}{name}\.", f"{RENAMED_PARTS[name]}.") for name in ("emb", "ln_out", "head")),
        _Renaming(rf"{_PREFIX}blocks\.(?!\d+\.ffn\.x_k$)", "model.layers."),
        _Renaming(rf"{_PREFIX}(?=blocks\.\d+\.ffn\.x_k$)", "model."),
        *(_Renaming(rf"\.{name}\.", f".{RENAMED_PARTS[name]}.") for name in ("ln0", "ln1", "ln2")),
        _Renaming(rf"{_TIME_MIX}(?!{unlike})", ".attn."),
        _Renaming(r"\.attn\.time_mixer\.", ".attn."),
        _Renaming(r"\.feed_forward\.(?!x_k$)", ".ffn."),
    ]
    rules += [
        _Renaming(rf"\.attn\.{name}\.", f".attn.{RENAMED_PARTS[name]}.")
        for name in ("receptance", "key", "value", "output", "ln_x")
    ]
    for end, fla_end in LOW_RANK_ENDS.items():
        change = _Reshape(-1) if end == "0" else Transpose(0, 1)
        rules += [_Converter(rf"\.attn\.{s}{end}$", f".attn.{s}_lora.{fla_end}", [change]) for s in "wavg"]
    for end, fla_end in LOW_RANK_ENDS.items():
        change = _Reshape(-1) if end == "0" else Transpose(0, 1)
        rules.append(_Converter(rf"\.ffn\.s{end}$", f".ffn.deep_embed.s_lora.{fla_end}", [change]))
        if end != "0":
            rules += [_Converter(rf"\.qkv\.{s}{end}$", f".deep_embed_attn.{s}_lora.{fla_end}", [change]) for s in "kv"]
    rules += [_Converter(rf"\.qkv\.x_{s}$", f".deep_embed_attn.x_{s}", [_Reshape(-1)]) for s in "qkv"]
    rules.append(_Renaming(r"\.ffn\.(?=s_emb)", ".ffn.deep_embed."))
    rules.append(_Renaming(r"\.qkv\.(?=[kv]_emb)", ".deep_embed_attn."))
    rules += [
        _Renaming(rf"\.qkv\.{name}\.", f".deep_embed_attn.{DEEP_ATTN_PARTS[name]}.")
        for name in ("qq", "lnq", "lnk", "lnv")
    ]
    rules += [_Converter(rf"{_TIME_MIX}{name}$", f".attn.{name}", [_Reshape(-1)]) for name in ("k_k", "k_a")]
    rules += [
        _Converter(r"blocks\.(?=\d+\.ffn\.x_k$)", "layers.", [_Reshape(-1)]),
        _Converter(r"\.feed_forward\.x_k$", ".ffn.x_k", [_Reshape(-1)]),
        _Converter(r"\.attn\.x_x$", [f".attn.x_{s}" for s in MIXES], [_Reshape(1, 1, -1)]),
    ]
    return rules


class LoadsWhole:
    """To stand before `PreTrainedModel` among the bases of a class: a checkpoint is loaded whole or refused."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """See `PreTrainedModel.from_pretrained`, which leaves at random what it does not find, with a warning.

        Heads that are new (`score`), initial states, and with `ignore_mismatched_sizes=True` tensors of another shape
        may still be missing; weights given as `state_dict` may be anything.

        Raises:
            ValueError: If a tensor of the model is in none of the files, or a tensor of the files has no place.
        """
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        if pretrained_model_name_or_path is not None:
            rules = getattr(model, "_weight_conversions", None) or ()
            layout = "BlinkDL's names" if any(isinstance(rule, _LoadsOnly) for rule in rules) else "the fla format"
            _refuse_parts(f"{pretrained_model_name_or_path} ({layout})", report)
        return (model, report) if output_loading_info else model


class LoadsBlinkDLFiles(LoadsWhole):
    """For text models: `from_pretrained` takes a file of BlinkDL's too."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """See [`LoadsWhole.from_pretrained`]; also takes a `.pth` file, or a `.safetensors` file with the same names.

        Raises:
            ValueError: If a file is none of RWKV-7, damaged, or not only tensors.
        """
        if not is_checkpoint_file(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        config, tensors = open_checkpoint_file(pretrained_model_name_or_path)
        entries = all_entries(sizes_of(pretrained_model_name_or_path, _shapes(tensors)))
        placed = ((entries[name], tensor) for name, tensor in tensors.items())
        state_dict = {entry.fla_name: entry.change.to_fla(tensor) for entry, tensor in placed if entry.fla_name}
        if kwargs.get("config") is None:
            options = {name: kwargs.pop(name) for name in list(kwargs) if hasattr(config, name) and name != "dtype"}
            config.update(options)
            kwargs["config"] = config
        loaded = super().from_pretrained(None, *model_args, state_dict=state_dict, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = model.name_or_path = str(pretrained_model_name_or_path)
        return loaded


def is_checkpoint_file(name: str | os.PathLike[str] | None) -> bool:
    """Whether `name` is a file of weights by its suffix, not a folder or a Hub id."""
    return name is not None and Path(name).suffix in FILE_SUFFIXES and not Path(name).is_dir()


def open_checkpoint_file(name: str | os.PathLike[str]) -> tuple[RWKV7Config, dict[str, torch.Tensor]]:
    """Configuration and tensors, by BlinkDL's names and mapped, of a checkpoint in one file.

    Args:
        name: A `.pth` file, or a `.safetensors` file with the same names, which may stand behind a prefix.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none of RWKV-7, damaged, or not only tensors.
    """
    tensors = open_weights(Path(name).expanduser())
    tensors = {blinkdl_name_of(name): tensor for name, tensor in tensors.items()}
    sizes = sizes_of(name, _shapes(tensors))
    return text_config_of(sizes, architectures=["RWKV7ForCausalLM"], dtype=tensors["emb.weight"].dtype), tensors


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _refuse_parts(source: str, report: dict[str, Collection[str]]) -> None:
    missing = sorted(name for name in report["missing_keys"] if not _MAY_BE_MISSING.fullmatch(name))
    left = sorted(name for name in report["unexpected_keys"] if not _MAY_BE_LEFT.fullmatch(name))
    found = []
    if missing:
        found.append(f"{len(missing)} tensors of the model are missing: {_some(missing)}")
    if left:
        found.append(f"{len(left)} of the files have no place in it: {_some(left)}")
    if found:
        raise ValueError(f"{source}: not loaded, for not all weights fit; {'; '.join(found)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_TENSORS_NAMED]) + (" ..." if len(names) > MAX_TENSORS_NAMED else "")


_rules = loading_rules()
for _name in ("RWKV7Model", "RWKV7ForCausalLM", "RWKV7ForSequenceClassification"):
    register_checkpoint_conversion_mapping(_name, _rules, overwrite=True)

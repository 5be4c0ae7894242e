# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapter folders of HF PEFT to files of RWKV-PEFT: LoRA, MiSS, trained norms, and states for any engine."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..adapters.state_tuning import STATE_MODULE, STATE_TUNING, TOKEN_MODULE
from .folder import check_finite, read_json
from .output import whole_file
from .rwkv_peft import ADAPTER_WEIGHTS, BONE, LORA, PEFT_PREFIX, STATE
from .rwkv_peft_names import LORA_A, LORA_B, TIME_STATE, TOKEN_STATE, module_names
from .text_checkpoint import absolute


_TEXT_MODEL = re.compile(r"model\.(language_model\.)?")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_STATE = re.compile(rf"model\.layers\.(\d+)\.(attn|ffn)\.({STATE_MODULE}|{TOKEN_MODULE})\.learned\.weight")
_ENDS = {"lora_A.weight": LORA_A, "lora_B.weight": LORA_B, "miss_block": "disha", "weight": "weight", "bias": "bias"}
_METHODS = {"LORA": LORA, STATE_TUNING: STATE, "MISS": BONE}


@dataclass(frozen=True)
class AdapterExport:
    """What was exported: the method, LoRA's alpha, which the file does not tell, and how many tensors."""

    method: str
    alpha: float | None
    tensors: int


def export_rwkv_peft(
    source: str | os.PathLike[str], destination: str | os.PathLike[str], dtype: torch.dtype | None = None
) -> AdapterExport:
    """Writes an adapter folder as one file with the names of RWKV-PEFT.

    Args:
        source: A folder with adapter_config.json and adapter_model.safetensors.
        destination: The new `.pth` file. If anything fails there is none.
        dtype: Of the tensors written. `None` keeps that of every tensor.

    Raises:
        ValueError: If it is no adapter, or one that RWKV-PEFT has no place for; if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = absolute(source), absolute(destination)
    config, tensors = _read(source)
    method, alpha = _method(source, config)
    if any(LORA_A in name for name in tensors) and method == STATE:
        method = LORA
    exported = _rename(source, tensors)
    converted = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in exported.items()}
    check_finite(converted, source / ADAPTER_WEIGHTS)
    with whole_file(destination) as path:
        torch.save(converted, path)
    return AdapterExport(method, alpha if method == LORA else None, len(converted))


def _read(source: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    for name in ("adapter_config.json", ADAPTER_WEIGHTS):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source}: not an adapter folder of PEFT, it holds no {name}")
    try:
        tensors = load_file(source / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise ValueError(
            f"{source / ADAPTER_WEIGHTS}: not a safetensors file, or not a whole one ({error})"
        ) from error
    return read_json(source / "adapter_config.json"), tensors


def _method(source: Path, config: Mapping) -> tuple[str, float | None]:
    """The method, and the alpha that gives LoRA its scale by RWKV-PEFT's formula, alpha / r."""
    kind = config.get("peft_type")
    if kind not in _METHODS:
        raise ValueError(f"{source}: RWKV-PEFT has no place for an adapter of PEFT's method {kind}")
    if kind == "MISS":
        if config.get("init_weights") in ("bat", "mini"):
            raise ValueError(f"{source}: RWKV-PEFT has no place for MiSS of the kind {config['init_weights']}")
        return BONE, None
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init not in ("gaussian", "orthogonal"):
        raise ValueError(f"{source}: its weights go with a base model that {init} changed; merge the adapter instead")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ValueError(f"{source}: RWKV-PEFT has one rank and one alpha for all layers")
    rank, alpha = config["r"], config["lora_alpha"]
    return _METHODS[kind], alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def _rename(source: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {name: _TEXT_MODEL.sub("model.", name.removeprefix(PEFT_PREFIX), count=1) for name in tensors}
    layers = 1 + max((int(found[1]) for name in names.values() if (found := _LAYER.match(name))), default=-1)
    modules = {fla_name: name for name, fla_name in module_names(layers).items()}
    renamed = {}
    for full_name, name in names.items():
        if found := _STATE.fullmatch(name):
            renamed |= _state(source, full_name, tensors[full_name], *found.groups())
            continue
        module, end = _split(name, modules)
        if module is None:
            raise ValueError(f"{source}: RWKV-PEFT has no place for the tensor {full_name}")
        renamed[f"{module}.{end}"] = tensors[full_name]
    return renamed


def _split(name: str, modules: Mapping[str, str]) -> tuple[str | None, str]:
    """RWKV-PEFT's name of the module and of its tensor."""
    for end, new_end in _ENDS.items():
        module = modules.get(name.removesuffix(f".{end}"))
        if name.endswith(f".{end}") and module is not None:
            return module, new_end
    return None, ""


def _state(source: Path, name: str, tensor: torch.Tensor, layer: str, part: str, kind: str) -> dict[str, torch.Tensor]:
    if part == "attn":
        return {f"blocks.{layer}.att.{TIME_STATE if kind == STATE_MODULE else TOKEN_STATE}": tensor}
    if tensor.any():
        raise ValueError(f"{source}: RWKV-PEFT's channel mix begins from zeros, but {name} is trained")
    return {}

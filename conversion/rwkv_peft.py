# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-PEFT's files to adapter folders of HF PEFT, and back.

What each method adds to a weight `W` (out, in), in blocks of `r` rows `a` and `r` columns `b` where it has blocks:

    LoRA           alpha / r  B A
    PiSSA          B A - B0 A0                 A0, B0 from `init_pissa.pth`; alpha has no part in it
    Bone, DiSHA    D[i mod r, o]  at (o, i)    D (r, out), called MiSS by PEFT
    Bat            W[a, b] D[b] + D[b]         D (in / r, r, r)
    old Bone       W[a, b] D[a] + D[a]         D (out, r) read as (out / r, r, r), before 2024-09-27; PEFT's "bat"

Bat has no equal in PEFT, nor has a state beside Bone, so these are written as a whole model with merged weights.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..adapters.state_tuning import STATE_MODULE, TOKEN_MODULE, StateTuningConfig
from ..configuration.optional_libraries import optional_imports
from ..modeling_rwkv7_world.checkpoint_files import open_pth
from .folder import INDEX_FILE, check_finite, open_folder, read_json, write_shards
from .output import whole_folder
from .rwkv_peft_names import (
    BLOCK_NAMES,
    INIT_LORA_A,
    INIT_LORA_B,
    LORA_A,
    LORA_B,
    TIME_STATE,
    TOKEN_STATE,
    Contents,
    module_names,
    sort_contents,
)
from .text_checkpoint import absolute


with optional_imports():
    from peft import LoraConfig, MissConfig, PeftConfig


LORA, PISSA, BONE, BAT, OLD_BONE, STATE = "LoRA", "PiSSA", "Bone (MiSS)", "Bat", "old Bone", "state"
PEFT_PREFIX = "base_model.model."
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_SHARD_SIZE = "5GB"
_TEXT_MODELS = ("model.", "model.language_model.")  # what names of the text model begin with, alone or in a composite


@dataclass(frozen=True)
class AdapterConversion:
    """What was converted: method, rank (0 of a state), number of tensors, whether it was merged into a whole model."""

    method: str
    rank: int
    tensors: int
    merged: bool


def convert_rwkv_peft(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    base: str | os.PathLike[str],
    alpha: float | None = None,
    init_pissa: str | os.PathLike[str] | None = None,
    merge: bool = False,
) -> AdapterConversion:
    """Writes a file of RWKV-PEFT as an adapter folder, or as a whole model where PEFT cannot hold it.

    Args:
        source: The `.pth` file with the adapter, the norms that were trained with it, and any states.
        destination: A new or empty folder. If anything fails it is left as it was.
        base: Folder of the model that it was trained for, a text model or a composite.
        alpha: Of LoRA, whose files do not tell it.
        init_pissa: The `init_pissa.pth` that PiSSA wrote when training began.
        merge: Whether to write the whole model with merged weights in any case.

    Raises:
        ValueError: If the file is of another method or model, damaged, or lacks what only the user knows; if
            `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination, base = absolute(source), absolute(destination), absolute(base)
    contents = _read(source)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: no such model folder")
    adapter = _Adapter(source, contents, open_folder(base), alpha, init_pissa and absolute(init_pissa))
    merged = merge or adapter.method == BAT or (adapter.method in (BONE, OLD_BONE) and bool(contents.states))
    with whole_folder(destination) as folder:
        if merged:
            _write_merged(folder, base, adapter)
        else:
            _write_adapter(folder, base, adapter)
    return AdapterConversion(adapter.method, adapter.rank, adapter.tensors, merged)


def _read(source: Path) -> Contents:
    try:
        tensors = open_pth(source)
        check_finite(tensors, source)
        return sort_contents(tensors)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if message.startswith(str(source)) else f"{source}: {message}") from error


class _Adapter:
    """The contents of a file, checked against the base model.

    Raises:
        ValueError: If they do not go together.
    """

    def __init__(
        self,
        source: Path,
        contents: Contents,
        base: Mapping[str, torch.Tensor],
        alpha: float | None,
        init_pissa: Path | None,
    ):
        self.source, self.contents, self.base = source, contents, base
        self.prefix = _text_prefix(source, base)
        self.layers = sum(name.startswith(f"{self.prefix}layers.") and name.endswith(".r_k") for name in base)
        self.names = {name: self._full_name(fla) for name, fla in module_names(self.layers).items()}
        for module in (*contents.adapted, *contents.replaced):
            if module not in self.names:
                raise ValueError(f"{source}: it has the layer {module}, but the base model has {self.layers} layers")
        if not (contents.adapted or contents.states):
            raise ValueError(f"{source}: holds no adapter of RWKV-PEFT")
        self.init = self._read_init(init_pissa) if init_pissa else {}
        self.method, self.rank = self._recognise(alpha)
        self.alpha = alpha
        self._check_shapes()
        self.tensors = sum(
            map(len, [*contents.adapted.values(), *contents.replaced.values(), *contents.states.values()])
        )

    def _full_name(self, fla_name: str) -> str:
        return self.prefix + fla_name.removeprefix("model.") if fla_name.startswith("model.") else fla_name

    def weight(self, module: str) -> torch.Tensor:
        """The weight of a matrix of the base model, by BlinkDL's name."""
        return self.base[f"{self.names[module]}.weight"]

    def _read_init(self, path: Path) -> dict[str, dict[str, torch.Tensor]]:
        init = _read(path).adapted
        expected = {INIT_LORA_A: LORA_A, INIT_LORA_B: LORA_B}
        for module, tensors in self.contents.adapted.items():
            for name, trained in expected.items():
                if trained not in tensors:
                    raise ValueError(f"{self.source}: init_pissa was given, but {module}.{trained} is missing")
                if name not in init.get(module, {}) or init[module][name].shape != tensors[trained].shape:
                    raise ValueError(f"{path}: not the init_pissa.pth of {self.source}, for example {module}.{name}")
        return init

    def _recognise(self, alpha: float | None) -> tuple[str, int]:
        """Method and rank, which must be the same everywhere."""
        found = {(*self._recognise_matrix(name, tensors),) for name, tensors in self.contents.adapted.items()}
        if len(found) > 1:
            raise ValueError(f"{self.source}: its matrices have different methods or ranks: {sorted(found)}")
        method, rank = found.pop() if found else (STATE, 0)
        if method == LORA and (alpha is None or alpha <= 0):
            raise ValueError(
                f"{self.source}: a LoRA or PiSSA. The file does not tell LoRA's alpha: give the --alpha of the "
                "training (RWKV-PEFT's default is 32), or for PiSSA its init_pissa.pth with --init-pissa"
            )
        if alpha is not None and method != LORA:
            raise ValueError(f"{self.source}: alpha was given, but {method} has none")
        return method, rank

    def _recognise_matrix(self, module: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, int]:
        out_features, in_features = self.weight(module).shape
        if tensors.keys() == {LORA_A, LORA_B}:
            return PISSA if self.init else LORA, len(tensors[LORA_A])
        if len(tensors) != 1 or next(iter(tensors)) not in BLOCK_NAMES:
            raise ValueError(f"{self.source}: {module} has {', '.join(sorted(tensors))}, which no method has together")
        (shape,) = (tuple(tensor.shape) for tensor in tensors.values())
        if len(shape) == 3 and shape[1:] == (shape[2],) * 2 and shape[0] * shape[2] == in_features:
            return BAT, shape[2]
        is_bone, is_old = len(shape) == 2 and shape[1] == out_features, len(shape) == 2 and shape[0] == out_features
        if is_bone and is_old:
            raise ValueError(f"{self.source}: {module} is square, {shape}, so that Bone and old Bone look alike")
        if not (is_bone or is_old):
            expected = f"(r, {out_features}), ({out_features}, r) or ({in_features} / r, r, r)"
            raise ValueError(f"{self.source}: {module} has the shape {shape}, expected {expected} of the base model")
        return (BONE, shape[0]) if is_bone else (OLD_BONE, shape[1])

    def _check_shapes(self) -> None:
        for module, tensors in self.contents.adapted.items():
            out_features, in_features = self.weight(module).shape
            expected = {LORA_A: (self.rank, in_features), LORA_B: (out_features, self.rank)}
            for name, tensor in tensors.items():
                self._check_shape(f"{module}.{name}", tensor, expected.get(name, tuple(tensor.shape)))
        for module, tensors in self.contents.replaced.items():
            for name, tensor in tensors.items():
                self._check_shape(f"{module}.{name}", tensor, tuple(self.base[f"{self.names[module]}.{name}"].shape))
        heads, head_dim = self.base[f"{self.prefix}layers.0.attn.r_k"].shape
        expected = {TIME_STATE: (heads, head_dim, head_dim), TOKEN_STATE: (heads * head_dim,)}
        for layer in range(self.layers) if self.contents.states else ():
            states = self.contents.states.get(layer, {})
            if states.keys() != self.contents.states[min(self.contents.states)].keys():
                raise ValueError(f"{self.source}: the states of layer {layer} are not those of the others")
            for name, tensor in states.items():
                self._check_shape(f"blocks.{layer}.att.{name}", tensor, expected[name])
        if any(layer >= self.layers for layer in self.contents.states):
            raise ValueError(f"{self.source}: it has states of more than the {self.layers} layers of the base model")

    def _check_shape(self, name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != expected:
            found = tuple(tensor.shape)
            raise ValueError(f"{self.source}: {name} has the shape {found}, expected {expected} of the base model")

    def merged_weight(self, module: str) -> torch.Tensor:
        """The weight of a matrix with its adapter, (out, in), in float32."""
        weight = self.weight(module)
        if not weight.is_floating_point():
            raise ValueError(f"{self.source}: nothing can be merged into the few bits of a quantised base model")
        weight = weight.float()
        tensors = {name: tensor.float() for name, tensor in self.contents.adapted[module].items()}
        if self.method == LORA:
            return weight + self.alpha / self.rank * tensors[LORA_B] @ tensors[LORA_A]
        if self.method == PISSA:
            first = {name: tensor.float() for name, tensor in self.init[module].items()}
            return weight + tensors[LORA_B] @ tensors[LORA_A] - first[INIT_LORA_B] @ first[INIT_LORA_A]
        (block,) = tensors.values()
        if self.method == BONE:
            copies = -(-weight.shape[1] // self.rank)
            return weight + block.t().repeat(1, copies)[:, : weight.shape[1]]
        blocks = weight.unflatten(0, (-1, self.rank)).unflatten(2, (-1, self.rank)).transpose(1, 2)  # (a, b, r, r)
        block = block if self.method == BAT else block.view(-1, 1, self.rank, self.rank)
        return (blocks + blocks @ block + block).transpose(1, 2).reshape_as(weight)

    def states(self) -> dict[str, torch.Tensor]:
        """The initial states in float32, by the names of their modules, of all places that the configuration names."""
        named = {}
        for layer, states in self.contents.states.items():
            block = f"{self.prefix}layers.{layer}."
            if TIME_STATE in states:
                named[f"{block}attn.{STATE_MODULE}"] = states[TIME_STATE].float()
            if TOKEN_STATE in states:
                named[f"{block}attn.{TOKEN_MODULE}"] = states[TOKEN_STATE].float()
                # RWKV-PEFT has none in the channel mix, which begins from zeros
                named[f"{block}ffn.{TOKEN_MODULE}"] = torch.zeros_like(states[TOKEN_STATE], dtype=torch.float32)
        return named

    def has_state(self, name: str) -> bool:
        return any(name in states for states in self.contents.states.values())


def _text_prefix(source: Path, base: Mapping[str, torch.Tensor]) -> str:
    for prefix in _TEXT_MODELS:
        if f"{prefix}layers.0.attn.r_k" in base:
            return prefix
    raise ValueError(f"{source}: the base model has no tensor model.layers.0.attn.r_k, so it is no RWKV-7 of ours")


def _write_adapter(folder: Path, base: Path, adapter: _Adapter) -> None:
    tensors = {}
    for module, parts in adapter.contents.adapted.items():
        tensors |= {f"{adapter.names[module]}.{end}": x for end, x in _peft_tensors(adapter, module, parts).items()}
    for module, parameters in adapter.contents.replaced.items():
        name = adapter.names[module]
        own = {end: adapter.base[f"{name}.{end}"] for end in ("weight", "bias") if f"{name}.{end}" in adapter.base}
        tensors |= {f"{name}.{end}": tensor for end, tensor in (own | parameters).items()}
    tensors |= {f"{name}.learned.weight": tensor for name, tensor in adapter.states().items()}
    _peft_config(adapter, base).save_pretrained(str(folder))
    check_finite(tensors, base)  # those of the file are, these may be the base model's own
    copies = {PEFT_PREFIX + name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / ADAPTER_WEIGHTS, {"format": "pt"})


def _peft_tensors(adapter: _Adapter, module: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one matrix as PEFT has them, by what stands after the name of the module."""
    if adapter.method == LORA:
        return {"lora_A.weight": parts[LORA_A], "lora_B.weight": parts[LORA_B]}
    if adapter.method == PISSA:  # as a LoRA of twice the rank, on a base model that is left as it is
        init = adapter.init[module]  # may be float32 beside trained bfloat16, and is not rounded to it
        return {
            "lora_A.weight": torch.cat([parts[LORA_A], init[INIT_LORA_A]]),
            "lora_B.weight": torch.cat([parts[LORA_B], -init[INIT_LORA_B]], dim=1),
        }
    (block,) = parts.values()
    return {"miss_block": block.view(-1, adapter.rank, adapter.rank) if adapter.method == OLD_BONE else block}


def _peft_config(adapter: _Adapter, base: Path) -> PeftConfig:
    shared = {
        "base_model_name_or_path": str(base),
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "target_modules": sorted(adapter.names[module] for module in adapter.contents.adapted),
        "modules_to_save": sorted(adapter.names[module] for module in adapter.contents.replaced) or None,
    }
    if adapter.method in (BONE, OLD_BONE):
        return MissConfig(**shared, r=adapter.rank, init_weights=True if adapter.method == BONE else "bat")
    if adapter.method == PISSA:
        shared |= {"r": 2 * adapter.rank, "lora_alpha": 2 * adapter.rank}
    elif adapter.method == LORA:
        shared |= {"r": adapter.rank, "lora_alpha": adapter.alpha}
    if adapter.contents.states:
        has = adapter.has_state
        return StateTuningConfig(**shared, tune_state=has(TIME_STATE), tune_tokens=has(TOKEN_STATE))
    return LoraConfig(**shared)


def _write_merged(folder: Path, base: Path, adapter: _Adapter) -> None:
    """The whole model: weights one shard at a time, all other files copied."""
    for path in base.iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif path.suffix != ".safetensors" and path.name != INDEX_FILE:
            shutil.copy(path, folder / path.name)
    if adapter.contents.states:
        _write_config(folder, adapter)
    merged = {f"{adapter.names[module]}.weight": module for module in adapter.contents.adapted}
    new = {f"{name}.weight": tensor for name, tensor in adapter.states().items()}
    for module, parameters in adapter.contents.replaced.items():
        new |= {f"{adapter.names[module]}.{end}": tensor for end, tensor in parameters.items()}

    def read(names: list[str]) -> dict[str, torch.Tensor]:
        shard = {}
        for name in names:
            own = adapter.base.get(name, new.get(name))
            tensor = adapter.merged_weight(merged[name]) if name in merged else new.get(name, own)
            shard[name] = tensor.to(own.dtype).clone().contiguous()
        return shard

    sizes = {name: tensor.nbytes for name, tensor in (new | adapter.base).items()}
    write_shards(folder, sizes, read, MAX_SHARD_SIZE, base)


def _write_config(folder: Path, adapter: _Adapter) -> None:
    config = read_json(folder / "config.json")
    text_config = config.get("text_config", config)
    text_config["learned_initial_state"] = adapter.has_state(TIME_STATE)
    text_config["learned_initial_tokens"] = adapter.has_state(TOKEN_STATE)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the tensors of an RWKV-PEFT file are, by their names."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..modeling_rwkv7_world.blinkdl_names import fla_name_of, refuse_foreign_names
from ..modeling_rwkv7_world.checkpoint_files import open_weights
from .text_checkpoint import absolute


ADAPTED = ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")
TIME_STATE, TOKEN_STATE = "time_state", "ts_state"
LORA_A, LORA_B = "lora_A", "lora_B"
INIT_LORA_A, INIT_LORA_B = "init_lora_A", "init_lora_B"  # in the file beside one of PiSSA
BLOCK_NAMES = ("disha", "bone")  # of what is now called MiSS: since 2025-02, and before

_PREFIX = "model."  # of the training module, which some files kept
_ADAPTED_NAME = re.compile(
    rf"(blocks\.\d+\.(?:{'|'.join(map(re.escape, ADAPTED))}))\."
    rf"({'|'.join([LORA_A, LORA_B, INIT_LORA_A, INIT_LORA_B, *BLOCK_NAMES])})"
)
_STATE_NAME = re.compile(rf"blocks\.(\d+)\.att\.({TIME_STATE}|{TOKEN_STATE})")
_REPLACED_NAME = re.compile(
    rf"(blocks\.\d+\.(?:ln[012]|att\.ln_x|{'|'.join(map(re.escape, ADAPTED))})|ln_out|emb|head)\.(weight|bias)"
)
_REFUSED = {
    "time_offset": "an offset of the recurrence's output (OpenMOSE's state offset), which no adapter here can hold",
    "ts_state": "an initial state of a token shift in a place where RWKV-PEFT has none",
}
_WHOLE_MODEL = "blocks.0.att.r_k"  # no adapter holds it


@dataclass
class Contents:
    """The tensors of a file, apart by what they do.

    Attributes:
        adapted: For every matrix, by its name without `.weight`, the tensors of its adapter by their last name.
        replaced: Norms, embeddings, head and matrices that were trained whole, by module and by `weight` or `bias`.
        states: For every layer `time_state`, (heads, value, key), and `ts_state`, (hidden,), where there are.
    """

    adapted: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    replaced: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    states: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


def holds_rwkv_peft(source: str | os.PathLike[str]) -> bool:
    """Whether a file is an adapter of RWKV-PEFT or a trained state, and no whole model.

    Raises:
        ValueError: If it is a file that cannot be read.
    """
    path = absolute(source)
    if not path.is_file():
        return False
    names = {name.removeprefix(_PREFIX) for name in open_weights(path)}
    kinds = (_ADAPTED_NAME, _STATE_NAME)
    return _WHOLE_MODEL not in names and any(kind.fullmatch(name) for name in names for kind in kinds)


def sort_contents(tensors: Mapping[str, torch.Tensor]) -> Contents:
    """Sorts the tensors of a file.

    Raises:
        ValueError: Names the first tensor that is of another model, or of a method that is not known here.
    """
    contents = Contents()
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix(_PREFIX)
        if found := _ADAPTED_NAME.fullmatch(name):
            contents.adapted.setdefault(found[1], {})[found[2]] = tensor
        elif found := _STATE_NAME.fullmatch(name):
            contents.states.setdefault(int(found[1]), {})[found[2]] = tensor
        elif found := _REPLACED_NAME.fullmatch(name):
            contents.replaced.setdefault(found[1], {})[found[2]] = tensor
        else:
            _refuse(full_name, name)
    return contents


def _refuse(full_name: str, name: str) -> None:
    end = name.rpartition(".")[2]
    if end in _REFUSED:
        raise ValueError(f"{full_name} is {_REFUSED[end]}")
    refuse_foreign_names([name])
    raise ValueError(f"unexpected tensor {full_name} in an adapter of RWKV-PEFT for RWKV-7")


def module_names(layers: int) -> dict[str, str]:
    """Names in the fla format, without `weight`, of all modules that a file can hold tensors for, by BlinkDL's."""
    in_layer = [*ADAPTED, "ln1", "ln2", "att.ln_x"]
    names = ["emb", "head", "ln_out", "blocks.0.ln0"]
    names += [f"blocks.{layer}.{name}" for layer in range(layers) for name in in_layer]
    return {name: fla_name_of(f"{name}.weight").removesuffix(".weight") for name in names}

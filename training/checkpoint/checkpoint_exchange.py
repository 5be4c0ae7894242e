# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that one process and many with a sharded model (FSDP2) read of each other.

Both hold the whole model or adapter under its usual name. An optimiser's state goes by the numbers of parameters in
`optimizer.pt` of one process, and by their names in `optimizer.bin` of a sharded model.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from transformers.trainer_utils import load_sharded_checkpoint


BY_NUMBER, BY_NAME = "optimizer.pt", "optimizer.bin"
WEIGHTS = "model.safetensors"
DEEPSPEED_TAG = "latest"
_WRAPPERS = re.compile(r"(_orig_mod|_checkpoint_wrapped_module)\.")  # of torch.compile and activation checkpointing


def load_whole_model(model: nn.Module, folder: Path) -> None:
    """Loads the weights of a checkpoint into a model that is not sharded yet.

    Raises:
        FileNotFoundError: If there are none.
    """
    if (folder / WEIGHTS).is_file():
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    elif (folder / f"{WEIGHTS}.index.json").is_file():
        load_sharded_checkpoint(model, str(folder), strict=False)
    else:
        raise FileNotFoundError(f"{folder}: holds no {WEIGHTS}")


def check_without_deepspeed(folder: Path) -> None:
    """Refuses checkpoints of DeepSpeed, whose optimiser is in files of its own.

    Raises:
        ValueError: If it is one.
    """
    if (folder / DEEPSPEED_TAG).is_file():
        raise ValueError(
            f"{folder}: of a run with DeepSpeed, which goes on with the same deepspeed setting and number of "
            "processes; to train on without it, begin anew from this folder as the model"
        )


def goes_by_names(folder: Path, is_sharded: bool) -> bool:
    """Whether a checkpoint's optimiser is loaded by names, as where a model is sharded, or was when it was written."""
    has_numbers, has_names = ((folder / name).is_file() for name in (BY_NUMBER, BY_NAME))
    return has_numbers or has_names if is_sharded else has_names and not has_numbers


def load_optimizer_by_names(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, is_sharded: bool, is_main_process: bool
) -> None:
    """Loads the optimiser's state of a checkpoint by names, whichever kind the checkpoint is.

    Parameters that had no gradient yet, as those of a tower that nothing has been shown to, have no state in the
    checkpoint and none afterwards.

    Args:
        folder: The checkpoint.
        model: What is trained.
        optimizer: Over its parameters, with no state yet.
        is_sharded: Whether the model is, and with it the state.
        is_main_process: Of a sharded model, whether this is the process that reads.
    """
    state: dict[str, Any] = {}
    if is_main_process or not is_sharded:
        file = folder / (BY_NAME if (folder / BY_NAME).is_file() else BY_NUMBER)
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state if file.name == BY_NAME else _by_name(state, model, optimizer)
    known = [set(state.get("state", ()))]
    if is_sharded:
        torch.distributed.broadcast_object_list(known, src=0)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=is_sharded)
    with _frozen_but(model, known[0]):
        set_optimizer_state_dict(model, optimizer, state, options=options)


@contextmanager
def _frozen_but(model: nn.Module, names: set[str]) -> Iterator[None]:
    """All trained parameters but those of `names` as frozen ones, of which torch wants no state."""
    trained = {_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without = [parameter for name, parameter in trained.items() if name not in names]
    try:
        for parameter in without:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in without:
            parameter.requires_grad_(True)


def _by_name(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state with names for numbers, which count the parameters group by group."""
    names = {id(parameter): _name(name) for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [ordered[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {ordered[number]: value for number, value in state["state"].items()}, "param_groups": groups}


def _name(name: str) -> str:
    """The name of a parameter as in a checkpoint, without what wraps its module."""
    return _WRAPPERS.sub("", name)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that one process and many with a sharded model (FSDP2) read of each other.

Both hold the whole model or adapter under its usual name. An optimiser's state goes by the numbers of parameters in
`optimizer.pt` of one process, and by their names in `optimizer.bin` of a sharded model.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from transformers.trainer_utils import load_sharded_checkpoint


BY_NUMBER, BY_NAME = "optimizer.pt", "optimizer.bin"
WEIGHTS = "model.safetensors"


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


def is_of_other_kind(folder: Path, is_sharded: bool) -> bool:
    """Whether a checkpoint's optimiser is that of a sharded model and this one's is not, or the other way round."""
    ours, other = (BY_NAME, BY_NUMBER) if is_sharded else (BY_NUMBER, BY_NAME)
    return not (folder / ours).is_file() and (folder / other).is_file()


def load_optimizer_of_other_kind(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, is_sharded: bool, is_main_process: bool
) -> None:
    """Loads the optimiser's state of a checkpoint by names, whichever kind the checkpoint is.

    Args:
        folder: The checkpoint.
        model: What is trained.
        optimizer: Over its parameters.
        is_sharded: Whether the model is, and with it the state.
        is_main_process: Of a sharded model, whether this is the process that reads.
    """
    state: dict[str, Any] = {}
    if is_main_process or not is_sharded:
        file = folder / (BY_NUMBER if is_sharded else BY_NAME)
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = _by_name(state, model, optimizer) if is_sharded else state
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=is_sharded)
    set_optimizer_state_dict(model, optimizer, state, options=options)


def _by_name(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state with names for numbers, which count the parameters group by group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [ordered[number] for number in group["params"]]} for group in state["param_groups"]]
    return {"state": {ordered[number]: value for number, value in state["state"].items()}, "param_groups": groups}

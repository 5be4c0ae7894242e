# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that have to encode media of the same kinds in every step, since they exchange shares or gradients then.

ZeRO-2 and 3 exchange gradients in the order in which they come, which depends on what is encoded. Where processes hold
only shares of a tower, as in ZeRO-3, they gather its weights whenever it is called, so all must call it as often.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from ...configuration.optional_libraries import optional_imports
from ...modeling_rwkv7_world.encoders import calls_for_clips, calls_for_pictures
from .gradient_exchange import MODULES_OF_INPUT


with optional_imports():
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list, send_to_device


TOWERS = ("vision_tower", "audio_tower")
_MODULES = {name for modules in MODULES_OF_INPUT.values() for name in modules}


@dataclass
class SyncModalities:
    """Sees to it that processes encode alike.

    Args:
        accelerator: Of the trainer.
        model: What is trained, or what holds it.
    """

    accelerator: Accelerator
    model: nn.Module

    def __post_init__(self):
        modules = self.model.named_modules()
        named = [(name.rpartition(".")[2], module) for name, module in modules]
        self.towers = {name: module for name, module in named if name in TOWERS}

    @property
    def counts_calls(self) -> bool:
        """Whether processes must call towers equally often."""
        if not self.towers or self.accelerator.num_processes == 1:
            return False
        return self._zero_stage() == 3 or has_towers_in_shares(self.model)

    @property
    def is_needed(self) -> bool:
        """Whether they must at least encode media of the same kinds."""
        return self.counts_calls or (bool(self.towers) and self._zero_stage() == 2 and self.model.training)

    def align(self, inputs: dict[str, Any], has_rows: bool) -> tuple[dict[str, Any], bool]:
        """The inputs, or those of another process where this one has no rows.

        Args:
            inputs: Of the model.
            has_rows: Whether they hold anything but padding.

        Returns:
            Inputs, and whether they are of another process.

        Raises:
            ValueError: If two processes that have rows encode unlike media.
        """
        calls = self._calls(inputs)
        mine = torch.tensor([[has_rows, *calls]], device=self.accelerator.device)
        everywhere = self.accelerator.gather(mine)
        with_rows = everywhere[:, 0] > 0
        filled = everywhere[with_rows]
        if (filled != filled[:1]).any():
            raise ValueError(self._unlike())
        if with_rows.all() or not filled[:, 1:].any():
            return inputs, False
        shared = [send_to_device(inputs, "cpu")]
        broadcast_object_list(shared, from_process=int(with_rows.int().argmax()))
        return (inputs, False) if has_rows else (send_to_device(shared[0], self.accelerator.device), True)

    def _calls(self, inputs: dict[str, Any]) -> list[int]:
        """How often each tower is called; only whether, if that is enough."""
        pictures, clips = inputs.get("pixel_values"), inputs.get("input_features")
        calls = [0, 0]
        if pictures is not None:
            calls[0] = calls_for_pictures(self.towers["vision_tower"], pictures, inputs.get("image_grid_thw"))
        if clips is not None:
            calls[1] = calls_for_clips(self.towers["audio_tower"], clips, inputs.get("input_features_mask"))
        return calls if self.counts_calls else [min(number, 1) for number in calls]

    def _unlike(self) -> str:
        if self.counts_calls:
            return (
                "processes of this step encode unlike media (some have pictures or clips and others none, or far more "
                "of them), for which ZeRO-3 and towers that are sharded by themselves would wait forever: use ddp, "
                "fsdp2 or zero1 as shipped, smaller batches, or data of one kind"
            )
        return (
            "processes of this step encode unlike media (some have pictures or clips and others none), which ZeRO-2 "
            "cannot learn from: use ddp, fsdp2 or zero1 as shipped, or data of one kind"
        )

    def _zero_stage(self) -> int:
        plugin = self.accelerator.state.deepspeed_plugin
        return 0 if plugin is None else plugin.zero_stage


def has_towers_in_shares(model: nn.Module) -> bool:
    """Whether FSDP2 gathers parts of a tower or projector by themselves when they run, so that all processes must."""
    return any(
        isinstance(module, FSDPModule) and _MODULES & set(name.split(".")) for name, module in model.named_modules()
    )

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What processes need that exchange gradients while their batches hold different media, or none.

All must have gradients for the same parameters, so each makes the loss a function, 0, of those that it leaves unused.
"""

import torch
from torch import nn
from torch.distributed.tensor import DTensor


# Modules of the composite that a batch without this input leaves unused
MODULES_OF_INPUT = {
    "pixel_values": ("vision_tower", "vision_projector", "deepstack_projectors"),
    "input_features": ("audio_tower", "audio_projector"),
}
STARTS = ("initial_state", "initial_token")


def touch_unused(model: nn.Module, args: tuple, kwargs: dict, outputs, in_buckets: bool):
    """Hook of a forward pass: adds 0 to the loss, as a function of what the batch leaves unused.

    Else a batch of text alone could not be learned from while only a projector is trained. DDP looks for unused
    parameters as soon as the forward pass is over, so this is a part of it.

    Args:
        model: What is trained.
        args: Of its forward pass.
        kwargs: Likewise.
        outputs: Of it.
        in_buckets: Whether gradients are exchanged many in one piece, as by FSDP2 and ZeRO. Then towers and projectors
            are touched whatever the batch holds, since towers have parameters that they never use themselves.
    """
    if model.training and torch.is_grad_enabled() and outputs.get("loss") is not None:
        media = () if in_buckets else kwargs
        unused = {name for needed, names in MODULES_OF_INPUT.items() if needed not in media for name in names}
        if kwargs.get("cache") is not None or kwargs.get("past_key_values") is not None:
            unused.update(STARTS)  # a chunk that continues another does not start from them
        outputs["loss"] = outputs["loss"] + _zero_of(model, unused)
    return outputs


def _zero_of(model: nn.Module, modules: set[str]) -> torch.Tensor | float:
    """0, as a function of all that is trained in modules of these names."""
    zero = 0.0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not _is_share(parameter) and modules & set(name.split(".")):
            zero = zero + parameter.float().sum() * 0.0
    return zero


def _is_share(parameter: nn.Parameter) -> bool:
    """Whether only a share of a parameter is here, whose module gathers the others when it runs."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_tensor")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV's groups of parameters for the optimiser, with a learning rate for each part of the model.

As in RWKV-LM's `train_temp`: the bias of the decay (`w0`) learns at twice the rate, and weight decay is for matrices
alone, which leaves out norms, mixes and the low-rank maps; decaying those makes a model much worse.
"""

import re

from torch import nn

from .parameter_selectors import parts_of


DECAY_BIAS = re.compile(r"\.w_lora\.lora\.2\.bias$")
_LOW_RANK = re.compile(r"\.[wavgsk]_lora\.lora\.")
_MATRIX = re.compile(r"\.weight$|\.lora_[AB]\.|\.miss_block")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay is for the parameter `name`."""
    is_matrix = parameter.squeeze().dim() >= 2
    return is_matrix and _MATRIX.search(name) is not None and _LOW_RANK.search(name) is None


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    decay_bias_multiplier: float,
    part_learning_rates: dict[str, float],
) -> list[dict]:
    """Groups for a torch optimiser of all trainable parameters.

    Args:
        model: The model.
        learning_rate: Of all parts without one of their own.
        weight_decay: Of matrices.
        decay_bias_multiplier: What the learning rate of the decay's bias is multiplied by.
        part_learning_rates: Learning rates by part, see [`parts`]; the narrowest part that is named counts.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        named = [part for part in parts_of(name) if part in part_learning_rates]
        rate = part_learning_rates[named[0]] if named else learning_rate
        rate *= decay_bias_multiplier if DECAY_BIAS.search(name) else 1.0
        decay = weight_decay if is_decayed(name, parameter) else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()]

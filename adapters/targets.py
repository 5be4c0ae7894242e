# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Which layers adapters are put on: the large matrices of the language model, never those of an encoder.

PEFT's lists of name endings, such as `k_proj`, also hit the attention of vision and audio towers.
"""

import re
from collections.abc import Sequence

from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    TRANSFORMERS_MODELS_TO_MISS_TARGET_MODULES_MAPPING,
)
from torch import nn

from ..configuration.configuration_rwkv_world import RWKVWorldConfig


LAYERS = ("attn.r_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ffn.key", "ffn.value")


def language_model_targets(model: nn.Module, layers: tuple[str, ...] = LAYERS) -> str:
    """A pattern for `target_modules` that matches these layers of the language model and nothing else.

    Args:
        model: A text model with or without head, or a composite that holds one.
        layers: Names inside a block, of `LAYERS`.

    Raises:
        ValueError: If a name is none of `LAYERS`, or there is no RWKV-7 text model.
    """
    check_layers(layers)
    ends = "|".join(re.escape(name) for name in layers)
    return rf"{re.escape(language_model_prefix(model))}layers\.\d+\.({ends})"


def check_layers(names: Sequence[str]) -> None:
    """Refuses names that are none of `LAYERS`, and an empty list.

    Raises:
        ValueError: Names them.
    """
    unknown = [str(name) for name in names if name not in LAYERS]
    if unknown or not names:
        raise ValueError(f"targets: {', '.join(unknown) or 'none'} given, expected some of {', '.join(LAYERS)}.")


def language_model_prefix(model: nn.Module) -> str:
    """What stands before the names of the language model's modules, with the dot: `model.` or `model.language_model.`.

    Raises:
        ValueError: If there is no RWKV-7 text model.
    """
    for name, module in model.named_modules():
        # By its name: the model may come from the code that its folder carries, whose classes are not the ones here
        if type(module).__name__ == "RWKV7Model":
            return f"{name}." if name else ""
    raise ValueError(f"{type(model).__name__} has no RWKV-7 text model in it.")


def language_model_norms(model: nn.Module) -> list[str]:
    """Full names of all norms of the language model, which RWKV-PEFT trains beside its adapters.

    Raises:
        ValueError: If there is no RWKV-7 text model.
    """
    prefix = language_model_prefix(model)
    kinds = (nn.LayerNorm, nn.GroupNorm)
    return [n for n, module in model.named_modules() if n.startswith(prefix) and isinstance(module, kinds)]


def register() -> None:
    """Gives PEFT the targets of composites for configurations without `target_modules`; text models it knows."""
    for mapping in (
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_MISS_TARGET_MODULES_MAPPING,
    ):
        mapping[RWKVWorldConfig.model_type] = list(LAYERS)

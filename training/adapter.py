# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The adapter of a recipe: the configuration of one of PEFT's methods."""

from typing import Any

from transformers import PreTrainedModel


def build_adapter(model: PreTrainedModel, adapter: dict[str, Any]) -> PreTrainedModel:
    """The model with a new adapter, everything else of it frozen.

    Args:
        model: The model.
        adapter: Fields of a configuration of PEFT, with `peft_type`, as {"peft_type": "LORA", "r": 8}.

    Raises:
        ValueError: If there is no such method, or a field of it.
    """
    from peft import get_peft_config, get_peft_model

    if "peft_type" not in adapter:
        raise ValueError("adapter: the key 'peft_type' is missing, for instance LORA")
    try:
        config = get_peft_config(dict(adapter))
    except (KeyError, TypeError) as error:
        raise ValueError(f"adapter: {error}") from error
    return get_peft_model(model, config)

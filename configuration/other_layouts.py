# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""`config.json` of the other layouts of RWKV-7 that call themselves `rwkv7` too, as fields of our configuration.

The official layout is that of `RWKV/RWKV7-<size>-<date>` (class `Rwkv7ForCausalLM`, fields named as fla's); the Goose
layout that of `RWKV7-Goose-*-HF` of 2025 (the same class name, fields of its own). Both leave widths out that follow
from the hidden size, each by a formula of its own.
"""

import math
from typing import Any


OFFICIAL, GOOSE, FLA = "official", "Goose", "fla"

# Written by nobody else
_OFFICIAL_FIELDS = ("wkv_implementation", "wkv_state_dtype")
_GOOSE_NAMES = {
    "head_size": "head_dim",
    "num_attention_heads": "num_heads",
    "layer_norm_epsilon": "norm_eps",
    "lora_rank_decay": "decay_low_rank_dim",
    "lora_rank_iclr": "a_low_rank_dim",
    "lora_rank_value_residual_mix": "v_low_rank_dim",
    "lora_rank_gate": "gate_low_rank_dim",
}
_GOOSE_EXTRAS = ("attention_hidden_size", "head_size_divisor")
_FOREIGN_CLASS, _OUR_CLASS = "Rwkv7ForCausalLM", "RWKV7ForCausalLM"
_STEP = 32


def layout_of(config: dict[str, Any]) -> str:
    """Which layout a `config.json` of model type `rwkv7` is of: `OFFICIAL`, `GOOSE`, or else `FLA`, which is ours."""
    if any(name in config for name in ("head_size", *_GOOSE_EXTRAS)):
        return GOOSE
    is_official = _FOREIGN_CLASS in (config.get("architectures") or ())
    return OFFICIAL if is_official or any(name in config for name in _OFFICIAL_FIELDS) else FLA


def to_our_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with the fields of ours; one in the fla layout as it is.

    Args:
        config: What a `config.json` holds.

    Raises:
        ValueError: If it asks for something that RWKV-7 of ours has not.
    """
    layout = layout_of(config)
    if layout == FLA:
        return config
    fields = {_GOOSE_NAMES.get(name, name): value for name, value in config.items()}
    for name in ("auto_map", *_OFFICIAL_FIELDS, *_GOOSE_EXTRAS):
        fields.pop(name, None)
    hidden_size = fields.get("hidden_size", 768)  # the default of both
    width = config.get("attention_hidden_size") or hidden_size
    if width != hidden_size:
        raise ValueError(f"attention_hidden_size={width} must equal hidden_size={hidden_size}.")
    defaults = {"hidden_size": hidden_size, "num_hidden_layers": 24 if layout == GOOSE else 12}
    defaults |= {"intermediate_size": 4 * hidden_size} | default_ranks(layout, hidden_size)
    for name, value in defaults.items():
        if fields.get(name) is None:
            fields[name] = value
    fields["architectures"] = [
        _OUR_CLASS if name == _FOREIGN_CLASS else name for name in fields.get("architectures") or ()
    ]
    if layout == GOOSE:
        fields["num_heads"] = None  # follows from the others
        fields["group_norm_eps"] = _goose_group_norm_eps(config)
    return fields


def default_ranks(layout: str, hidden_size: int) -> dict[str, int]:
    """Low-rank widths where a configuration gives none."""
    root = math.sqrt(hidden_size)
    if layout == OFFICIAL:  # RWKV-LM, `train_temp`
        widths = {"decay": 2.5 * root, "a": 2.5 * root, "v": 1.7 * root, "gate": 5 * root}
    else:
        widths = {"decay": 1.8 * root, "a": 1.8 * root, "v": 1.3 * root, "gate": 0.6 * hidden_size**0.8}
    return {f"{name}_low_rank_dim": max(_STEP, round(width / _STEP) * _STEP) for name, width in widths.items()}


def _goose_group_norm_eps(config: dict[str, Any]) -> float:
    """BlinkDL's: the LayerNorms' epsilon times the square of `head_size_divisor`."""
    return config.get("layer_norm_epsilon", 1e-5) * config.get("head_size_divisor", 8) ** 2

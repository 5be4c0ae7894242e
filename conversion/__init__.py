# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Foreign checkpoints in and out."""

from .blinkdl import convert_to_blinkdl
from .modrwkv import convert_modrwkv, holds_modrwkv
from .rwkv_peft_names import holds_rwkv_peft
from .text_folders import convert_to_fla, convert_to_hub, convert_to_official
from .visualrwkv import convert_visualrwkv, holds_visualrwkv
from .visualrwkv_export import convert_to_visualrwkv
from .worldrwkv import convert_worldrwkv, holds_worldrwkv


__all__ = [
    "convert_modrwkv",
    "convert_to_blinkdl",
    "convert_to_fla",
    "convert_to_hub",
    "convert_to_official",
    "convert_to_visualrwkv",
    "convert_visualrwkv",
    "convert_worldrwkv",
    "holds_modrwkv",
    "holds_rwkv_peft",
    "holds_visualrwkv",
    "holds_worldrwkv",
]

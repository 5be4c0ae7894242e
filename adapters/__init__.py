# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters of HF PEFT for RWKV-7. Importing the package registers state tuning and the default targets with PEFT."""

from . import state_tuning, targets
from .attach import attach_adapter, build_peft_config, load_adapter
from .state_tuning import StateTuningConfig
from .targets import language_model_targets


state_tuning.register()
targets.register()

__all__ = [
    "StateTuningConfig",
    "attach_adapter",
    "build_peft_config",
    "language_model_targets",
    "load_adapter",
]

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters of HF PEFT for RWKV-7. `registration.py` registers them with it."""

from ..configuration.optional_libraries import optional_imports


with optional_imports():
    from .attach import attach_adapter, build_peft_config, check_adapter, load_adapter
    from .state_tuning import StateTuningConfig
    from .targets import language_model_targets


__all__ = [
    "StateTuningConfig",
    "attach_adapter",
    "build_peft_config",
    "check_adapter",
    "language_model_targets",
    "load_adapter",
]

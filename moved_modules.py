# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Modules that were called otherwise in version 0.1: their old names still import, as the same module."""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


_PACKAGE = __name__.rpartition(".")[0]

# Only what the README and the documentation of 0.1 named, and the engines that scripts watch to see what ran
NEW_NAMES = {
    "kernels.decode_cpu": "kernels.cpu.decode",
    "kernels.prefill_cpu": "kernels.cpu.prefill",
    "records": "data",
    "records.manifests": "data.manifests",
    "state_statistics": "state.statistics",
    "training.arguments": "training.recipe.arguments",
    "training.data": "data",
    "training.data.formats": "data.formats",
    "training.data.mixture": "data.mixture",
    "training.sampling": "training.trainer.sampling",
    "evaluation.adapters": "evaluation.harnesses",
    "evaluation.adapters.lmms_eval": "evaluation.harnesses.lmms_eval",
    "evaluation.adapters.vlmevalkit": "evaluation.harnesses.vlmevalkit",
}


class _OldNames(MetaPathFinder, Loader):
    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package != _PACKAGE or module not in NEW_NAMES:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{_PACKAGE}.{NEW_NAMES[spec.name.partition('.')[2]]}")
        self._own = module.__spec__, getattr(module, "__loader__", None)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run again; the module keeps the name and the place that it has."""
        module.__spec__, module.__loader__ = self._own


def keep_old_names() -> None:
    """Lets the old names import. May be called again."""
    if not any(type(finder).__name__ == _OldNames.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())  # first, for old folders give their modules' path

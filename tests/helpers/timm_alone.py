# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""timm's models without torchvision, which PyPI has for CUDA only, and which timm needs for its data alone."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from unittest.mock import MagicMock, patch

from .clean_environment import APART


MISSING = "torchvision"


class _Standin(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets modules of torchvision be imported, with anything in them."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == MISSING else None

    def create_module(self, spec):
        return MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module):
        pass


def import_timm() -> ModuleType:
    """timm, which lies apart (`APART-test` in the Makefile); nothing else of what lies there can be imported after."""
    with (
        patch.object(sys, "path", [*sys.path, str(APART)]),
        patch.object(sys, "meta_path", [_Standin(), *sys.meta_path]),
    ):
        timm = importlib.import_module("timm")
    for name in [name for name in sys.modules if name.split(".")[0] == MISSING]:
        del sys.modules[name]
    return timm

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Modules by the names that they had in version 0.1."""

import importlib
import subprocess
import sys

import pytest

from rwkv7_world.moved_modules import NEW_NAMES


# One needs VLMEvalKit with all that it requires
@pytest.mark.parametrize("old, new", [names for names in NEW_NAMES.items() if "vlmevalkit" not in names[0]])
def test_an_old_name_gives_the_same_module(old, new):
    module = importlib.import_module(f"rwkv7_world.{new}")
    assert importlib.import_module(f"rwkv7_world.{old}") is module
    assert module.__spec__.name == module.__name__ == f"rwkv7_world.{new}"


def test_an_old_name_may_come_first():
    program = (
        "from rwkv7_world.training.data.formats import FORMATS as old\n"
        "from rwkv7_world.data.formats import FORMATS as new\n"
        "assert old is new"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_never_was_is_still_not_found():
    with pytest.raises(ModuleNotFoundError, match="rwkv7_world.training.nothing"):
        importlib.import_module("rwkv7_world.training.nothing")

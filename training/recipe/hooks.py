# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Python that a recipe names as "file.py:object"."""

import importlib
import sys
from pathlib import Path
from typing import Any


def is_hook(name: str) -> bool:
    """Whether a value of a recipe names Python."""
    return ".py:" in name


def check_hook(name: str, folder: Path) -> None:
    """Refuses what is not "file.py:object", or names no file below `folder`.

    Raises:
        FileNotFoundError: Says what was expected.
    """
    if not is_hook(name) or not (folder / name.rpartition(":")[0]).is_file():
        raise FileNotFoundError(f"{name}: expected file.py:object with a file below {folder}")


def load_hook(name: str, folder: Path) -> Any:
    """The object that "file.py:object" names; the file may import its neighbours.

    Args:
        name: The file, relative to `folder`, and what to take of it.
        folder: The folder of the recipe.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no such object, or another module has its name.
    """
    check_hook(name, folder)
    file, _, attribute = name.rpartition(":")
    path = (folder / file).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    if Path(module.__file__).resolve() != path:
        raise ValueError(f"{name}: another module is called {path.stem} ({module.__file__}); rename the file")
    if not hasattr(module, attribute):
        raise ValueError(f"{name}: {path} has no {attribute}")
    return getattr(module, attribute)

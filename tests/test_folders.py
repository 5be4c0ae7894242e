# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The folders keep to the table of `docs/architecture.md`: imports run one way, and no two modules in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rwkv7_world


ROOT = Path(rwkv7_world.__file__).parent
CORE = {"configuration", "kernels", "modeling_rwkv7_world"}
LIBRARY = CORE | {"processing", "data", "adapters", "conversion", "state"}
MAY_IMPORT = {
    "configuration": set(),
    "kernels": set(),
    "modeling_rwkv7_world": {"configuration", "kernels"},
    "processing": {"configuration"},
    "data": {"configuration", "processing"},
    "adapters": {"configuration", "modeling_rwkv7_world"},
    "conversion": CORE | {"processing", "adapters"},
    "state": CORE | {"conversion"},
    "evaluation": {"configuration", "data", "processing"},
    "publishing": CORE | {"conversion", "state"},
    "training": LIBRARY | {"evaluation", "publishing"},
}


def modules() -> dict[str, Path]:
    """Every module of the folders above by its path without the ending."""
    files = (file for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py"))
    return {file.relative_to(ROOT).with_suffix("").as_posix(): file for file in files}


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports, at its top and inside functions; what only type checkers see does not count."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    branches = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    unseen = {inner for node in branches if "TYPE_CHECKING" in ast.dump(node.test) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or node in unseen:
            continue
        place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for path in (place, *(place / alias.name for alias in node.names)):
            name = path.relative_to(ROOT).as_posix()
            yield from (found for found in (name, f"{name}/__init__") if found in known)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_stands_above_it(folder, graph):
    own = {name: found for name, found in graph.items() if name.startswith(f"{folder}/")}
    assert own
    folders = {found.partition("/")[0] for names in own.values() for found in names}
    assert folders <= MAY_IMPORT[folder] | {folder}


def test_no_modules_import_one_another_in_a_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The code that a saved folder carries, so that it loads by `trust_remote_code=True` where this package is not.

transformers' loader follows only `from .module import name` within one folder, and copies only `.py` files. So the
modules that `hub_classes` needs are written out flat: relative imports are rewritten, libraries that only some tasks
need are imported inside `try`, which the loader takes for optional, and C++ and CUDA sources become strings. Written
from a folder's own code, which is flat already, they come out as they are.
"""

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


CODE_FOLDER = "rwkv7_world_code"
ENTRY_MODULE = "hub_classes"
# What every environment has that can load a model by transformers; of other libraries the loader must not complain
REQUIRED_LIBRARIES = {"huggingface_hub", "numpy", "safetensors", "tokenizers", "torch", "transformers"}
PLATFORM_MODULES = {"fcntl"}  # of the standard library, but not everywhere
KERNELS = "kernels"  # modules below this folder are named as modules of other folders, and keep their path in front

NATIVE_SOURCES_MODULE = "native_library.py"
NATIVE_SUFFIXES = (".cpp", ".cu", ".h")
NO_SOURCES = "SOURCES: dict[str, str] = {}\n"


def class_references(classes: dict[str, str]) -> dict[str, str]:
    """The `auto_map` of a configuration file, from names of Auto classes to names of our classes."""
    return {auto_class: f"{CODE_FOLDER}/{ENTRY_MODULE}.{name}" for auto_class, name in classes.items()}


def pipeline_references(pipelines: dict[str, tuple[str, str]]) -> dict[str, dict]:
    """The `custom_pipelines` of a configuration file, from tasks to (name of our class, name of an Auto class)."""
    return {
        task: {"impl": f"{CODE_FOLDER}/{ENTRY_MODULE}.{name}", "pt": [auto_class]}
        for task, (name, auto_class) in pipelines.items()
    }


def write_code(folder: str | Path) -> None:
    """Writes the code into a sub-folder of `folder`; what is there already stays untouched if it is the same."""
    target = Path(folder) / CODE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for name, text in flat_modules(_entry()).items():
        path = target / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


@functools.cache
def flat_modules(entry: Path) -> dict[str, str]:
    """A module and all modules that it imports relatively, by the file names that they have in one folder.

    Raises:
        ValueError: If two modules would have one name, or one imports in a way that cannot be rewritten.
    """
    texts, origins, waiting = {}, {}, [entry]
    while waiting:
        path = waiting.pop()
        name = f"{_flat_name(path)}.py"
        if origins.setdefault(name, path) != path:
            raise ValueError(f"{path} and {origins[name]} would both be {name} in a saved folder")
        if name not in texts:
            texts[name], imported = _flatten(path)
            waiting += imported
    return texts


class SavedWithCode:
    """For classes that are saved together with the code: the loader need not copy anything when they are."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Does nothing: the loader asks for this so that `save_pretrained` copies the module of this one class."""


class WritesItsCode(SavedWithCode):
    """For configurations, with which models are saved, and processors: `save_pretrained` writes the code too.

    `auto_classes` gives the name of our class for every Auto class.
    """

    auto_classes = {}

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs) -> Any:
        """As the base class does, and the code in a sub-folder, which the file written refers to."""
        self.auto_map = class_references(self.auto_classes)
        if not Path(save_directory).is_file():  # of which the base class complains
            write_code(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def _entry() -> Path:
    flat = Path(__file__).with_name(f"{ENTRY_MODULE}.py")
    return flat if flat.is_file() else Path(__file__).parents[1] / flat.name


def _flat_name(path: Path) -> str:
    folders = path.parent.parts
    below = folders[len(folders) - folders[::-1].index(KERNELS) - 1 :] if KERNELS in folders[-2:] else ()
    return "_".join((*below, path.stem))


def _flatten(path: Path) -> tuple[str, list[Path]]:
    """The text of a module as it stands in the flat folder, and the modules that it imports."""
    text = path.read_text(encoding="utf-8")
    lines, imported = text.splitlines(keepends=True), []
    tree = ast.parse(text)
    in_try = {inner for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    statements = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in sorted(statements, key=lambda node: -node.lineno):
        if isinstance(node, ast.ImportFrom) and node.level:
            modules = list(_relative_modules(node, path))
            imported += [module for module, _ in modules]
            new = _flat_import(node, modules)
        elif _is_optional(node) and node not in in_try:
            new = ["try:", f"    {ast.unparse(node)}", "except ImportError:", "    raise"]
        else:
            continue
        if new != ast.unparse(node).splitlines():
            lines[node.lineno - 1 : node.end_lineno] = [f"{' ' * node.col_offset}{line}\n" for line in new]
    text = "".join(lines)
    return _with_native_sources(text, path.parent) if path.name.endswith(NATIVE_SOURCES_MODULE) else text, imported


def _relative_modules(node: ast.ImportFrom, path: Path) -> Iterator[tuple[Path, ast.alias | None]]:
    """Files that a relative import reads; with the name it binds, where that is the module itself."""
    place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    if place.is_dir():
        found = [(place / f"{alias.name}.py", alias) for alias in node.names]
    else:
        found = [(place.with_suffix(".py"), None)]
    for module, alias in found:
        if not module.is_file():
            raise ValueError(f"{path}:{node.lineno}: {module} is no module, so a saved folder cannot carry the import")
        yield module, alias


def _flat_import(node: ast.ImportFrom, modules: list[tuple[Path, ast.alias | None]]) -> list[str]:
    """The lines in place of a relative import. The loader does not know `from . import module`."""
    if modules[0][1] is None:
        return [ast.unparse(ast.ImportFrom(_flat_name(modules[0][0]), node.names, level=1))]
    lines = ["import sys"]
    for module, alias in modules:
        name = alias.asname or alias.name
        lines += [f"from .{_flat_name(module)} import __name__ as {name}", f"{name} = sys.modules[{name}]"]
    return lines


def _is_optional(node: ast.Import | ast.ImportFrom) -> bool:
    names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    libraries = {name.partition(".")[0] for name in names}
    return not libraries <= (REQUIRED_LIBRARIES | sys.stdlib_module_names) - PLATFORM_MODULES


def _with_native_sources(text: str, folder: Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.suffix in NATIVE_SUFFIXES)
    entries = [f'    "{file.name}": {_literal(file.read_text(encoding="utf-8"))},\n' for file in files]
    return text.replace(NO_SOURCES, NO_SOURCES.replace("{}", "{\n" + "".join(entries) + "}"))


def _literal(text: str) -> str:
    readable = f'r"""{text}"""'
    return readable if '"""' not in text and not text.endswith(("\\", '"')) else repr(text)

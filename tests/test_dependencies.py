# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""setup.cfg declares what the package imports, and what is missing is named with the command that installs it."""

import ast
import builtins
import re
import sys
from collections.abc import Iterable
from configparser import ConfigParser
from pathlib import Path

import pytest

from rwkv7_world import __version__
from rwkv7_world.configuration.optional_libraries import EXTRAS, missing, optional_imports
from rwkv7_world.evaluation.error_rates import utterance_errors


ROOT = Path(__file__).resolve().parents[1]
MODULES_OF = {"pillow": "PIL", "pyyaml": "yaml", "espeakng-loader": "espeakng_loader"}
# httpx comes with huggingface_hub, under either name; the others are programs that load this package, or that a
# benchmark runs beside it and skips where they are missing
UNDECLARED = {"httpx", "llama_cpp", "lmms_eval", "vlmeval", "rwkv7_world"}


def package_files() -> list[Path]:
    """Sources of the packages that setup.cfg lists, and the metrics, which are data of the package."""
    folders = [ROOT.joinpath(*name.split(".")[1:]) for name in listed("options", "packages")]
    return [file for folder in folders for file in folder.glob("*.py")] + list(ROOT.glob("evaluation/metrics/*/*.py"))


def listed(section: str, key: str) -> list[str]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return [line.strip() for line in setup[section][key].splitlines() if line.strip() and not line.startswith("#")]


def declared() -> set[str]:
    """Top-level modules of the requirements and of all extras."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = listed("options", "install_requires")
    for extra in setup["options.extras_require"]:
        lines += listed("options.extras_require", extra)
    return modules_of(lines)


def modules_of(requirements: list[str]) -> set[str]:
    names = {re.match(r"[\w.-]+", line)[0] for line in requirements}
    return {MODULES_OF.get(name.lower(), name.replace("-", "_")) for name in names}


def imported(file: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return imports_of(tree.body if top_level_only else ast.walk(tree))


def imports_of(nodes: Iterable[ast.AST]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names


def test_every_import_is_declared():
    files = package_files()
    assert len(files) > 150
    wrong = {(name, str(file)) for file in files for name in imported(file) - declared() - UNDECLARED}
    assert wrong == set()


def test_what_the_models_import_at_once_is_required_always():
    always = modules_of(listed("options", "install_requires"))
    for folder in ("configuration", "modeling_rwkv7_world", "processing", "state", "cli"):
        for file in (ROOT / folder).glob("*.py"):
            assert imported(file, top_level_only=True) <= always | UNDECLARED, file


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    real = builtins.__import__

    def without_jiwer(name, *arguments, **options):
        if name.partition(".")[0] == "jiwer":
            raise ModuleNotFoundError("No module named 'jiwer'", name="jiwer")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_jiwer)
    with pytest.raises(ModuleNotFoundError, match=r'^jiwer is not installed; pip install "rwkv7-world\[eval\]"$'):
        utterance_errors("a", "b")
    assert str(missing("deepspeed")) == 'deepspeed is not installed; pip install "rwkv7-world[deepspeed]"'


def test_a_module_of_no_extra_keeps_its_message():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"), optional_imports():
        import no_such_module  # noqa: F401


def test_the_version_stands_in_one_place():
    assert listed("metadata", "version") == ["attr: rwkv7_world.__version__"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {__version__}\n" in citation
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_imports_of_optional_libraries_name_the_extra():
    """In the folders that Python users import; adapters/__init__.py does so for all its modules."""
    folders = ("conversion", "data", "evaluation", "processing", "training")
    files = {file for folder in folders for file in (ROOT / folder).rglob("*.py")}
    files -= {*ROOT.glob("evaluation/metrics/*/*.py"), ROOT / "evaluation/plots.py"}  # imported where it is there
    unnamed = []
    for file in files:
        blocks = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.With)]
        named = [node for node in blocks if ast.unparse(node.items[0]) == "optional_imports()"]
        inside = {name for node in named for name in imports_of(ast.walk(node))}
        unnamed += [(str(file), name) for name in (imported(file) & EXTRAS.keys()) - inside]
    assert unnamed == []

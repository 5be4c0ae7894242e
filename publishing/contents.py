# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What a folder holds that is to be published, and whether all of it may be."""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..configuration.source_code import CODE_FOLDER
from ..conversion.folder import read_json
from ..state import FILE_FORMAT


class Kind(StrEnum):
    """What is published."""

    TEXT = "text model"
    WORLD = "model with eyes or ears"
    ADAPTER = "adapter"
    STATE = "trained state"


# Files that a model, an adapter or a state consists of; anything else was hardly meant to be published
EXPECTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "chat_templates/*.jinja",
    "rwkv_vocab_*.txt",
    f"{CODE_FOLDER}/*.py",
    "results*.json",
    "recipe.yaml",
    "README.md",
    "LICENSE*",
    "NOTICE*",
)
NEVER_LISTED = (".git/*", ".cache/*", "*/__pycache__/*", "__pycache__/*", ".gitattributes", ".DS_Store")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SECRET_FILES = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "id_rsa*",
    "id_ed25519*",
    ".netrc",
    "credentials*",
    "token",
    "*.token",
)
SECRET_TEXTS = {
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "an AWS key": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
# Texts that only this machine understands, at the start of a value
LOCAL_PATH = re.compile(r"(?:/(?:[^/\s]+/)+[^/\s]|~/|\.\.?/|[A-Za-z]:\\|file://)")
PATH_FREE_FILES = ("*config.json", "results*.json", "*.index.json", "recipe.yaml")
YAML_VALUE = re.compile(r"""[:\-]\s+["']?(?P<value>[^"'#\s]+)""")


@dataclass(frozen=True)
class Contents:
    """A folder that may be published.

    Args:
        folder: Where it is.
        kind: What it holds.
        files: Relative paths of all files that go, sorted, without a model card.
        config: Its `config.json` or `adapter_config.json`; empty for states.
    """

    folder: Path
    kind: Kind
    files: tuple[str, ...]
    config: dict

    @property
    def weights(self) -> list[Path]:
        """Its safetensors files."""
        return [self.folder / name for name in self.files if name.endswith(".safetensors")]


def read_contents(folder: Path, exclude: tuple[str, ...] = ()) -> Contents:
    """Looks through a folder.

    Args:
        folder: Of a model, an adapter or trained states.
        exclude: Patterns of files that stay here.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds what must not or need not be published, or nothing that could be.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    names = [name for name in names if not _matches(name, NEVER_LISTED + exclude)]
    for name in names:
        _check_name(folder, name)
    kind, config = _kind(folder, names)
    for name in names:
        _check_text(folder, name, kind)
    return Contents(folder, kind, tuple(name for name in names if name != "README.md"), config)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)


def _check_name(folder: Path, name: str) -> None:
    file = folder / name
    if _matches(name, SECRET_FILES):
        raise ValueError(f"{file}: may hold a secret; take it out of the folder, or --exclude it")
    if file.suffix in PICKLES:
        raise ValueError(f"{file}: a pickle, which can run code; only safetensors are published. --exclude it")
    if not any(fnmatch(name, pattern) for pattern in EXPECTED):
        raise ValueError(f"{file}: no part of a model, adapter or state; --exclude it, or take it out of the folder")


def _kind(folder: Path, names: list[str]) -> tuple[Kind, dict]:
    if "adapter_config.json" in names:
        return Kind.ADAPTER, read_json(folder / "adapter_config.json")
    if "config.json" in names:
        config = read_json(folder / "config.json")
        kinds = {"rwkv7": Kind.TEXT, "rwkv_world": Kind.WORLD}
        if config.get("model_type") not in kinds:
            expected = " or ".join(kinds)
            raise ValueError(f"{folder}/config.json: model_type is {config.get('model_type')!r}, expected {expected}")
        if "auto_map" not in config:
            raise ValueError(f"{folder}: holds no code, so strangers could not load it; save it with save_pretrained")
        return kinds[config["model_type"]], config
    states = [name for name in names if name.endswith(".safetensors") and is_state(folder / name)]
    if states:
        return Kind.STATE, {}
    raise ValueError(f"{folder}: holds no config.json, no adapter_config.json and no trained state")


def is_state(file: Path) -> bool:
    """Whether a safetensors file is a state that `rwkv7_world.state` reads, from a text or from training.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    return is_trained_state(file) or _metadata(file).get("format") == FILE_FORMAT


def is_trained_state(file: Path) -> bool:
    """Whether a safetensors file is a state from training.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    with _opened(file) as tensors:
        return any(name.endswith(".att.time_state") for name in tensors.keys())  # noqa: SIM118 (it is no dict)


def _metadata(file: Path) -> dict[str, str]:
    with _opened(file) as tensors:
        return tensors.metadata() or {}


def _opened(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file}: not a safetensors file, or not a whole one ({error})") from error


def _check_text(folder: Path, name: str, kind: Kind) -> None:
    """Refuses secrets in any text, and paths of this machine in configurations."""
    file = folder / name
    if file.suffix == ".safetensors":
        _metadata(file)
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    for what, pattern in SECRET_TEXTS.items():
        if pattern.search(text):
            raise ValueError(f"{file}: holds what looks like {what}; take it out")
    if not _matches(name, PATH_FREE_FILES):
        return
    if file.suffix == ".json":
        values = _strings(json.loads(text))
    else:
        values = ((match["value"], match["value"]) for match in YAML_VALUE.finditer(text))
    for key, value in values:
        # Which base model an adapter was trained on is told by the one who publishes
        if LOCAL_PATH.match(value) and not (kind is Kind.ADAPTER and key == "base_model_name_or_path"):
            raise ValueError(f"{file}: {key} is {value!r}, a path on this machine; take it out")


def _strings(value, key: str = ""):
    """All texts in a JSON value with the names that they stand under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _strings(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, key)

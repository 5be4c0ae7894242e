# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What a folder holds that is to be published, and whether all of it may be."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..configuration.source_code import CODE_FOLDER, ENTRY_MODULE
from ..conversion.folder import INDEX_FILE, names_not_finite, read_json
from ..state.states import FILE_FORMAT


ADAPTER_CONFIG, CONFIG = "adapter_config.json", "config.json"
CARD_FILE = "README.md"


class Kind(StrEnum):
    """What is published."""

    TEXT = "text model"
    WORLD = "model with vision or audio encoders"
    ADAPTER = "adapter"
    STATE = "trained state"


# What a run of training, and tools, leave in a folder beside the model; it stays here without being named
LEFT_OUT = (
    "checkpoint-*/*",
    "_partial/*",
    "_base/*",
    "base/*",
    "predictions/*",
    "recipe.yaml",
    "skipped_rows.jsonl",
    "auxiliary.safetensors",
    "training_args.bin",
    "trainer_state.json",
    "*_results.json",
    "optimizer.pt",
    "optimizer.bin",
    "optimizer_*/*",
    "pytorch_model_fsdp_*/*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*.pth",
    "global_step*/*",
    "zero_to_fp32.py",
    "latest",
    "runs/*",
    "events.out.tfevents.*",
    "wandb/*",
    "mlruns/*",
    "emissions.csv",
    "*.log",
    ".git/*",
    ".cache/*",
    "*/__pycache__/*",
    "__pycache__/*",
    ".ipynb_checkpoints/*",
    ".gitattributes",
    ".gitignore",
    ".DS_Store",
)
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
    "README.md",
    "LICENSE*",
    "NOTICE*",
)
_WEIGHTS = {"weights": ("model*.safetensors",)}
_TOKENIZER = {"tokenizer": ("tokenizer.json", "rwkv_vocab_*.txt")}
# What must be there, with the files that are it
NEEDED = {
    Kind.TEXT: _WEIGHTS | _TOKENIZER,
    Kind.WORLD: _WEIGHTS | _TOKENIZER | {"processor": ("processor_config.json",)},
    Kind.ADAPTER: {"weights": ("adapter_model.safetensors",)},
    Kind.STATE: {},
}
MODEL_KINDS = {"rwkv7": Kind.TEXT, "rwkv_world": Kind.WORLD}
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
PATH_FREE_FILES = ("*config.json", "results*.json", "*.index.json")


@dataclass(frozen=True)
class Contents:
    """A folder that is to be published.

    Args:
        folder: Where it is.
        kind: What it holds; `None` if nothing that can be published.
        files: Relative paths of all files that go, sorted, without a model card.
        config: Its `config.json` or `adapter_config.json`; empty for states.
        left_out: Relative paths of the files that stay here, sorted.
    """

    folder: Path
    kind: Kind | None
    files: tuple[str, ...]
    config: dict
    left_out: tuple[str, ...] = ()

    @property
    def weights(self) -> list[Path]:
        """Its safetensors files."""
        return [self.folder / name for name in self.files if name.endswith(".safetensors")]


def read_contents(folder: Path, exclude: tuple[str, ...] = ()) -> Contents:
    """Looks through a folder; [`find_problems`] says whether it may be published.

    Args:
        folder: Of a model, an adapter or trained states, and whatever a run of training left beside it.
        exclude: Patterns of more files that stay here.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: neither a folder nor a checkpoint")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    left_out = tuple(name for name in names if _matches(name, LEFT_OUT + exclude))
    files = tuple(name for name in names if name not in {*left_out, CARD_FILE})
    kind, config = _kind(folder, files)
    return Contents(folder, kind, files, config, left_out)


def find_problems(contents: Contents) -> Iterator[str]:
    """All that keeps a folder from being published: secrets, paths of this machine, pickles, stray files, files that
    are missing or damaged, weights that are not finite."""
    for name in (*contents.files, CARD_FILE):
        file = contents.folder / name
        if _matches(name, SECRET_FILES):
            yield f"{file}: may hold a secret; take it out of the folder, or --exclude it"
        elif file.suffix in PICKLES:
            yield f"{file}: a pickle, which can run code; only safetensors are published. --exclude it"
        elif not any(fnmatch(name, pattern) for pattern in EXPECTED):
            yield f"{file}: no part of a model, adapter or state; --exclude it, or take it out of the folder"
        elif file.suffix == ".safetensors":
            yield from _problems_of_weights(file)
        elif file.is_file():
            yield from _problems_of_text(file, contents.kind)
    yield from _missing(contents)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)


def _kind(folder: Path, files: tuple[str, ...]) -> tuple[Kind | None, dict]:
    for name in (ADAPTER_CONFIG, CONFIG):
        if name in files:
            with suppress(ValueError):  # which `find_problems` tells
                config = read_json(folder / name)
                return Kind.ADAPTER if name == ADAPTER_CONFIG else MODEL_KINDS.get(config.get("model_type")), config
            return None, {}
    for name in files:
        with suppress(ValueError):
            if name.endswith(".safetensors") and is_state(folder / name):
                return Kind.STATE, {}
    return None, {}


def is_state(file: Path) -> bool:
    """Whether a safetensors file is a state that `rwkv7_world.state` reads, from a text or from training.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    with _opened(file) as tensors:
        return is_trained_state(file) or (tensors.metadata() or {}).get("format") == FILE_FORMAT


def is_trained_state(file: Path) -> bool:
    """Whether a safetensors file is a state from training.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    return any(name.endswith(".att.time_state") for name in tensor_names(file))


def tensor_names(file: Path) -> list[str]:
    """Names of the tensors in a safetensors file.

    Raises:
        ValueError: If it is no whole safetensors file.
    """
    with _opened(file) as tensors:
        return list(tensors.keys())


def _opened(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file}: not a safetensors file, or not a whole one ({error})") from error


def _problems_of_weights(file: Path) -> Iterator[str]:
    try:
        with _opened(file) as tensors:
            bad = [name for name in tensors.keys() if names_not_finite({name: tensors.get_tensor(name)})]  # noqa: SIM118
    except ValueError as error:
        yield str(error)
        return
    if bad:
        yield f"{file}: {len(bad)} tensors hold NaN or infinity, for example {bad[0]}"


def _problems_of_text(file: Path, kind: Kind | None) -> Iterator[str]:
    """Secrets in any text, and paths of this machine in configurations."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for what, pattern in SECRET_TEXTS.items():
        if pattern.search(text):
            yield f"{file}: holds what looks like {what}; take it out"
    if file.suffix != ".json":
        return
    try:
        content = json.loads(text)
    except ValueError as error:
        yield f"{file}: not a JSON file ({error})"
        return
    for key, value in _strings(content) if _matches(file.name, PATH_FREE_FILES) else ():
        # Which base model an adapter was trained on is told by the one who publishes
        if LOCAL_PATH.match(value) and not (kind is Kind.ADAPTER and key == "base_model_name_or_path"):
            yield f"{file}: {key} is {value!r}, a path on this machine; take it out"


def _missing(contents: Contents) -> Iterator[str]:
    """What a folder of its kind needs and does not hold."""
    folder, config = contents.folder, contents.config
    if contents.kind is None:
        if config:
            expected = " or ".join(MODEL_KINDS)
            yield f"{folder}/config.json: model_type is {config.get('model_type')!r}, expected {expected}"
        elif not {CONFIG, ADAPTER_CONFIG} & set(contents.files):
            checkpoints = sorted(folder.glob("checkpoint-*/"), key=lambda path: path.stat().st_mtime)
            hint = f"; the run did not end: --resume ends it, or upload {checkpoints[-1]}" if checkpoints else ""
            yield f"{folder}: holds no config.json, no adapter_config.json and no trained state{hint}"
        return
    for what, patterns in NEEDED[contents.kind].items():
        if not any(fnmatch(name, pattern) for name in contents.files for pattern in patterns):
            yield f"{folder}: holds no {what} ({' or '.join(patterns)})"
    if INDEX_FILE in contents.files:
        with suppress(ValueError):
            for shard in sorted(set(read_json(folder / INDEX_FILE).get("weight_map", {}).values())):
                if shard not in contents.files:
                    yield f"{folder / shard}: no such file, but {INDEX_FILE} names it"
    if contents.kind in MODEL_KINDS.values() and not (
        "auto_map" in config and f"{CODE_FOLDER}/{ENTRY_MODULE}.py" in contents.files
    ):
        yield f"{folder}: holds no code, so strangers could not load it; save it with save_pretrained"


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

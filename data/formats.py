# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The formats of data by name, and how a format is told from a file."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .binidx import read_binidx
from .chat import read_chat
from .json_records import read_records
from .llava import read_llava
from .manifests import AUDIO_COLUMNS, SEPARATORS
from .plain_text import read_text
from .stored import read_stored
from .stored_sets import is_stored_folder
from .transcripts import read_transcripts
from .worldrwkv import is_worldrwkv_folder, read_worldrwkv


# A reader takes a path and options, and gives rows of [`conversations`] with a length, or an `IterableDataset`
Reader = Callable[..., Any]
FORMATS: dict[str, Reader] = {
    "chat": read_chat,
    "llava": read_llava,
    "text": read_text,
    "transcripts": read_transcripts,
    "worldrwkv": read_worldrwkv,
    "datasets": read_stored,
    "binidx": read_binidx,
}
# What the first record of a JSON file of each format has
_RECORD_KEYS = {"messages": "chat", "conversations": "llava"} | dict.fromkeys(AUDIO_COLUMNS, "transcripts")
_RECORD_KEYS |= {"text": "text"}
_SUFFIXES = {".txt": "text", ".bin": "binidx", ".idx": "binidx"} | dict.fromkeys(SEPARATORS, "transcripts")
# Formats whose path need not be that of a file: they say themselves what is missing
_NO_FILE = ("datasets", "binidx")


class UnknownOptionError(ValueError):
    """An option that the format of the data does not have; the message says which it has."""


def read_data(path: str, format: str | Reader | None = None, **options):
    """The rows of some data.

    Args:
        path: A file or folder, or whatever else the format takes.
        format: A name of `FORMATS`, a reader, or `None` to tell it from the file.
        options: Of the reader.

    Raises:
        FileNotFoundError: If there is no such file, where the format has to be told from it.
        UnknownOptionError: If the format does not have an option.
        ValueError: If the format is unknown.
    """
    name = detect_format(Path(path)) if format is None else format
    if isinstance(name, str) and name not in FORMATS:
        raise ValueError(f"{path}: unknown format {name!r}, expected one of {', '.join(FORMATS)}")
    reader = FORMATS[name] if isinstance(name, str) else name
    _check_options(reader, options, f"{path}: format {name if isinstance(name, str) else name.__name__}")
    if isinstance(name, str) and name not in _NO_FILE and not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    return reader(path, **options)


def detect_format(path: Path) -> str:
    """The format of a file or folder, by its suffix, what it holds, or the keys of its first record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be inferred.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix in _SUFFIXES:
        return _SUFFIXES[path.suffix]
    if path.is_dir() and is_worldrwkv_folder(path):
        return "worldrwkv"
    if path.is_dir() and is_stored_folder(path):
        return "datasets"
    advice = f"name it in the recipe as format: {' | '.join(FORMATS)}"
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"{path}: its format cannot be inferred from its name; {advice}")
    _, record = next(read_records(path), (None, None))
    if not isinstance(record, dict):
        raise ValueError(f"{path}: holds no JSON object to tell its format from; {advice}")
    for key, name in _RECORD_KEYS.items():
        if key in record:
            return name
    raise ValueError(f"{path}: a record with the keys {sorted(record)} is of no format known; {advice}")


def _check_options(reader: Reader, options: dict, what: str) -> None:
    parameters = inspect.signature(reader).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = _option_names(reader)
    for name in options:
        if name not in names:
            others = [format for format, other in FORMATS.items() if name in _option_names(other)]
            advice = f"; {name} is an option of {', '.join(others)}" if others else ""
            raise UnknownOptionError(f"{what} has no option {name!r}, it has {', '.join(names) or 'none'}{advice}")


def _option_names(reader: Reader) -> list[str]:
    """All that a reader takes but the path, which comes first."""
    return list(inspect.signature(reader).parameters)[1:]

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Records of JSON arrays and of files with a JSON object a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from .text_files import open_text, read_text


def read_records(path: Path) -> Iterator[tuple[str, dict | str]]:
    """(source, record) of a JSON array or a file with a JSON object a line; a text in place of a broken record.

    Raises:
        ValueError: If a .json file is no array of objects, or a file is of an unknown encoding.
    """
    if path.suffix == ".json":
        yield from _read_array(path)
        return
    yield from read_lines(path)


def read_lines(path: Path) -> Iterator[tuple[str, dict | str]]:
    """(source, record) of a file with a JSON object a line, whatever it is called, as [`read_records`]."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                source = f"{path}:{number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    yield source, f"no JSON ({error})"
                    continue
                yield source, record if isinstance(record, dict) else "no JSON object"


def _read_array(path: Path) -> Iterator[tuple[str, dict | str]]:
    try:
        records = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a JSON array of records, got a {type(records).__name__}")
    for index, record in enumerate(records):
        yield f"{path}[{index}]", record if isinstance(record, dict) else "no JSON object"

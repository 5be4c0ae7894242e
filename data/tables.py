# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of any shape as a set of the `datasets` library: on disk, memory-mapped, or streamed."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from ..configuration.optional_libraries import optional_imports
from .file_versions import version_of_files


with optional_imports():
    import datasets


Rows = Callable[..., Iterator[dict]]
Finish = Callable[[dict], dict]
# Rows as JSON: conversations have no common schema, of contents that are text or blocks of several kinds
_COLUMN = "json"
_FEATURES = datasets.Features({_COLUMN: datasets.Value("string")})
_READERS = Path(__file__).parent  # the code that makes rows of files


def table_of_rows(
    rows: Rows, path: Path, streaming: bool, finish: Finish | None = None, **arguments
) -> datasets.Dataset | datasets.IterableDataset:
    """The rows that `rows(path, **arguments)` yields, which JSON can hold.

    They are read once, into the cache of `datasets`, and again when a file or the readers' code changes.

    Args:
        rows: A generator function of a module, for it tells the name in the cache.
        path: The file that it reads, or the folder with all files that it reads.
        streaming: Whether to read the rows as they are asked for, in place of a cache.
        finish: Makes what is given of a row whenever it is used: what depends on more than the files that are read.
        arguments: Further arguments of `rows`.
    """
    given = {"rows": rows, "path": str(path.resolve()), "arguments": arguments}
    if streaming:
        streamed = datasets.IterableDataset.from_generator(_json_rows, gen_kwargs=given, features=_FEATURES)
        return streamed.map(functools.partial(_parse_one, finish=finish), remove_columns=[_COLUMN])
    parse = functools.partial(_parse, finish=finish)
    if next(rows(path, **arguments), None) is None:  # of which `datasets` makes no set
        return datasets.Dataset.from_dict({_COLUMN: []}, _FEATURES).with_transform(parse)
    own = Path(rows.__code__.co_filename).parent  # of a reader that a recipe names, which may import its neighbours
    given["version"] = version_of_files(path), *map(_version_of_sources, dict.fromkeys([_READERS, own]))
    table = datasets.Dataset.from_generator(_json_rows, gen_kwargs=given, features=_FEATURES)
    return table.with_transform(parse)


def _version_of_sources(folder: Path) -> str:
    """Changes with the code in a folder."""
    sources = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _json_rows(rows: Rows, path: str, arguments: dict, version: tuple | None = None) -> Iterator[dict]:
    for row in rows(Path(path), **arguments):
        yield {_COLUMN: json.dumps(row, ensure_ascii=False)}


def _parse_one(row: dict[str, str], finish: Finish | None) -> dict:
    parsed = json.loads(row[_COLUMN])
    return parsed if finish is None else finish(parsed)


def _parse(batch: dict[str, list[str]], finish: Finish | None) -> dict[str, list]:
    rows = [_parse_one({_COLUMN: text}, finish) for text in batch[_COLUMN]]
    keys = {key: None for row in rows for key in row}
    return {key: [row.get(key) for row in rows] for key in keys}

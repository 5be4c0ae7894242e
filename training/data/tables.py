# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of any shape as a set of the `datasets` library: on disk, memory-mapped, or streamed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets


Rows = Callable[..., Iterator[dict]]
# Rows as JSON: conversations have no common schema, of contents that are text or blocks of several kinds
_COLUMN = "json"
_FEATURES = datasets.Features({_COLUMN: datasets.Value("string")})


def table_of_rows(rows: Rows, path: Path, streaming: bool, **arguments) -> datasets.Dataset | datasets.IterableDataset:
    """The rows that `rows(path, **arguments)` yields, which JSON can hold.

    They are read once, into the cache of `datasets`, and again when the file changes.

    Args:
        rows: A generator function of a module, for it tells the name in the cache.
        path: The file that it reads.
        streaming: Whether to read the rows as they are asked for, in place of a cache.
        arguments: Further arguments of `rows`.
    """
    given = {"rows": rows, "path": str(path.resolve()), "arguments": arguments}
    if streaming:
        streamed = datasets.IterableDataset.from_generator(_json_rows, gen_kwargs=given, features=_FEATURES)
        return streamed.map(lambda row: json.loads(row[_COLUMN]), remove_columns=[_COLUMN])
    given["changed"] = path.stat().st_mtime_ns, path.stat().st_size
    table = datasets.Dataset.from_generator(_json_rows, gen_kwargs=given, features=_FEATURES)
    return table.with_transform(_parse)


def _json_rows(rows: Rows, path: str, arguments: dict, changed: tuple[int, int] | None = None) -> Iterator[dict]:
    for row in rows(Path(path), **arguments):
        yield {_COLUMN: json.dumps(row, ensure_ascii=False)}


def _parse(batch: dict[str, list[str]]) -> dict[str, list]:
    rows = [json.loads(text) for text in batch[_COLUMN]]
    keys = {key: None for row in rows for key in row}
    return {key: [row.get(key) for row in rows] for key in keys}

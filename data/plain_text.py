# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Plain text: JSON lines `{"text": ...}`, or a .txt file."""

from collections.abc import Iterator
from pathlib import Path

from .json_records import read_records
from .tables import table_of_rows
from .text_files import open_text


SAMPLE_BY = ("line", "paragraph", "document")


def read_text(path: str, streaming: bool = False, text_column: str = "text", sample_by: str = "line"):
    """Texts of a .jsonl, .json or .txt file.

    Args:
        path: The file.
        streaming: Whether to read it as rows are asked for.
        text_column: Where a JSON object has its text.
        sample_by: What is one text in a .txt file: a "line", a "paragraph" (up to a blank line) or the "document".

    Raises:
        ValueError: If `sample_by` is not one of these.
    """
    if sample_by not in SAMPLE_BY:
        raise ValueError(f"sample_by is {sample_by!r}, expected one of {', '.join(SAMPLE_BY)}")
    return table_of_rows(text_rows, Path(path), streaming, text_column=text_column, sample_by=sample_by)


def text_rows(path: Path, text_column: str, sample_by: str) -> Iterator[dict]:
    """A row for every text, with `error` for a JSON object without one."""
    if path.suffix == ".txt":
        yield from _plain_rows(path, sample_by)
        return
    for source, record in read_records(path):
        if isinstance(record, str) or not isinstance(record.get(text_column), str):
            reason = record if isinstance(record, str) else f"its keys are {sorted(record)}"
            yield {"error": f"no text under {text_column!r} ({reason})", "source": source}
        else:
            yield {"text": record[text_column], "source": source}


def _plain_rows(path: Path, sample_by: str) -> Iterator[dict]:
    with open_text(path) as lines:
        if sample_by == "document":
            yield {"text": lines.read(), "source": str(path)}
            return
        collected, start = [], 1
        for number, line in enumerate([*lines, ""] if sample_by == "paragraph" else lines, 1):
            if sample_by == "line":
                collected, start = [line], number
            elif line.strip():
                start = start if collected else number
                collected.append(line)
                continue
            if "".join(collected).strip():
                yield {"text": "".join(collected).rstrip("\n"), "source": f"{path}:{start}"}
            collected = []

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows that could not be learned from: counted, and listed in a file, from every worker and process."""

import json
from pathlib import Path


SKIPPED_ROWS_FILE = "skipped_rows.jsonl"
MAX_SOURCE_LENGTH = 200


class SkippedRows:
    """The list of skipped rows.

    Args:
        path: A file of JSON lines that all workers append to; `None` keeps the list in this process alone.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._known: set[str] = set()

    def add(self, row: dict, reason: str) -> None:
        """Lists a row, once."""
        line = json.dumps({"source": row_source(row), "reason": reason}, ensure_ascii=False)
        if line in self._known:
            return
        self._known.add(line)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write of one line in append mode: lines of several workers never mingle
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def __len__(self) -> int:
        """How many different rows are listed, in this run and those that it resumes."""
        if self.path is None or not self.path.exists():
            return len(self._known)
        with open(self.path, encoding="utf-8") as lines:
            return len(set(lines))


def row_source(row: dict) -> str:
    """Where a row is from, or else how it begins."""
    source = row.get("source") or row.get("text") or row.get("messages") or row
    return str(source)[:MAX_SOURCE_LENGTH]

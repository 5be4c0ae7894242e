# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Answers on disk as they are given, so that a run that was killed goes on where it was.

A folder holds `run.json` (what is asked of what), while it runs `samples-N.jsonl` (of every process), and in the end
`samples.jsonl` and `results.json`.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


MANIFEST, SAMPLES = "run.json", "samples.jsonl"


class SampleLog:
    """The log of one run.

    Args:
        folder: Where it is kept.
        settings: What the answers depend on, as JSON.

    Raises:
        ValueError: If the folder holds another run.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.settings = folder, settings
        self._check_same_run()

    def begin(self) -> None:
        """Makes the folder, and writes down what is asked of what."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(MANIFEST, json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n")

    def records(self) -> dict[str, dict]:
        """All records so far, of every process, by their ids; lines that were cut off are left out."""
        files = [self.folder / SAMPLES, *self._parts()]
        return {record["id"]: record for file in files if file.exists() for record in _whole_lines(file)}

    def append(self, records: Sequence[dict], process: int) -> None:
        """Adds records, with one write, to the file of a process."""
        path = self.folder / f"samples-{process}.jsonl"
        content = _as_lines(records)
        with open(path, "ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                # What a killed run wrote last may lack its end
                content = content if file.read(1) == b"\n" else "\n" + content
            file.write(content.encode())

    def finish(self, records: Sequence[dict]) -> None:
        """Replaces the files of the processes by one, in the order given."""
        self.write(SAMPLES, _as_lines(records))
        for part in self._parts():
            part.unlink()

    def discard(self) -> None:
        """Removes what was written so far."""
        for path in [self.folder / MANIFEST, *self._parts()]:
            path.unlink(missing_ok=True)

    def write(self, name: str, content: str) -> Path:
        """Writes a file of the folder atomically."""
        path = self.folder / name
        unfinished = path.with_name(f"{name}.unfinished")
        unfinished.write_text(content, encoding="utf-8")
        return unfinished.replace(path)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("samples-*.jsonl"))

    def _check_same_run(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(f"{self.folder}: not empty, and no run of this command; name another --output")
            return
        if not (self.folder / SAMPLES).exists() and not self._parts():
            return  # it ended before the first answer
        held = json.loads(path.read_text(encoding="utf-8"))
        for name, value in self.settings.items():
            if held.get(name) != value:
                raise ValueError(
                    f"{self.folder}: holds a run with {name} {held.get(name)!r}, this one has {value!r}; "
                    "name another --output, or remove the folder"
                )


def _as_lines(records: Iterable[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _whole_lines(path: Path) -> Iterable[dict]:
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether files are still those that were read."""

import os
from collections.abc import Iterator
from pathlib import Path


def version_of_files(path: Path) -> list[tuple]:
    """Changes with every file at or below `path` that is written, added, removed or renamed, and with every folder."""
    below = sorted(_all_below(path)) if path.is_dir() else [path]
    return [(str(each.relative_to(path)), *_state(each)) for each in below]


def _state(path: Path) -> tuple[int, ...]:
    """Of a folder nothing but that it is there: a reader may look into it for files, even if it is empty."""
    if path.is_dir():
        return ()
    state = path.stat()
    # The time of the last change of status too: the others can be set back, as copying does
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _all_below(folder: Path) -> Iterator[Path]:
    """All files and folders of a folder, also behind links to other folders, each folder once."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:  # a link to a folder that holds it, or a second one to the same
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(name, inner) for inner in folders)
        yield from (path for path in (Path(name, file) for file in files) if path.is_file())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether files are still those that were read."""

import os
from collections.abc import Iterator
from pathlib import Path


def version_of_files(path: Path) -> list[tuple]:
    """Changes with every file at or below `path` that is written, added, removed or renamed."""
    files = sorted(_files_below(path)) if path.is_dir() else [path]
    states = [(str(each.relative_to(path)), each.stat()) for each in files]
    # The time of the last change of status too: the others can be set back, as copying does
    return [(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states]


def _files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder, also behind links to other folders, each folder once."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:  # a link to a folder that holds it, or a second one to the same
            folders.clear()
            continue
        seen.add(real)
        yield from (path for path in (Path(name, file) for file in files) if path.is_file())

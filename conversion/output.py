# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Atomic output: written beside its place under another name, renamed at the end."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def usual_mode(*files: Path) -> None:
    """Gives files the mode that any new file gets here: safetensors makes its own for their owner alone."""
    umask = os.umask(0)  # there is no way to ask but to set it
    os.umask(umask)
    for file in files:
        file.chmod(0o666 & ~umask)


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that becomes `destination`, a new or empty folder, unless the block raises.

    Raises:
        ValueError: If `destination` is taken.
        OSError: If it cannot be made.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ValueError(f"{destination}: exists already, expected a new or an empty folder")
    with _workplace(destination) as workplace:
        folder = workplace / destination.name
        folder.mkdir()
        yield folder
        usual_mode(*folder.rglob("*.safetensors"))
        os.replace(folder, destination)


def check_new(*files: Path) -> None:
    """Checks that files can be new ones of their folders.

    Raises:
        ValueError: If one of them is taken.
        FileNotFoundError: If there is no such folder.
    """
    for file in files:
        if file.exists():
            raise ValueError(f"{file}: exists already")
        _check_folder_of(file)


@contextmanager
def whole_file(destination: Path) -> Iterator[Path]:
    """A temporary file name; the file becomes `destination`, which must be new, unless the block raises.

    Raises:
        ValueError: If `destination` is taken.
        OSError: If it cannot be made.
    """
    check_new(destination)
    with _workplace(destination) as workplace:
        yield workplace / destination.name
        os.replace(workplace / destination.name, destination)


@contextmanager
def whole_files(destination: Path, *others: Path) -> Iterator[Path]:
    """As [`whole_file`], for a file that may bring `others` of the same folder, which must be new too.

    Raises:
        ValueError: If one of them is taken.
        OSError: If one cannot be made.
    """
    check_new(destination, *others)
    with whole_file(destination) as file:
        yield file
        for other in others:
            if (written := file.with_name(other.name)).exists():
                os.replace(written, other)


@contextmanager
def _workplace(destination: Path) -> Iterator[Path]:
    """A folder beside `destination`, so that a rename is enough; gone afterwards."""
    _check_folder_of(destination)
    try:
        workplace = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise OSError(f"{destination.parent}: cannot be written to ({error.strerror})") from error
    try:
        yield workplace
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _check_folder_of(destination: Path) -> None:
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"{destination.parent}: no such folder")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Text files as people have them: UTF-8 with or without a byte-order mark, and UTF-16 with one."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def text_encoding(path: Path) -> str:
    """Encoding of a text file: what its byte-order mark says, else UTF-8."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file, open for reading.

    Raises:
        ValueError: In the block, if the file turns out to be of another encoding.
    """
    with open(path, encoding=text_encoding(path), newline=newline) as file:
        try:
            yield file
        except UnicodeError as error:
            raise ValueError(f"{path}: neither UTF-8 nor UTF-16 with a byte-order mark ({error})") from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: If it is of another encoding.
    """
    with open_text(path) as file:
        return file.read()

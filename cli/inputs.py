# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The media that a command is given, checked before any model is read so that a wrong name is reported at once."""

import http.client
import time
import urllib.parse
import urllib.request
from pathlib import Path

from .console import first_line


URL_SCHEMES = ("http://", "https://")
MAX_DOWNLOAD = 256 * 1024**2  # bytes
DOWNLOAD_SECONDS, SILENCE_SECONDS = 120, 20  # in all, and without a byte
_BLOCK = 1024**2


def media_source(text: str) -> str | Path:
    """An argparse type: a URL as it is, anything else as a path."""
    return text if text.startswith(URL_SCHEMES) else Path(text)


def fetch(source: str | Path, folder: Path) -> Path:
    """A path as it is; what a URL gives as a file in `folder`.

    Raises:
        ValueError: If it cannot be had, is larger than `MAX_DOWNLOAD`, or takes too long.
    """
    if isinstance(source, Path):
        return source
    end = time.monotonic() + DOWNLOAD_SECONDS
    target = folder / f"{len(list(folder.iterdir()))}{Path(urllib.parse.urlparse(source).path).suffix}"
    try:
        with urllib.request.urlopen(source, timeout=SILENCE_SECONDS) as answer, open(target, "wb") as file:
            while block := answer.read1(_BLOCK):
                if file.write(block) and file.tell() > MAX_DOWNLOAD:
                    raise ValueError(f"{source}: more than {MAX_DOWNLOAD:,} bytes; save it, and give the file")
                if time.monotonic() > end:
                    raise ValueError(f"{source}: takes longer than {DOWNLOAD_SECONDS} s; save it, and give the file")
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"{source}: cannot be downloaded ({first_line(error)})") from error
    return target


def check_image(path: Path, name: str | Path | None = None) -> None:
    """Checks that `path` is a picture that decodes to its end; `name` stands in complaints.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture, or a damaged one.
    """
    from PIL import Image

    name = name or path
    check_file(path, name)
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, zlib.error ... on damaged files
        raise ValueError(f"{name}: not a picture that can be read ({first_line(error)})") from error


def check_audio(path: Path, name: str | Path | None = None) -> None:
    """Checks that `path` is a clip with sound in it; `name` stands in complaints.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no clip, a damaged one, or one without a single sample.
    """
    import soundfile

    name = name or path
    check_file(path, name)
    try:
        with soundfile.SoundFile(path) as clip:
            num_samples = len(clip.read(1))
    except soundfile.SoundFileError as error:
        raise ValueError(f"{name}: not a clip that can be read ({first_line(error)})") from error
    if num_samples == 0:
        raise ValueError(f"{name}: the clip is empty")


def check_file(path: Path, name: str | Path | None = None) -> None:
    """Checks that `path` is a file; `name` stands in complaints.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is something else.
    """
    name = name or path
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file")
    if not path.is_file():
        raise ValueError(f"{name}: not a file")

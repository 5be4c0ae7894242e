# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the files that a command is given, made before any model is read so that a wrong name is told at once."""

from pathlib import Path

from .console import first_line


def check_image(path: Path) -> None:
    """Checks that `path` is a picture that decodes to its end.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture, or a damaged one.
    """
    from PIL import Image

    check_file(path)
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise SyntaxError, struct.error, zlib.error ... on damaged files
        raise ValueError(f"{path}: not a picture that can be read ({first_line(error)})") from error


def check_audio(path: Path) -> None:
    """Checks that `path` is a clip with sound in it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no clip, a damaged one, or one without a single sample.
    """
    import soundfile

    check_file(path)
    try:
        with soundfile.SoundFile(path) as clip:
            num_samples = len(clip.read(1))
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path}: not a clip that can be read ({first_line(error)})") from error
    if num_samples == 0:
        raise ValueError(f"{path}: the clip is empty")


def check_file(path: Path) -> None:
    """Checks that `path` is a file.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")

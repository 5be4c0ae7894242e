# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Manifests of transcribed clips: JSON lines, CSV or TSV with a path and a text, as NeMo's and Common Voice's."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from .json_records import read_records
from .text_files import open_text


AUDIO_COLUMNS = ("audio_filepath", "audio_path", "audio", "file_name", "wav", "path")
TEXT_COLUMNS = ("text", "transcript", "transcription", "sentence", "answer")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MAX_FIELD_SIZE = 2**31 - 1
# Where a manifest's clips may lie beside it: Common Voice names them without their folder
CLIP_FOLDERS = ("", "clips", "audio", "wav")
CLIP_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aiff")


def manifest_records(path: Path) -> Iterator[tuple[str, dict | str]]:
    """(source, record) of a .json, .jsonl, .csv or .tsv file; a text in place of a broken record."""
    if path.suffix not in SEPARATORS:
        yield from read_records(path)
        return
    quoting = csv.QUOTE_NONE if path.suffix == ".tsv" else csv.QUOTE_MINIMAL  # Common Voice's text has lone quotes
    csv.field_size_limit(MAX_FIELD_SIZE)  # the module's own limit is 131,072 characters
    with open_text(path, newline="") as lines:
        reader = csv.DictReader(lines, delimiter=SEPARATORS[path.suffix], quoting=quoting)
        while True:
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"{path}:{reader.line_num}", f"no row of a table ({error})"
                continue
            # A row of other fields than the header's has its values under names that are not theirs
            expected, missing = len(reader.fieldnames), sum(value is None for value in record.values())
            count = expected - missing + len(record.get(None, ()))
            whole = count == expected
            yield f"{path}:{reader.line_num}", record if whole else f"{count} fields, expected {expected}"


def clip_and_text(
    record: dict, audio_columns: Sequence[str] = AUDIO_COLUMNS, text_columns: Sequence[str] = TEXT_COLUMNS
) -> tuple:
    """The first value that a record has in columns of clips, and in those of texts; `None` where there is none."""
    audio, text = (
        next((record[name] for name in names if record.get(name)), None) for names in (audio_columns, text_columns)
    )
    return audio, text


def find_clip(audio: str, folders: list[str]) -> str:
    """The clip's path: in the first folder that holds it, else in the first."""
    found = (Path(folder) / audio for folder in folders if (Path(folder) / audio).exists())
    return str(next(found, Path(folders[0]) / audio))


def clips_in(folder: Path) -> list[Path]:
    """The clips of a folder and its sub-folders, in order of their paths."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in CLIP_SUFFIXES and file.is_file())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Sets of the `datasets` library, saved, as parquet files or on the Hub, told by their columns.

messages                          conversations as they are
text                              plain text, if there is no audio
image | images, conversations     LLaVA's turns                        (WorldRWKV's type arrow)
images, texts                     FineVision's {"user", "assistant"}
audio, text | transcript | ...    transcribed clips                    (hf, cnasr)
audio | question_audio, answer    spoken questions                     (qa, cnqa)
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import datasets

from .conversations import BadRowError
from .transcripts import TEXT_COLUMNS, transcript_row
from .worldrwkv import messages_with_pictures


SAVED_MARK = "state.json"
_IMAGE_COLUMNS, _AUDIO_COLUMNS = ("images", "image"), ("question_audio", "audio")


def is_stored_folder(folder: Path) -> bool:
    """Whether a folder holds a saved set, or parquet files, itself or in folders of its own."""
    return any(_is_set(part) for part in [folder, *_subfolders(folder)])


def read_stored(
    path: str,
    streaming: bool = False,
    name: str | None = None,
    split: str = "train",
    prompt: str = "",
    max_images: int | None = None,
):
    """Conversations or texts of a set of the `datasets` library.

    Args:
        path: A folder of `save_to_disk`, one of parquet files, one with such folders, or a set's id on the Hub.
        streaming: Whether to read it as rows are asked for.
        name: Configuration of a set on the Hub.
        split: Of it.
        prompt: What is asked about a clip, if anything.
        max_images: Pictures of a row that are used; WorldRWKV takes 3.

    Raises:
        ValueError: If its columns are of no kind known.
    """
    rows = _undecoded(_load(path, name, split, streaming))
    convert = partial(_rows_of_batch, convert=_converter(rows.column_names, path), prompt=prompt, limit=max_images)
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(convert, batched=True, remove_columns=rows.column_names)
    return rows.with_transform(convert)


def _load(path: str, name: str | None, split: str, streaming: bool):
    folder = Path(path)
    if not folder.is_dir():
        return datasets.load_dataset(path, name, split=split, streaming=streaming)
    parts = [_load_folder(part, split) for part in [folder, *_subfolders(folder)] if _is_set(part)]
    if not parts:
        return datasets.load_dataset(path, name, split=split, streaming=streaming)
    whole = datasets.concatenate_datasets(parts)
    return whole.to_iterable_dataset() if streaming else whole


def _load_folder(folder: Path, split: str) -> datasets.Dataset:
    if not (folder / SAVED_MARK).exists():
        files = [str(file) for file in sorted(folder.glob("*.parquet"))]
        return datasets.load_dataset("parquet", data_files=files, split="train")
    saved = datasets.load_from_disk(str(folder))
    return saved[split] if isinstance(saved, datasets.DatasetDict) else saved


def _is_set(folder: Path) -> bool:
    return (folder / SAVED_MARK).exists() or any(folder.glob("*.parquet"))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))


def _undecoded(rows):
    """The set with its media as the bytes or paths of their files, for the processor to decode."""
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            rows = rows.cast_column(column, type(feature)(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return rows


def _converter(columns: Iterable[str], path: str):
    columns = set(columns)
    if "messages" in columns:
        return _as_it_is
    if columns & set(_IMAGE_COLUMNS) and columns & {"conversations", "texts"}:
        return _with_pictures
    if columns & set(_AUDIO_COLUMNS) and columns & set(TEXT_COLUMNS):
        return _transcribed
    if "text" in columns:
        return _as_it_is
    raise ValueError(f"{path}: columns {', '.join(sorted(columns))} are of no kind known")


def _rows_of_batch(batch: dict[str, list], convert, prompt: str, limit: int | None) -> dict[str, list]:
    """A batch of columns as one of rows of [`conversations`]."""
    rows = [
        _row(dict(zip(batch, values, strict=True)), convert, prompt, limit)
        for values in zip(*batch.values(), strict=True)
    ]
    return {key: [row.get(key) for row in rows] for key in ("messages", "text", "error")}


def _row(record: dict, convert, prompt: str, limit: int | None) -> dict:
    try:
        return convert(record, prompt, limit)
    except BadRowError as error:
        return {"error": str(error)}


def _as_it_is(record: dict, prompt: str, limit: int | None) -> dict:
    return {key: record[key] for key in ("messages", "text") if key in record}


def _with_pictures(record: dict, prompt: str, limit: int | None) -> dict:
    found = next((record[column] for column in _IMAGE_COLUMNS if record.get(column) is not None), None) or []
    pictures = [_block("image", picture) for picture in (found if isinstance(found, list) else [found])]
    turns = record.get("conversations")
    if turns is None:
        turns = [{"from": role, "value": pair[role]} for pair in record["texts"] for role in ("user", "assistant")]
    return {"messages": messages_with_pictures(turns, pictures[:limit])}


def _transcribed(record: dict, prompt: str, limit: int | None) -> dict:
    clip = next((record[column] for column in _AUDIO_COLUMNS if record.get(column) is not None), None)
    text = next((record[column] for column in TEXT_COLUMNS if record.get(column)), None)
    if clip is None or text is None:
        raise BadRowError(f"no clip or no text, its columns are {sorted(record)}")
    return transcript_row(_block("audio", clip), text, prompt)


def _block(kind: str, medium) -> dict:
    """A block of a picture or clip as `datasets` stores it, or of anything that the processor takes."""
    if isinstance(medium, dict) and medium.get("bytes") is not None:
        return {"type": kind, "bytes": medium["bytes"]}
    if isinstance(medium, dict) and medium.get("path"):
        return {"type": kind, "path": medium["path"]}
    return {"type": kind, kind: medium}

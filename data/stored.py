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

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from ..configuration.optional_libraries import optional_imports
from .conversations import ELSEWHERE, MEDIA, BadRowError
from .manifests import TEXT_COLUMNS
from .stored_sets import folders_of_fetched_sets, is_fetched, leads_out_of, load_stored
from .transcripts import transcript_row
from .worldrwkv import messages_with_pictures


with optional_imports():
    import datasets


_IMAGE_COLUMNS, _AUDIO_COLUMNS = ("images", "image"), ("question_audio", "audio")


def read_stored(
    path: str,
    streaming: bool = False,
    name: str | None = None,
    split: str = "train",
    prompt: str = "",
    max_images: int | None = None,
    media_folder: str | None = None,
):
    """Conversations or texts of a set of the `datasets` library.

    Args:
        path: A folder of `save_to_disk`, one of parquet files, one with such folders, or a set's id on the Hub.
        streaming: Whether to read it as rows are asked for.
        name: Configuration of a set on the Hub.
        split: Of it.
        prompt: What is asked about a clip, if anything.
        max_images: Pictures of a row that are used; WorldRWKV takes 3.
        media_folder: What the paths of pictures and clips are relative to. Rows of a set on the Hub may name files
            that lie in it or came with the set, and no others.

    Raises:
        ValueError: If its columns are of no kind known.
    """
    rows = load_stored(path, name, split, streaming)
    place = partial(_place_media, folder=media_folder, roots=_roots(media_folder) if is_fetched(path) else None)
    options = {"prompt": prompt, "limit": max_images, "place": place, "source": path}
    convert = partial(_rows_of_batch, convert=_converter(rows.column_names, path), **options)
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(convert, batched=True, remove_columns=rows.column_names)
    return rows.with_transform(convert)


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


def _rows_of_batch(batch: dict[str, list], convert, prompt: str, limit: int | None, place, source: str) -> dict:
    """A batch of columns as one of rows of [`conversations`]."""
    rows = []
    for values in zip(*batch.values(), strict=True):
        try:
            row = convert(dict(zip(batch, values, strict=True)), prompt, limit)
            place(row.get("messages"))
        except BadRowError as error:
            row = {"error": str(error), "source": source}
        rows.append(row)
    return {key: [row.get(key) for row in rows] for key in ("messages", "text", "error", "source")}


def _roots(media_folder: str | None) -> list[Path]:
    return folders_of_fetched_sets() + ([] if media_folder is None else [Path(media_folder).resolve()])


def _place_media(messages, folder: str | None, roots: list[Path] | None) -> None:
    """Makes the paths of media be in `folder`; refuses those to files outside of `roots`, if there are any.

    Raises:
        BadRowError: Names the path.
    """
    messages = messages if isinstance(messages, list) else []
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    for block in (block for content in contents if isinstance(content, list) for block in content):
        for holder, key in _names_of_files(block):
            name = holder[key]
            if folder is not None:
                holder[key] = name = str(Path(folder, name))
            if roots is not None and leads_out_of(roots, name):
                raise BadRowError(
                    f"names {name}, a file of this machine that did not come with the set; the option media_folder "
                    "says where else its media lie"
                )


def _names_of_files(holder) -> Iterator[tuple[dict | list, str | int]]:
    """Where a block, or the rows and lists of media in it, name files: what holds the name, and under which key."""
    if isinstance(holder, dict):
        keys = () if holder.get("bytes") is not None else ("path", "url", *MEDIA)
        keys = [key for key in keys if key in holder]
    else:
        keys = range(len(holder)) if isinstance(holder, list) else ()
    for key in keys:
        if not isinstance(holder[key], str):
            yield from _names_of_files(holder[key])
        elif not holder[key].startswith(ELSEWHERE):
            yield holder, key


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

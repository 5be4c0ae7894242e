# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Manifests of transcribed clips: JSON lines, CSV or TSV with a path and a text, as NeMo's and Common Voice's."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from .conversations import file_block, text_block
from .manifests import AUDIO_COLUMNS, CLIP_FOLDERS, TEXT_COLUMNS, clip_and_text, find_clip, manifest_records
from .tables import table_of_rows


def read_transcripts(
    path: str,
    streaming: bool = False,
    audio_folder: str | None = None,
    audio_column: str | None = None,
    text_column: str | None = None,
    prompt: str = "",
    lowercase: bool = False,
):
    """Conversations of a .json, .jsonl, .csv or .tsv file: a clip, and what is said in it.

    Args:
        path: The file.
        streaming: Whether to read it as rows are asked for.
        audio_folder: What the paths of clips are relative to; by default the folder of the file, or its `clips`.
        audio_column, text_column: Where a record has path and text; by default the first of `AUDIO_COLUMNS` and
            `TEXT_COLUMNS` that it has.
        prompt: What is asked about the clip, if anything.
        lowercase: Whether the text is learned in lower case, as RWKV-ASR learns it.
    """
    folders = [audio_folder] if audio_folder is not None else [str(Path(path).parent / name) for name in CLIP_FOLDERS]
    columns = [[audio_column] if audio_column else AUDIO_COLUMNS, [text_column] if text_column else TEXT_COLUMNS]
    place = partial(_place_clip, folders=folders)  # whenever a row is used, for clips may move
    return table_of_rows(
        transcript_rows, Path(path), streaming, place, columns=columns, prompt=prompt, lowercase=lowercase
    )


def transcript_rows(path: Path, columns: list[Sequence[str]], prompt: str, lowercase: bool) -> Iterator[dict]:
    """A row for every record, with `error` for one without path or text."""
    for source, record in manifest_records(path):
        if isinstance(record, str):
            yield {"error": record, "source": source}
            continue
        audio, text = clip_and_text(record, *columns)
        if not isinstance(audio, str) or not isinstance(text, str):
            yield {"error": f"no clip or no text, its keys are {sorted(record)}", "source": source}
            continue
        text = text.lower() if lowercase else text
        yield transcript_row(file_block("audio", audio), text, prompt) | {"source": source}


def _place_clip(row: dict, folders: list[str]) -> dict:
    """The row of [`transcript_rows`] with its clip in the folder that holds it."""
    if "messages" in row:
        clip = row["messages"][0]["content"][0]
        clip["path"] = find_clip(clip["path"], folders)
    return row


def transcript_row(clip: dict, text: str, prompt: str = "") -> dict:
    """The conversation of a clip, given as a block, and its text."""
    question = [clip, text_block(prompt)] if prompt else [clip]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": text}]}

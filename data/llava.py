# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""LLaVA's records: `{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, ...]}`."""

import re
from collections.abc import Iterator
from pathlib import Path

from .conversations import BadRowError, file_block, text_block
from .json_records import read_records
from .tables import table_of_rows


IMAGE_MARK = "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_BLANK_LINES = re.compile(r"\n(\s*\n)+")


def read_llava(
    path: str,
    streaming: bool = False,
    image_folder: str | None = None,
    images: str = "first",
    separator: str = "",
):
    """Conversations of a .json or .jsonl file of LLaVA's records.

    Args:
        path: The file.
        streaming: Whether to read it as rows are asked for.
        image_folder: What the records' paths are relative to; by default the folder of the file.
        images: "first" puts the pictures of a turn before its text, as VisualRWKV and WorldRWKV do; "inline" leaves
            them where `<image>` stands.
        separator: Text after each picture that is put first; VisualRWKV has a line break.

    Raises:
        ValueError: If an option is not one of these.
    """
    if images not in ("first", "inline"):
        raise ValueError(f"images is {images!r}, expected first or inline")
    folder = str(Path(image_folder) if image_folder is not None else Path(path).parent)
    return table_of_rows(
        llava_rows, Path(path), streaming, folder=folder, inline=images == "inline", separator=separator
    )


def llava_rows(path: Path, folder: str, inline: bool, separator: str) -> Iterator[dict]:
    """A row for every record, with `error` for one that is not as it should be."""
    for source, record in read_records(path):
        try:
            yield {"messages": llava_messages(record, Path(folder), inline, separator), "source": source}
        except ValueError as error:
            yield {"error": str(error), "source": source}


def llava_messages(record: dict | str, folder: Path, inline: bool, separator: str) -> list[dict]:
    """Messages of one record; blank lines inside a turn go, as they end turns in the World format.

    Raises:
        ValueError: If the record is malformed, or its pictures are not as many as its `<image>` marks.
    """
    if isinstance(record, str) or not isinstance(record.get("conversations"), list):
        reason = record if isinstance(record, str) else f"its keys are {sorted(record)}"
        raise ValueError(f"no LLaVA record with 'conversations' ({reason})")
    check_turns(record["conversations"])
    names = image_names(record)
    paths = iter([str(folder / name) for name in names])
    marks = sum(str(turn.get("value", "")).count(IMAGE_MARK) for turn in record["conversations"])
    if marks != len(names):
        raise ValueError(f"{len(names)} pictures are given, but {marks} {IMAGE_MARK} marks stand in the text")
    return [_message(turn, paths, inline, separator) for turn in record["conversations"]]


def image_names(record: dict) -> list[str]:
    """The files of a record's images.

    Raises:
        BadRowError: If it names none as it should.
    """
    names = record.get("image") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRowError(f"image is {names!r}, expected the name of a file or a list of names")
    return names


def check_turns(turns: list) -> None:
    """Refuses turns that are none.

    Raises:
        BadRowError: Says what a turn is instead.
    """
    for turn in turns:
        if not isinstance(turn, dict):
            raise BadRowError(f"a turn is a {type(turn).__name__}, expected 'from' and 'value'")
        value = turn.get("value", turn.get("content"))
        if not isinstance(value, str):
            raise BadRowError(f"the value of a turn is {value!r}, expected text")


def _message(turn: dict, paths: Iterator[str], inline: bool, separator: str) -> dict:
    role = ROLES.get(str(turn.get("from", turn.get("role"))).lower())
    if role is None:
        raise ValueError(f"a turn is from {turn.get('from')!r}, expected one of {', '.join(ROLES)}")
    pieces = _tidy(str(turn.get("value", ""))).split(IMAGE_MARK)
    if len(pieces) == 1:
        return {"role": role, "content": pieces[0]}
    pictures = [file_block("image", next(paths)) for _ in pieces[1:]]
    if inline:
        blocks = [text_block(pieces[0])]
        for picture, piece in zip(pictures, pieces[1:], strict=True):
            blocks += [picture, text_block(piece)]
        return {"role": role, "content": [block for block in blocks if block.get("text") != ""]}
    text = separator * bool(separator) + _tidy("".join(pieces))
    between = [text_block(separator)] if separator else []
    blocks = [block for picture in pictures for block in (picture, *between)]
    return {"role": role, "content": blocks[: len(blocks) - len(between)] + [text_block(text)]}


def _tidy(text: str) -> str:
    return _BLANK_LINES.sub("\n", text.strip())

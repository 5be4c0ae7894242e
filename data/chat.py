# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversations in the format of `apply_chat_template`, a JSON object `{"messages": [...]}` a line."""

from collections.abc import Iterator
from pathlib import Path

from .conversations import ELSEWHERE, MEDIA, BadRowError, check_messages
from .json_records import read_records
from .tables import table_of_rows


def read_chat(path: str, streaming: bool = False, media_folder: str | None = None):
    """Conversations of a .json or .jsonl file; messages keep all their keys.

    Args:
        path: The file.
        streaming: Whether to read it as rows are asked for.
        media_folder: What the paths of pictures and clips are relative to; by default the folder of the file.
    """
    folder = str(Path(media_folder) if media_folder is not None else Path(path).parent)
    return table_of_rows(chat_rows, Path(path), streaming, folder=folder)


def chat_rows(path: Path, folder: str) -> Iterator[dict]:
    """A row for every record, with `error` for one without messages."""
    for source, record in read_records(path):
        if isinstance(record, str) or not isinstance(record.get("messages"), list):
            reason = record if isinstance(record, str) else f"its keys are {sorted(record)}"
            yield {"error": f"no conversation with 'messages' ({reason})", "source": source}
        else:
            try:
                check_messages(record["messages"])
            except BadRowError as error:
                yield {"error": str(error), "source": source}
                continue
            messages = [_with_paths(message, Path(folder)) for message in record["messages"]]
            yield {**record, "messages": messages, "source": source}


def _with_paths(message: dict, folder: Path) -> dict:
    """The message with its media named by `path`, below the folder."""
    if not isinstance(message.get("content"), list):
        return message
    return {**message, "content": [_with_path(block, folder) for block in message["content"]]}


def _with_path(block: dict, folder: Path) -> dict:
    kind = block.get("type")
    named = [block[key] for key in ("path", "url", kind) if isinstance(block.get(key), str)]
    if kind not in MEDIA or not named:
        return block
    path = named[0] if named[0].startswith(ELSEWHERE) else str(folder / named[0])
    return {"type": kind, "path": path}

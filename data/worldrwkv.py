# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The folders that WorldRWKV trains on: a file of answers or conversations, with pictures or clips beside it.

answer.jsonl    {"file_name", "answer"}, pictures or clips in the folder      (its types wav, img)
chat.jsonl      {"image", "conversations"}, pictures in images/ or the folder (hf_img, visual)
text/*.json[l]  the same records, pictures in data/ or the folder             (img, state)
"""

from collections.abc import Iterator
from pathlib import Path

from .conversations import BadRowError, file_block, text_block
from .json_records import read_records
from .llava import IMAGE_MARK, ROLES, check_turns, image_names
from .tables import table_of_rows
from .transcripts import transcript_row


ANSWERS, CHAT, TEXTS = "answer.jsonl", "chat.jsonl", "text"
_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_PICTURE_FOLDERS = {CHAT: "images", TEXTS: "data"}


def is_worldrwkv_folder(folder: Path) -> bool:
    """Whether a folder is laid out in one of these ways."""
    return any((folder / name).exists() for name in (ANSWERS, CHAT, TEXTS))


def read_worldrwkv(path: str, streaming: bool = False, prompt: str = ""):
    """Conversations of a folder of WorldRWKV's.

    Args:
        path: The folder.
        streaming: Whether to read it as rows are asked for.
        prompt: What is asked about the media of an answer.jsonl, if anything.

    Raises:
        ValueError: If it is laid out in no known way.
    """
    folder = Path(path)
    if not is_worldrwkv_folder(folder):
        raise ValueError(f"{path}: expected {ANSWERS}, {CHAT} or {TEXTS}/ in a folder of WorldRWKV's")
    return table_of_rows(worldrwkv_rows, folder, streaming, prompt=prompt)


def worldrwkv_rows(path: Path, prompt: str) -> Iterator[dict]:
    """A row for every record, with `error` for one that is not as it should be."""
    if (path / ANSWERS).exists():
        yield from _answer_rows(path, prompt)
    if (path / CHAT).exists():
        yield from _conversation_rows(path / CHAT, _picture_folder(path, CHAT))
    for file in sorted(path.glob(f"{TEXTS}/*.json")) + sorted(path.glob(f"{TEXTS}/*.jsonl")):
        yield from _conversation_rows(file, _picture_folder(path, TEXTS))


def messages_with_pictures(turns: list[dict], pictures: list[dict]) -> list[dict]:
    """Messages of LLaVA's turns, with all pictures before the first question, wherever `<image>` stood.

    Args:
        turns: `{"from", "value"}` or `{"role", "content"}`.
        pictures: Blocks.

    Raises:
        BadRowError: If a turn is from nobody known, or nobody asks about the pictures.
    """
    messages = []
    check_turns(turns)
    for turn in turns:
        speaker = turn.get("from", turn.get("role"))
        if str(speaker).lower() not in ROLES:
            raise BadRowError(f"a turn is from {speaker!r}, expected one of {', '.join(ROLES)}")
        text = str(turn.get("value", turn.get("content", ""))).replace(IMAGE_MARK, "").strip()
        messages.append({"role": ROLES[str(speaker).lower()], "content": text})
    if pictures:
        question = next((message for message in messages if message["role"] == "user"), None)
        if question is None:
            raise BadRowError(f"{len(pictures)} pictures, but no turn of a user")
        question["content"] = [*pictures, text_block(question["content"])]
    return messages


def _conversation_rows(path: Path, folder: Path) -> Iterator[dict]:
    for source, record in read_records(path):
        if isinstance(record, str) or not isinstance(record.get("conversations"), list):
            reason = record if isinstance(record, str) else f"its keys are {sorted(record)}"
            yield {"error": f"no 'conversations' ({reason})", "source": source}
            continue
        try:
            pictures = [file_block("image", str(folder / name)) for name in image_names(record)]
            yield {"messages": messages_with_pictures(record["conversations"], pictures), "source": source}
        except BadRowError as error:
            yield {"error": str(error), "source": source}


def _answer_rows(path: Path, prompt: str) -> Iterator[dict]:
    for source, record in read_records(path / ANSWERS):
        if isinstance(record, str) or not all(isinstance(record.get(key), str) for key in ("file_name", "answer")):
            reason = record if isinstance(record, str) else f"its keys are {sorted(record)}"
            yield {"error": f"no 'file_name' and 'answer' ({reason})", "source": source}
            continue
        kind = "image" if Path(record["file_name"]).suffix.lower() in _PICTURES else "audio"
        block = file_block(kind, str(path / record["file_name"]))
        yield transcript_row(block, record["answer"], prompt) | {"source": source}


def _picture_folder(path: Path, layout: str) -> Path:
    folder = path / _PICTURE_FOLDERS[layout]
    return folder if folder.is_dir() else path

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The one form in which a row reaches the collator: a conversation with its media, plain text, or its tokens.

    {"messages": [{"role": "user", "content": [{"type": "image", "path": "cat.jpg"}, {"type": "text", "text": "?"}]},
                  {"role": "assistant", "content": "a cat"}]}
    {"text": "..."}
    {"input_ids": [5, 6, 7]}

An image or audio block holds its medium as `path`, `bytes` (of a file), or under its own type as anything that the
processor takes: a Pillow image, an array, {"array", "sampling_rate"}. A row may have a `source`, where it is from, for
messages; a row that could not be read has `error` in place of the rest. The collator leaves other keys alone.
"""

import io
from collections.abc import Iterator


MEDIA = ("image", "audio")
ELSEWHERE = ("http://", "https://", "data:")  # how the address of a medium begins that is no file


class BadRowError(ValueError):
    """A row that cannot be learned from; the message says why."""


def text_block(text: str) -> dict:
    """A block of text."""
    return {"type": "text", "text": text}


def file_block(kind: str, path: str) -> dict:
    """A block with a picture or clip of a file.

    Args:
        kind: "image" or "audio".
        path: The file.
    """
    return {"type": kind, "path": path}


def check_messages(messages) -> None:
    """Refuses what has not the shape of messages, before anything is read from them.

    Raises:
        BadRowError: Says what is what it should not be.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise BadRowError(
            "the conversation is empty" if not messages else f"messages are {_kind(messages)}, not a list"
        )
    for message in messages:
        if not isinstance(message, dict):
            raise BadRowError(f"a message is {_kind(message)}, expected 'role' and 'content'")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role or (content is None and not message.get("tool_calls")):
            raise BadRowError(f"a message needs 'role' and 'content', this one has {_given(message)}")
        if content is not None and not isinstance(content, (str, list, tuple)):
            raise BadRowError(f"the content of a message is {_kind(content)}, expected text or a list of blocks")
        for block in content if isinstance(content, (list, tuple)) else ():
            if not isinstance(block, dict) or not isinstance(block.get("type"), str):
                what = f"has type {block.get('type')!r}" if isinstance(block, dict) else f"is {_kind(block)}"
                raise BadRowError(f"a block {what}, expected 'type' of text, image, audio or video")
            if block["type"] == "text" and not isinstance(block.get("text") or "", str):
                raise BadRowError(f"the text of a block is {_kind(block['text'])}")


def _kind(value) -> str:
    return f"a {type(value).__name__}"


def _given(message: dict) -> list[str]:
    return sorted(str(key) for key, value in message.items() if value is not None)


def clean_messages(messages: list[dict]) -> list[dict]:
    """Messages as `apply_chat_template` takes them: without nulls, and media of bytes opened.

    Raises:
        BadRowError: If a message is malformed, a medium is missing, or an answer is empty.
    """
    check_messages(messages)
    return [_clean_message(message) for message in messages]


def reference_answer(row: dict) -> str:
    """Text of the last answer of a row.

    Raises:
        BadRowError: If the conversation does not end with one.
    """
    messages = row.get("messages")
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRowError("the conversation does not end with an answer")
    return message_text(messages[-1]).strip()


def message_text(message: dict) -> str:
    """All text of a message."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(block.get("text") or "" for block in content if block["type"] == "text")


def media_blocks(messages: list[dict], kind: str) -> Iterator[dict]:
    """The blocks of a kind, "image" or "audio", in order."""
    for message in messages:
        if isinstance(message.get("content"), (list, tuple)):
            yield from (block for block in message["content"] if block["type"] == kind)


def _clean_message(message: dict) -> dict:
    role, content = message["role"], message.get("content") or ""
    if not isinstance(content, str):
        content = [_clean_block(block) for block in content]
    cleaned = {**{key: value for key, value in message.items() if value is not None}, "content": content}
    if role == "assistant" and not message_text(cleaned).strip() and not message.get("tool_calls"):
        raise BadRowError("an answer is empty")
    return cleaned


def _clean_block(block: dict) -> dict:
    block = {key: value for key, value in block.items() if value is not None}
    kind = block.get("type")
    if kind == "text":
        return block if "text" in block else text_block("")
    if kind not in MEDIA:
        raise BadRowError(f"a block has type {kind!r}, expected text, image or audio")
    if "bytes" in block:
        return {"type": kind, kind: _open_bytes(kind, block["bytes"])}
    if not block.keys() & {kind, "path", "url", "base64"}:
        raise BadRowError(f"a block of type {kind} holds no {kind}: it has {sorted(block)}")
    return block


def _open_bytes(kind: str, content: bytes):
    """A picture or clip of the bytes of its file, opened."""
    try:
        if kind == "image":
            from PIL import Image

            image = Image.open(io.BytesIO(content))
            image.load()
            return image
        import soundfile

        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        return {"array": samples, "sampling_rate": rate}
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, RuntimeError ...
        raise BadRowError(f"{len(content)} bytes that are no {kind} that can be read ({error})") from error

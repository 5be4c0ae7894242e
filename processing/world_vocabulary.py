# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The World vocabulary: its file format and the special strings that stand beside it.

A vocabulary file has one token a line, `ID LITERAL LENGTH`: the id, a Python literal (`str` for valid UTF-8, else
`bytes`) and the length in bytes. Nothing in it is ever evaluated. Format and shipped file come from BlinkDL's `rwkv`
package (Apache-2.0).
"""

import ast
import os
import warnings
from pathlib import Path
from typing import NamedTuple


VOCABULARY_FILE_NAME = "rwkv_vocab_v20230424.txt"
WORLD_VOCABULARY_FILE = Path(__file__).with_name(VOCABULARY_FILE_NAME)


class SpecialToken(NamedTuple):
    """A special string: the tokenizer attribute that holds it, its text, and its id in the full World vocabulary."""

    name: str
    content: str
    world_id: int


END_OF_TEXT = SpecialToken("end_of_text_token", "<|rwkv_tokenizer_end_of_text|>", 0)

# A vocabulary of another size has these after its own last ordinary id, in this order.
MULTIMODAL_TOKENS = (
    SpecialToken("vision_start_token", "<|vision_start|>", 65530),
    SpecialToken("vision_end_token", "<|vision_end|>", 65531),
    SpecialToken("image_token", "<|image_pad|>", 65532),
    SpecialToken("audio_start_token", "<|audio_start|>", 65533),
    SpecialToken("audio_end_token", "<|audio_end|>", 65534),
    SpecialToken("audio_token", "<|audio_pad|>", 65535),
)

SPECIAL_TOKENS = (END_OF_TEXT, *MULTIMODAL_TOKENS)


def load_vocabulary(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """Read a vocabulary file.

    Args:
        path: A file in the format of `rwkv_vocab_v20230424.txt`, LF or CRLF.

    Returns:
        Token bytes to id, in the order of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is malformed; one line of text that names the file and the line number.
    """
    vocabulary: dict[bytes, int] = {}
    seen_ids: set[int] = set()
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            token, token_id = _parse_line(line)
            if token in vocabulary:
                raise ValueError(f"token {token!r} already has id {vocabulary[token]}")
            if token_id in seen_ids:
                raise ValueError(f"id {token_id} is already taken")
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}, line {number}: {error}") from None
        vocabulary[token] = token_id
        seen_ids.add(token_id)
    if not vocabulary:
        raise ValueError(f"{os.fspath(path)}: no tokens, expected lines such as: 257 'ab' 2")
    return vocabulary


def save_vocabulary(vocabulary: dict[bytes, int], path: str | os.PathLike[str]) -> None:
    """Write a vocabulary file that `load_vocabulary`, llama.cpp and the `rwkv` package read.

    Args:
        vocabulary: Token bytes to id; written in ascending order of ids.
        path: The file to write.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for token, token_id in sorted(vocabulary.items(), key=lambda item: item[1]):
            file.write(f"{token_id} {_literal(token)} {len(token)}\n")


def _read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of `path` without their ends; the empty one after the last line end is not a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return lines if lines[-1] else lines[:-1]


def _parse_line(line: str) -> tuple[bytes, int]:
    """One line to its token and id; every check of a single line is here."""
    fields, _, length = line.rpartition(" ")
    token_id, _, literal = fields.partition(" ")
    if not (_is_number(token_id) and _is_number(length) and literal):
        raise ValueError(f"expected ID LITERAL LENGTH, got {_shorten(line)}")
    if int(token_id) == 0:
        raise ValueError(f"id 0 is reserved for {END_OF_TEXT.content}")
    token = _parse_literal(literal.strip())
    if len(token) != int(length) or not token:
        raise ValueError(f"{_shorten(literal)} is {len(token)} bytes long, the line says {length}")
    return token, int(token_id)


def _parse_literal(literal: str) -> bytes:
    """A quoted Python `str` or `bytes` to bytes, without evaluating anything else."""
    refusal = ValueError(f"expected a quoted str or bytes literal, got {_shorten(literal)}")
    if not literal.startswith(("'", '"', "b'", 'b"')):
        raise refusal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape such as '\d' is a mistake in the file
            value = ast.literal_eval(literal)
        return value if isinstance(value, bytes) else value.encode("utf-8")
    except (AttributeError, SyntaxError, ValueError, MemoryError, RecursionError, Warning):
        raise refusal from None


def _literal(token: bytes) -> str:
    try:
        return repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(token)


def _is_number(text: str) -> bool:
    """Whether `text` is a plain decimal of at most nine digits."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def _shorten(text: str, limit: int = 60) -> str:
    """`text` quoted on one line, cut to `limit` characters."""
    return repr(text if len(text) <= limit else text[:limit] + "...")

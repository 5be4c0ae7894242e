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
"""The RWKV World tokenizer: greedy longest match over bytes, as a stock `tokenizers` pipeline.

`ByteLevel` writes each UTF-8 byte as one printable character; a `Split` whose regular expression is the vocabulary's
trie cuts off the longest token at each position; `WordLevel` looks the pieces up. That is BlinkDL's trie tokenizer,
id for id, in linear time, and it saves to a `tokenizer.json` that needs no code of ours.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.trainers import BpeTrainer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from .text_chat_formats import CHAT_FORMATS, DEFAULT_CHAT_FORMAT, chat_format_of, check_chat_format
from .world_vocabulary import (
    END_OF_TEXT,
    MULTIMODAL_TOKENS,
    SPECIAL_TOKENS,
    VOCABULARY_FILE_NAME,
    WORLD_VOCABULARY_FILE,
    load_vocabulary,
    save_vocabulary,
)


VOCAB_FILES_NAMES = {"vocab_file": VOCABULARY_FILE_NAME, "tokenizer_file": "tokenizer.json"}

# The trie becomes nested groups of a regular expression; World's longest token has 128 bytes.
MAX_TOKEN_BYTES = 256

# Written into tokenizer_config.json: the name by which transformers 4 and 5 both load a bare `tokenizer.json`.
STOCK_TOKENIZER_CLASS = "PreTrainedTokenizerFast"

BYTE_TO_CHARACTER: dict[int, str] = bytes_to_unicode()
CHARACTER_TO_BYTE: dict[str, int] = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


class RWKVWorldTokenizer(TokenizersBackend):
    """The tokenizer of every RWKV World model; gives the ids of BlinkDL's `rwkv` package on any text.

    `RWKVWorldTokenizer()` has the full World vocabulary: ordinary tokens 1 to 65529, end of text 0 (also padding,
    `bos` and `eos`), and six special strings at 65530 to 65535, each with attributes such as `image_token` and
    `image_token_id` (`world_vocabulary.SPECIAL_TOKENS`). There is no unknown token: every text has ids.

    Special strings are recognised before any other text, so `" <|image_pad|>"` holds the placeholder although the
    vocabulary has a token `" <"`. Text that comes from outside must not be able to write them:

    ```python
    tokenizer(untrusted_text, split_special_tokens=True)  # "<|image_pad|>" is 13 ordinary characters
    tokenizer.apply_chat_template(chat, sanitize_control_tokens=True)  # the same, inside messages
    ```

    The chat template is that of the World and G1 text models, beginning with token 0, or of another generation by
    `RWKVWorldTokenizer.for_chat`. It takes `tools` with a `tool_choice`; `thinking=True` or `False`, which
    `enable_thinking` is another name of; `reasoning_effort`. `parse_response` gives thoughts, words and calls of an
    answer (`docs/chat.md`).

    `word_ids()` of an encoding counts the words given with `is_split_into_words=True`. Of a plain text it counts
    tokens, for World's tokens span words, spaces and punctuation: a token need not belong to one word alone.

    A folder written by `save_pretrained` loads here and, without this package and without remote code, through
    `transformers.AutoTokenizer`.

    Args:
        vocab_file (`str`, *optional*):
            A file in the format of `rwkv_vocab_v20230424.txt`; default: the one shipped with the package.
        vocab (`dict[bytes, int]`, *optional*):
            The ordinary tokens themselves instead of a file. Ids must be 1..n without gaps, and every single byte
            must be a token (`from_tokens` takes care of both).
        tokenizer_file (`str`, *optional*):
            A `tokenizer.json` written by this class. It goes before `vocab_file`.
        add_bos_token (`bool`, *optional*):
            Put token 0, with which World models were trained to start a document, in front of every text. Default:
            what `tokenizer_file` says, else `False`.
        padding_side (`str`, *optional*, defaults to `"left"`):
            The side that generation from a batch needs.
        kwargs:
            Passed to `TokenizersBackend`, special tokens by name among them (`pad_token`, `image_token` ...).

    Raises:
        ValueError: The vocabulary is malformed, leaves a byte without token, or has gaps.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "left"
    model = WordLevel

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        vocab: dict[bytes, int] | None = None,
        tokenizer_file: str | None = None,
        add_bos_token: bool | None = None,
        padding_side: str = "left",
        **kwargs: Any,
    ):
        if vocab is not None and vocab_file is not None:
            raise ValueError("vocab and vocab_file were both given, expected at most one of them")
        if tokenizer_file is None:
            path = vocab_file or WORLD_VOCABULARY_FILE
            source = "vocab" if vocab is not None else os.fspath(path)
            self._tokenizer = build_backend(load_vocabulary(path) if vocab is None else vocab, source)
        kwargs.update(kwargs.pop("model_specific_special_tokens", None) or {})
        named_tokens = {token.name: token.content for token in MULTIMODAL_TOKENS}
        named_tokens |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT.content)
        if add_bos_token is not None:
            kwargs["add_bos_token"] = add_bos_token
        super().__init__(
            tokenizer_file=tokenizer_file,
            padding_side=padding_side,
            **{"clean_up_tokenization_spaces": False, **named_tokens, **kwargs},
        )
        if self.chat_template is None:
            chat_format = CHAT_FORMATS[DEFAULT_CHAT_FORMAT]
            self.chat_template = chat_format.template
            self.response_template = self.response_template or chat_format.response_template
        if self._tokenizer.token_to_id(END_OF_TEXT.content) != END_OF_TEXT.world_id:
            raise ValueError(f"{tokenizer_file}: token 0 is not {END_OF_TEXT.content}, so not a World tokenizer")
        self._read_post_processor()

    @classmethod
    def for_chat(cls, name: str = DEFAULT_CHAT_FORMAT, **kwargs: Any) -> "RWKVWorldTokenizer":
        """The World tokenizer with the chat template of a generation of text models.

        Args:
            name: A key of `CHAT_FORMATS`: `world`, `g1` (to g1g), `g1h`, `g1i` (also g1j and the official folders).
            kwargs: Arguments of the class.

        Raises:
            ValueError: There is no such format.
        """
        check_chat_format(name)
        chat_format = CHAT_FORMATS[name]
        return cls(chat_template=chat_format.template, response_template=chat_format.response_template, **kwargs)

    @classmethod
    def from_tokens(cls, tokens: Iterable[bytes], **kwargs: Any) -> "RWKVWorldTokenizer":
        """Build a small vocabulary with World's layout.

        Args:
            tokens: The tokens wanted. The 256 single bytes always have the ids 1 to 256 (byte + 1), whether given or
                not; longer tokens follow from 257 in the order given, and the special strings after the last of them.
            kwargs: Arguments of the class.

        Raises:
            ValueError: A token is empty, not `bytes`, longer than `MAX_TOKEN_BYTES`, or given twice.
        """
        vocabulary = {bytes([byte]): byte + 1 for byte in range(256)}
        for token in tokens:
            if not isinstance(token, bytes) or not token:
                raise ValueError(f"a token must be a non-empty bytes object, got {token!r}")
            if len(token) > 1:
                if token in vocabulary:
                    raise ValueError(f"token {token!r} was given twice")
                vocabulary[token] = len(vocabulary) + 1
        return cls(vocab=vocabulary, **kwargs)

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Keep the files that `from_pretrained` found as they are: `__init__` reads them itself."""
        if kwargs.get("tokenizer_file") is None and kwargs.get("vocab_file") is None:
            names = " or ".join(reversed(VOCAB_FILES_NAMES.values()))
            raise FileNotFoundError(f"{kwargs.get('name_or_path')}: found no {names}")
        if kwargs.get("tokenizer_file") is not None:
            kwargs["vocab_file"] = None
        return kwargs

    def get_byte_vocab(self) -> dict[bytes, int]:
        """The ordinary tokens, bytes to id, without special and added ones."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        special = set(self.added_tokens_encoder)
        ordinary = {_to_bytes(token): token_id for token, token_id in vocabulary.items() if token not in special}
        return dict(sorted(ordinary.items(), key=lambda item: item[1]))

    def encode_bytes(self, data: bytes) -> list[int]:
        """Token ids of any byte string, valid UTF-8 or not; special strings in it are ordinary text.

        Args:
            data: Any bytes.

        Returns:
            Ids with `decode_bytes(ids) == data`; those of `encode` where `data` is UTF-8 without special strings.
        """
        longest_match = self._tokenizer.pre_tokenizer[1]
        model = self._tokenizer.model
        return [model.token_to_id(piece) for piece, _ in longest_match.pre_tokenize_str(_to_characters(data))]

    def decode_bytes(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> bytes:
        """The exact bytes of token ids, where `decode` has to replace what is not UTF-8.

        Args:
            token_ids: Ids in `[0, len(self))`.
            skip_special_tokens: Leave special strings out.

        Raises:
            ValueError: An id is out of range.
        """
        token_ids = self._checked(token_ids)
        added = {token_id: token.content.encode("utf-8") for token_id, token in self.added_tokens_decoder.items()}
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        to_token = self._tokenizer.id_to_token
        pieces = (
            added[token_id] if token_id in added else _to_bytes(to_token(token_id))
            for token_id in token_ids
            if token_id not in skipped
        )
        return b"".join(pieces)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the ordinary tokens as `rwkv_vocab_v20230424.txt`, which llama.cpp and fla repositories read.

        Args:
            save_directory: An existing folder.
            filename_prefix: Put, with a hyphen, before the file name.

        Returns:
            The path written.
        """
        name = f"{filename_prefix}-{VOCABULARY_FILE_NAME}" if filename_prefix else VOCABULARY_FILE_NAME
        path = os.path.join(save_directory, name)
        save_vocabulary(self.get_byte_vocab(), path)
        return (path,)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str | list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[str | AddedToken] | None = None,
        special_tokens_map: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> "RWKVWorldTokenizer":
        """A tokenizer of this kind with a vocabulary learned from texts.

        Byte pair encoding chooses the tokens, which are then used as World's are: the longest match at each position.

        Args:
            text_iterator: Texts, or batches of them.
            vocab_size: Tokens of the new tokenizer at most, with the 256 single bytes and all special strings.
            length: How many texts there are, for a bar of progress.
            new_special_tokens: Special strings to have beside World's own, with the last ids.
            special_tokens_map: Not offered: the special strings are World's.
            kwargs: Options of `tokenizers.trainers.BpeTrainer`.

        Raises:
            ValueError: `vocab_size` has no room for the bytes and special strings, or `special_tokens_map` is given.
        """
        if special_tokens_map:
            raise ValueError("special_tokens_map was given, but these are World's: new_special_tokens adds others")
        added = list(new_special_tokens or [])
        num_bytes = len(BYTE_TO_CHARACTER)
        room = vocab_size - num_bytes - len(SPECIAL_TOKENS) - len(added)
        if room < 0:
            raise ValueError(
                f"vocab_size is {vocab_size}, but bytes and special strings are {vocab_size - room} tokens"
            )
        learner = Tokenizer(BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options = {"show_progress": False, "max_token_length": MAX_TOKEN_BYTES} | kwargs
        alphabet = sorted(CHARACTER_TO_BYTE)
        trainer = BpeTrainer(vocab_size=num_bytes + room, initial_alphabet=alphabet, special_tokens=[], **options)
        learner.train_from_iterator(text_iterator, trainer=trainer, length=length)
        learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
        special = {token.content.encode("utf-8") for token in SPECIAL_TOKENS}
        tokens = (token for token in (_to_bytes(token) for token, _ in learned) if token not in special)
        kept = ("padding_side", "chat_template", "response_template", "add_bos_token")
        tokenizer = type(self).from_tokens(tokens, **{name: getattr(self, name) for name in kept})
        tokenizer.add_tokens(added, special_tokens=True)
        return tokenizer

    def _read_post_processor(self) -> None:
        """Set `add_bos_token` and `add_eos_token` to what the pipeline does; `tokenizer.json` alone records it."""
        ids = self._tokenizer.encode("a").ids
        self._add_bos_token = ids[0] == self.bos_token_id
        self._add_eos_token = ids[-1] == self.eos_token_id

    def _checked(self, token_ids: Sequence[int]) -> Sequence[int]:
        size = len(self)
        for token_id in token_ids:
            if not 0 <= token_id < size:
                raise ValueError(f"token id {token_id} is out of range, expected 0 <= id < {size}")
        return token_ids

    def _decode(self, token_ids: int | list[int] | dict[str, list[int]], *args: Any, **kwargs: Any) -> str:
        if isinstance(token_ids, dict):
            token_ids = token_ids["input_ids"]
        token_ids = [token_ids] if isinstance(token_ids, int) else token_ids
        return super()._decode(self._checked(token_ids), *args, **kwargs)

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        """Write `tokenizer.json` and the vocabulary, and name a class that every transformers knows in the config."""
        self._tokenizer.no_padding()  # what the last call used is not part of the tokenizer
        self._tokenizer.no_truncation()
        saved = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        config_path = Path(file_names[0])
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config["tokenizer_class"] = STOCK_TOKENIZER_CLASS
        for key in ("is_local", "local_files_only"):  # facts about the last load
            config.pop(key, None)
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        config_path.write_text(text + "\n", encoding="utf-8")
        return saved + self.save_vocabulary(str(save_directory), filename_prefix)


def tokenizer_without_files(source: str, vocab_size: int) -> RWKVWorldTokenizer:
    """The tokenizer of a checkpoint that comes alone, in one file.

    Args:
        source: Its path, whose name tells how the model talks.
        vocab_size: Of the model.

    Raises:
        ValueError: Its vocabulary is not World's.
    """
    tokenizer = RWKVWorldTokenizer.for_chat(chat_format_of(source))
    if vocab_size != len(tokenizer):
        raise ValueError(f"{source}: comes without a tokenizer, and a vocabulary of {vocab_size} is not World's")
    return tokenizer


def build_backend(vocabulary: dict[bytes, int], source: str = "vocabulary") -> Tokenizer:
    """Make the `tokenizers` pipeline of a vocabulary.

    Args:
        vocabulary: Ordinary tokens, bytes to id: 1..n without gaps, all 256 single bytes among them. Special strings
            may be among them, as in some vocabulary files, if they stand where this function would put them.
        source: What to call the vocabulary in an error.

    Returns:
        A pipeline with the ordinary tokens, end of text as 0 and the multimodal strings as n+1..n+6.

    Raises:
        ValueError: As described above, or a token is longer than `MAX_TOKEN_BYTES`.
    """
    special = {token.content.encode("utf-8") for token in SPECIAL_TOKENS}
    ordinary = {token: token_id for token, token_id in vocabulary.items() if token not in special}
    _check_vocabulary(ordinary, source)
    tokens = {_to_characters(token): token_id for token, token_id in ordinary.items()}
    pattern = longest_match_pattern(tokens)
    backend = Tokenizer(WordLevel({END_OF_TEXT.content: END_OF_TEXT.world_id, **tokens}, END_OF_TEXT.content))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token.content, special=True, normalized=False) for token in SPECIAL_TOKENS])
    for token in special & vocabulary.keys():
        given, expected = vocabulary[token], backend.token_to_id(token.decode("utf-8"))
        if given != expected:
            raise ValueError(f"{source}: special string {token!r} has id {given}, expected {expected}")
    return backend


def longest_match_pattern(tokens: Iterable[str]) -> str:
    """A regular expression that matches the longest of `tokens` at a position.

    It is the trie of the tokens: the alternatives of a node differ in their first character, so at most one applies,
    and a group is optional where a token may end, which makes a greedy match the longest. Only syntax that
    Oniguruma, Rust and JavaScript share is used.
    """
    root: dict[str, Any] = {}
    for token in tokens:
        node = root
        for character in token:
            node = node.setdefault(character, {})
        node[""] = True
    return _node_pattern(root)


def _node_pattern(node: dict[str, Any]) -> str:
    """The pattern of what may follow a trie node; `""` among its keys says that a token ends there."""
    characters_by_rest: dict[str, list[str]] = {}
    for character, child in node.items():
        if character:
            characters_by_rest.setdefault(_node_pattern(child), []).append(character)
    if not characters_by_rest:
        return ""
    alternatives = sorted((min(characters), rest, characters) for rest, characters in characters_by_rest.items())
    pattern = "|".join(_character_class(characters) + rest for _, rest, characters in alternatives)
    if "" in node:
        return f"(?:{pattern})?"
    return f"(?:{pattern})" if len(alternatives) > 1 else pattern


def _character_class(characters: list[str]) -> str:
    if len(characters) == 1:
        return "\\" + characters[0] if characters[0] in r"\^$.|?*+()[]{}" else characters[0]
    return "[" + "".join("\\" + c if c in r"\^[]-" else c for c in sorted(characters)) + "]"


def _check_vocabulary(ordinary: dict[bytes, int], source: str) -> None:
    """Raise a `ValueError` if the ordinary tokens cannot carry every text with ids 1..n."""
    missing = [byte for byte in range(256) if bytes([byte]) not in ordinary]
    if missing:
        raise ValueError(f"{source}: {len(missing)} single bytes are no tokens, the first is 0x{missing[0]:02x}")
    ids = sorted(ordinary.values())
    gap = next((expected for expected, found in enumerate(ids, start=1) if found != expected), None)
    if gap is not None:
        raise ValueError(f"{source}: ids must be 1..{len(ids)} once each, the first that breaks this is {gap}")
    longest = max(ordinary, key=len)
    if len(longest) > MAX_TOKEN_BYTES:
        raise ValueError(f"{source}: token {ordinary[longest]} has {len(longest)} bytes, at most {MAX_TOKEN_BYTES}")


def _to_characters(data: bytes) -> str:
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, data))


def _to_bytes(token: str) -> bytes:
    return bytes(map(CHARACTER_TO_BYTE.__getitem__, token))


__all__ = ["RWKVWorldTokenizer"]

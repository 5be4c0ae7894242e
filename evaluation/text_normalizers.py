# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What is done to transcripts before they are compared, each by a name that stands beside the score."""

import unicodedata
from collections.abc import Callable
from functools import cache

from ..configuration.optional_libraries import optional_imports


def _as_it_is(text: str) -> str:
    return text


def words_of(text: str) -> str:
    """The text with one space between words, whatever white space of Unicode parted them."""
    return " ".join(text.split())


def chinese_characters(text: str) -> str:
    """Lower case, full-width forms made half-width, neither spaces nor punctuation: for error rates of characters."""
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(character for character in text if unicodedata.category(character)[0] not in "PZSC")


@cache
def _whisper(language: str) -> Callable[[str], str]:
    """Of Whisper's paper, appendix C."""
    with optional_imports():
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "english" else BasicTextNormalizer()


NORMALIZERS: dict[str, Callable[[str], str]] = {
    "none": _as_it_is,
    "lower": lambda text: words_of(text.lower()),
    "whisper_basic": lambda text: words_of(_whisper("basic")(words_of(text))),
    "whisper_english": lambda text: words_of(_whisper("english")(words_of(text))),
    "chinese": chinese_characters,
}


def get_normalizer(name: str) -> Callable[[str], str]:
    """The normaliser of that name.

    Args:
        name: "none" (the text as it is, so that jiwer parts words at spaces only), "lower" (case and white space),
            "whisper_basic" (case, punctuation, brackets), "whisper_english" (also numbers, contractions, British
            spelling) or "chinese" (case, width, punctuation, spaces). Under all but "none" any white space parts
            words: tabs, line breaks and no-break spaces too.

    Raises:
        ValueError: If there is none.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"Unknown normalizer {name!r}, expected one of {', '.join(NORMALIZERS)}.")
    return NORMALIZERS[name]

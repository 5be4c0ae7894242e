# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether a free answer holds the one expected, by the rules of MMMU's scorer (MMMU-Benchmark/MMMU, eval_utils.py)."""

import re
from collections.abc import Iterable, Iterator, Sequence


# What an answer in a sentence stands behind
_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_EQUALS = "="  # in the last line only
_TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
_DECIMALS = 2


def holds_answer(answer: str, references: Sequence[str]) -> bool:
    """Whether an answer to an open question is right.

    Args:
        answer: Of the model, a word or sentences.
        references: The right ones, any of which will do.

    Returns:
        Whether a number in it equals one expected, both rounded to two decimals, or a phrase holds a text expected.
    """
    expected = [form for reference in references for form in _normal_forms(reference)]
    phrases = list(_key_phrases(answer))
    numbers = [match for phrase in phrases for match in _numbers(phrase)]
    found = [form for part in (*phrases, *numbers) for form in _normal_forms(part)]
    texts = [form for form in expected if isinstance(form, str)]
    return any(any(text in form for text in texts) if isinstance(form, str) else form in expected for form in found)


def _key_phrases(answer: str) -> Iterator[str]:
    """What each line concludes in; the whole answer, if none does."""
    answer = answer.strip().strip(".").lower()
    lines = answer.split("\n")
    conclusions = [
        _conclusion(line, _INDICATORS if number < len(lines) else (*_INDICATORS, _EQUALS))
        for number, line in enumerate(lines, start=1)
    ]
    found = [conclusion for conclusion in conclusions if conclusion and conclusion not in _TRIVIAL]
    yield from found or [answer]


def _conclusion(line: str, indicators: Iterable[str]) -> str:
    """The shortest text that follows the last of any indicator; empty if there is none."""
    shortest = ""
    for indicator in indicators:
        if indicator in line:
            tail = line.rpartition(indicator)[2].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
    return shortest


def _numbers(text: str) -> Iterator[str]:
    for pattern in _NUMBERS:
        yield from pattern.findall(text)


def _normal_forms(text: str) -> list[float | str]:
    """A number, rounded; else the text in lower case, and a lone letter only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), _DECIMALS)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]

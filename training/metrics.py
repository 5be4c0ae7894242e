# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of generated answers during training."""

import re
from collections.abc import Callable


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s]")


def word_error_rate(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Word error rate over the whole corpus, lower-cased and without punctuation, in percent."""
    import jiwer

    return {"wer": 100 * jiwer.wer([_plain(text) for text in references], [_plain(text) for text in predictions])}


def character_error_rate(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Character error rate over the whole corpus without spaces and punctuation, in percent."""
    import jiwer

    def characters(texts: list[str]) -> list[str]:
        return [_plain(text).replace(" ", "") for text in texts]

    return {"cer": 100 * jiwer.cer(characters(references), characters(predictions))}


def exact_match(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Answers that agree but for case, punctuation and articles, in percent, as in visual question answering."""
    pairs = zip(predictions, references, strict=True)
    right = sum(_without_articles(said) == _without_articles(answer) for said, answer in pairs)
    return {"exact_match": 100 * right / len(references)}


def _plain(text: str) -> str:
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def _without_articles(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", _plain(text)).split())


METRICS: dict[str, Callable[[list[str], list[str]], dict[str, float]]] = {
    "wer": word_error_rate,
    "cer": character_error_rate,
    "exact_match": exact_match,
}

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of generated answers during training, in percent; the rules are those of `evaluation`."""

from collections.abc import Callable

from ...evaluation.exact_answers import matches


# jiwer and the normalisers are needed only by those who score transcripts


def word_error_rate(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Word error rate over the whole corpus, normalised as Whisper's in any language."""
    from ...evaluation.error_rates import word_error_rate as rate

    return {"wer": 100 * rate(predictions, references, "whisper_basic")["wer"]}


def character_error_rate(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Character error rate over the whole corpus without case, spaces and punctuation."""
    from ...evaluation.error_rates import character_error_rate as rate

    return {"cer": 100 * rate(predictions, references, "chinese")["cer"]}


def exact_match(predictions: list[str], references: list[str]) -> dict[str, float]:
    """Answers that are the same but for case, punctuation, articles and how numbers are written."""
    right = sum(matches(said, answer, "vqa") for said, answer in zip(predictions, references, strict=True))
    return {"exact_match": 100 * right / len(references)}


METRICS: dict[str, Callable[[list[str], list[str]], dict[str, float]]] = {
    "wer": word_error_rate,
    "cer": character_error_rate,
    "exact_match": exact_match,
}

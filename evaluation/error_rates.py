# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Error rates of transcripts, of words or characters, over the whole corpus and as the mean over its utterances."""

from collections.abc import Callable, Sequence

import jiwer

from .text_normalizers import get_normalizer


def word_error_rate(
    predictions: Sequence[str], references: Sequence[str], normalizer: str = "none"
) -> dict[str, float | int]:
    """Word error rates, from 0 up.

    Args:
        predictions: What was heard.
        references: What was said, one for each.
        normalizer: Of both, see [`get_normalizer`].

    Returns:
        `wer` (errors of all utterances by their words), `wer_macro` (mean over the utterances), and what they are made
        of: `substitutions`, `deletions`, `insertions`, `reference_words`.

    Raises:
        ValueError: If the numbers differ, or all references are empty.
    """
    return _error_rates("wer", "words", jiwer.process_words, predictions, references, normalizer)


def character_error_rate(
    predictions: Sequence[str], references: Sequence[str], normalizer: str = "none"
) -> dict[str, float | int]:
    """Character error rates, from 0 up: `cer`, `cer_macro` and `reference_characters`, as [`word_error_rate`]."""
    return _error_rates("cer", "characters", jiwer.process_characters, predictions, references, normalizer)


def _error_rates(
    name: str, unit: str, align: Callable, predictions: Sequence[str], references: Sequence[str], normalizer: str
) -> dict[str, float | int]:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references.")
    normalize = get_normalizer(normalizer)
    said, heard = ([normalize(text).strip() for text in side] for side in (references, predictions))
    # jiwer refuses empty references; whatever is heard where nothing was said is inserted
    aligned = [align(*pair) for pair in zip(said, heard, strict=True) if pair[0]]
    if not aligned:
        raise ValueError("Not one reference has a word in it.")
    from_nothing = [noise for nothing, noise in zip(said, heard, strict=True) if not nothing]
    inserted = sum(len(noise.split() if unit == "words" else noise) for noise in from_nothing)
    kinds = ("hits", "substitutions", "deletions", "insertions")
    hits, *errors = (sum(getattr(output, kind) for output in aligned) for kind in kinds)
    errors[-1] += inserted
    units = hits + errors[0] + errors[1]
    return {
        name: sum(errors) / units,
        f"{name}_macro": sum(getattr(output, name) for output in aligned) / len(aligned),
        **dict(zip(kinds[1:], errors, strict=True)),
        f"reference_{unit}": units,
    }

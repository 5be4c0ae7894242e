# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Error rates of transcripts, of words or characters, over the whole corpus and as the mean over its utterances."""

from collections.abc import Sequence

from ..configuration.optional_libraries import optional_imports
from .text_normalizers import get_normalizer


_KINDS = ("hits", "substitutions", "deletions", "insertions")


def word_error_rate(
    predictions: Sequence[str], references: Sequence[str], normalizer: str = "none"
) -> dict[str, float | int]:
    """Word error rates, from 0 up.

    Args:
        predictions: What was heard.
        references: What was said, one for each.
        normalizer: Of both, see [`get_normalizer`].

    Returns:
        `wer` (errors of all utterances by their words), `wer_macro` (mean over the utterances), what they are made of:
        `substitutions`, `deletions`, `insertions`, `reference_words`, and `empty_references`, in which nothing is
        left of what was said. All as jiwer defines them: words heard in silence are inserted, and where there is
        nothing to divide by, errors are counted and not divided.

    Raises:
        ValueError: If the numbers differ, or there are none.
    """
    return _error_rates("wer", "words", predictions, references, normalizer)


def character_error_rate(
    predictions: Sequence[str], references: Sequence[str], normalizer: str = "none"
) -> dict[str, float | int]:
    """Character error rates, from 0 up: `cer`, `cer_macro`, `reference_characters` ..., as [`word_error_rate`]."""
    return _error_rates("cer", "characters", predictions, references, normalizer)


def utterance_errors(prediction: str, reference: str, unit: str = "words") -> dict[str, int]:
    """`hits`, `substitutions`, `deletions` and `insertions` of one utterance, both texts already normalised.

    Args:
        prediction: What was heard.
        reference: What was said; of nothing said, everything heard is inserted.
        unit: "words" or "characters".
    """
    with optional_imports():
        import jiwer  # here, for whoever scores no transcripts need not have it

    align = jiwer.process_words if unit == "words" else jiwer.process_characters
    aligned = align(reference.strip(), prediction.strip())
    return {kind: getattr(aligned, kind) for kind in _KINDS}


def rate_of(errors: dict[str, int]) -> float:
    """Wrong units by those of the reference; where it has none, how many were inserted, as jiwer."""
    return wrong_units(errors) / (spoken_units(errors) or 1)


def spoken_units(errors: dict[str, int]) -> int:
    """Words or characters of the reference that errors were counted against."""
    return errors["hits"] + errors["substitutions"] + errors["deletions"]


def wrong_units(errors: dict[str, int]) -> int:
    """How many errors there are of all kinds."""
    return errors["substitutions"] + errors["deletions"] + errors["insertions"]


def _error_rates(
    name: str, unit: str, predictions: Sequence[str], references: Sequence[str], normalizer: str
) -> dict[str, float | int]:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references.")
    normalize = get_normalizer(normalizer)
    utterances = [
        utterance_errors(normalize(heard), normalize(said), unit)
        for heard, said in zip(predictions, references, strict=True)
    ]
    if not utterances:
        raise ValueError("There is not one utterance to score.")
    total = {kind: sum(errors[kind] for errors in utterances) for kind in _KINDS}
    return {
        name: rate_of(total),
        f"{name}_macro": sum(map(rate_of, utterances)) / len(utterances),
        **{kind: total[kind] for kind in _KINDS[1:]},
        f"reference_{unit}": spoken_units(total),
        "empty_references": sum(not spoken_units(errors) for errors in utterances),
    }

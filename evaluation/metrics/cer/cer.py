# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Character error rate as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.error_rates import character_error_rate


_DESCRIPTION = "Errors of transcripts in characters, over the whole corpus and as the mean over its utterances."
_INPUTS = """
Args:
    predictions: what was heard, texts.
    references: what was said, texts.
    normalizer: of both: none, lower, whisper_basic, whisper_english, chinese (default: none).

Returns:
    cer, cer_macro, substitutions, deletions, insertions, reference_characters, empty_references
"""
_CITATION = """https://github.com/jitsi/jiwer"""


class CharacterErrorRate(evaluate.Metric):
    """Character error rate."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, normalizer="none"):
        return character_error_rate(predictions, references, normalizer)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Word error rate as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.error_rates import word_error_rate


_DESCRIPTION = "Errors of transcripts in words, over the whole corpus and as the mean over its utterances."
_INPUTS = """
Args:
    predictions: what was heard, texts.
    references: what was said, texts.
    normalizer: of both: none, lower, whisper_basic, whisper_english, chinese (default: none).

Returns:
    wer, wer_macro, substitutions, deletions, insertions, reference_words, empty_references
"""
_CITATION = """https://github.com/jitsi/jiwer"""


class WordErrorRate(evaluate.Metric):
    """Word error rate."""

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
        return word_error_rate(predictions, references, normalizer)

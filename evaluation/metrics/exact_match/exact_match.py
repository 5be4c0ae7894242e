# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Exact match as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.exact_answers import matches


_DESCRIPTION = "Answers that are the one expected."
_INPUTS = """
Args:
    predictions: answers of the model, texts.
    references: the right answers, texts.
    rule: what does not count: strict (space around it), gqa (case, a last period), vqa (punctuation, articles, how
        numbers are written) (default: gqa).

Returns:
    exact_match, from 0 to 1
"""
_CITATION = """https://arxiv.org/abs/1902.09506"""


class ExactMatch(evaluate.Metric):
    """Exact match."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, rule="gqa"):
        right = [matches(*pair, rule) for pair in zip(predictions, references, strict=True)]
        return {"exact_match": sum(right) / len(right)}

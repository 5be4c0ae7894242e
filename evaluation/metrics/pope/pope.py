# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""POPE as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.yes_no import binary_scores, says_yes


_DESCRIPTION = "Answers to questions whether something is in a picture."
_INPUTS = """
Args:
    predictions: answers of the model, texts.
    references: yes or no.

Returns:
    accuracy, precision, recall, f1, yes_rate, from 0 to 1
"""
_CITATION = """https://arxiv.org/abs/2305.10355"""


class POPE(evaluate.Metric):
    """POPE."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        return binary_scores(*([says_yes(answer) for answer in side] for side in (predictions, references)))

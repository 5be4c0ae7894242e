# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""VQA accuracy as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.vqa_answers import vqa_score


_DESCRIPTION = "Answers to questions about pictures, compared with those of ten people."
_INPUTS = """
Args:
    predictions: answers of the model, texts.
    references: the answers of people to each question, lists of texts.
    rule: vqa (VQAv2, VizWiz) or textvqa (default: vqa).

Returns:
    vqa_accuracy, from 0 to 1
"""
_CITATION = """https://arxiv.org/abs/1505.00468"""


class VQAAccuracy(evaluate.Metric):
    """VQA accuracy."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.List(datasets.Value("string"))}
            ),
        )

    def _compute(self, predictions, references, rule="vqa"):
        scores = [vqa_score(*pair, rule) for pair in zip(predictions, references, strict=True)]
        return {"vqa_accuracy": sum(scores) / len(scores)}

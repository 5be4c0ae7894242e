# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Multiple choice as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.multiple_choice import chosen_option


_DESCRIPTION = "Answers that name the right one of several options."
_INPUTS = """
Args:
    predictions: answers of the model, texts.
    references: letters of the right options.
    options: the texts of the options A, B, C ... of each question, lists of texts.
    rule: how the option is found: strict, scienceqa, mmmu, mmbench (default: strict).

Returns:
    accuracy, from 0 to 1, and unparsed, the share of answers that name no option, which count as wrong
"""
_CITATION = """https://arxiv.org/abs/2209.09513, https://arxiv.org/abs/2311.16502, https://arxiv.org/abs/2307.06281"""


class MultipleChoice(evaluate.Metric):
    """Multiple choice."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                    "options": datasets.List(datasets.Value("string")),
                }
            ),
        )

    def _compute(self, predictions, references, options, rule="strict"):
        chosen = [chosen_option(*pair, rule) for pair in zip(predictions, options, strict=True)]
        right = sum(letter == reference for letter, reference in zip(chosen, references, strict=True))
        return {"accuracy": right / len(chosen), "unparsed": chosen.count(None) / len(chosen)}

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Bits per character as a module of `evaluate`; the README beside it is its card."""

import datasets
import evaluate

from rwkv7_world.evaluation.likelihoods import bits_per_character


_DESCRIPTION = "How well a language model foretells texts, whatever its tokenizer."
_INPUTS = """
Args:
    predictions: negative log likelihood of each whole text, in nats.
    references: the texts.

Returns:
    bits_per_character, bits_per_byte
"""
_CITATION = """https://arxiv.org/abs/2101.00027"""


class BitsPerCharacter(evaluate.Metric):
    """Bits per character."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        return bits_per_character(predictions, references)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Answers to yes-no questions, and how well they find what is there (POPE, arXiv 2305.10355)."""

from collections.abc import Sequence


_NO = {"No", "not", "no"}


def says_yes(answer: str) -> bool:
    """As POPE's evaluate.py: whatever its first sentence does not deny."""
    return not _NO & set(answer.split(".")[0].replace(",", "").split(" "))


def binary_scores(predicted: Sequence[bool], true: Sequence[bool]) -> dict[str, float]:
    """`accuracy`, `precision`, `recall`, `f1` and `yes_rate`, from 0 to 1, of which yes is what is looked for.

    Raises:
        ValueError: If the numbers differ or are zero.
    """
    if len(predicted) != len(true) or not predicted:
        raise ValueError(f"{len(predicted)} predictions for {len(true)} references.")
    hits = sum(said and is_there for said, is_there in zip(predicted, true, strict=True))
    said_yes, there = sum(predicted), sum(true)
    precision = hits / said_yes if said_yes else 0.0
    recall = hits / there if there else 0.0
    return {
        "accuracy": sum(said == is_there for said, is_there in zip(predicted, true, strict=True)) / len(true),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes_rate": said_yes / len(predicted),
    }

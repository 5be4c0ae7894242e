# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Whether an answer is the one expected."""

from collections.abc import Callable

from .vqa_answers import evalai_answer


def _gqa(answer: str) -> str:
    """As GQA's script is given answers by LLaVA."""
    return answer.strip().rstrip(".").lower()


RULES: dict[str, Callable[[str], str]] = {"strict": str.strip, "gqa": _gqa, "vqa": evalai_answer}


def matches(answer: str, reference: str, rule: str = "gqa") -> bool:
    """Whether two answers are the same.

    Args:
        answer: Of the model.
        reference: The right one.
        rule: What does not count: "strict" space around them, "gqa" also case and a last period, "vqa" also
            punctuation, articles, and how numbers are written.

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r}, expected one of {', '.join(RULES)}.")
    return RULES[rule](answer) == RULES[rule](reference)

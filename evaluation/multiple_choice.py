# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Which option an answer names, by the rules of the benchmarks; none, where they leave it open or throw dice."""

import re
import string
from collections.abc import Callable, Mapping


Options = Mapping[str, str]  # text of each letter

_ANSWER_IS = re.compile(r"The answer is ([A-Z])\.")
_MMMU_EDGES = ",.!?;:'"
_MMMU_SHORT_ANSWER = 5  # words, up to which an answer that names no letter is not looked through for an option's text
_MMBENCH_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_MMBENCH_LAST_WORDS = 5  # among which the letter has to stand


def strict_choice(answer: str, options: Options) -> str | None:
    """The letter, if the answer is nothing else, but for a period or brackets."""
    letter = answer.strip().strip("().").upper()
    return letter if letter in options else None


def scienceqa_choice(answer: str, options: Options) -> str | None:
    """As LLaVA's eval_science_qa.py: "B", "B. ..." or, exactly once, "The answer is B."."""
    if answer in options:
        return answer
    if len(answer) >= 3 and answer[0] in options and answer[1:3] == ". ":
        return answer[0]
    found = _ANSWER_IS.findall(answer)
    return found[0] if len(found) == 1 and found[0] in options else None


def mmmu_choice(answer: str, options: Options) -> str | None:
    """As MMMU's parse_multi_choice_response, which takes a random option where this gives `None`."""
    padded = f" {answer.strip(_MMMU_EDGES)} "
    for mark in ("({})", " {} ", "{}."):
        found = [letter for letter in options if mark.format(letter) in padded]
        if found:
            return max(found, key=lambda letter: padded.rfind(mark.format(letter)))
    if len(padded.split()) > _MMMU_SHORT_ANSWER:
        lowered = padded.lower()
        found = [letter for letter, text in options.items() if text.lower() in lowered]
        if found:
            return max(found, key=lambda letter: lowered.rfind(options[letter].lower()))
    return None


def mmbench_choice(answer: str, options: Options) -> str | None:
    """As VLMEvalKit's can_infer, without its judge: the only letter named, near the end, or the only option's text."""
    words = answer.translate(_MMBENCH_SEPARATORS).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1:
        return named[0] if words.index(named[0]) > len(words) - _MMBENCH_LAST_WORDS else None
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    found = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return found[0] if not named and len(found) == 1 else None


RULES: dict[str, Callable[[str, Options], str | None]] = {
    "strict": strict_choice,
    "scienceqa": scienceqa_choice,
    "mmmu": mmmu_choice,
    "mmbench": mmbench_choice,
}


def chosen_option(answer: str, options: list[str], rule: str) -> str | None:
    """The letter of the option that an answer names.

    Args:
        answer: Of the model.
        options: Texts of the options A, B, C ...
        rule: One of `RULES`.

    Returns:
        The letter, or `None` if the rule finds none.

    Raises:
        ValueError: If the rule is unknown.
    """
    if rule not in RULES:
        raise ValueError(f"Unknown rule {rule!r}, expected one of {', '.join(RULES)}.")
    return RULES[rule](answer, dict(zip(string.ascii_uppercase, options, strict=False)))

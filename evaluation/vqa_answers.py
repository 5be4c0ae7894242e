# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Answers to questions about pictures, compared with those of ten people (arXiv 1505.00468, section 5).

`vqa` is the rule of the official vqaEval.py of VQA, with its oddities: reference answers lose their punctuation, but
keep articles and number words, and only if not all people agree. `textvqa` is that of TextVQA's M4C evaluator, which
treats both sides alike.
"""

import re
from collections.abc import Sequence


AGREEING_PEOPLE = 3  # who make an answer fully right

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_BETWEEN_COMMAS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = 32  # the official script passes re.UNICODE where the number of replacements is expected
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = {"a", "an", "the"}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each with one apostrophe forgotten, and a slip of the official table
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTED for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}


def strip_punctuation(text: str) -> str:
    """Punctuation gone where a space stands beside it or a number has a comma, else made a space; periods gone."""
    stripped = text
    has_comma_in_number = _NUMBER_BETWEEN_COMMAS.search(text)
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_space or has_comma_in_number else " ")
    return _PERIOD.sub("", stripped, count=_MOST_PERIODS)


def normalize_words(text: str) -> str:
    """Lower case, numbers as digits, no articles, forgotten apostrophes put back."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def official_answer(answer: str) -> str:
    """An answer of a model as the official script compares it."""
    return normalize_words(strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()))


def evalai_answer(answer: str) -> str:
    """An answer as EvalAI's processor, which TextVQA and submissions to VQAv2 use, compares and writes it."""
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return official_answer(answer)


def vqa_score(prediction: str, answers: Sequence[str], rule: str = "vqa") -> float:
    """How right an answer is, from 0 to 1: the mean, over all people but one, of a third for each who agrees, up to 1.

    Args:
        prediction: Answer of a model.
        answers: Of people, usually ten.
        rule: "vqa" or "textvqa".

    Raises:
        ValueError: If there are no answers, or the rule is unknown.
    """
    if not answers:
        raise ValueError("A question has no reference answers.")
    if rule == "textvqa":
        prediction, answers = evalai_answer(prediction), [evalai_answer(answer) for answer in answers]
    elif rule == "vqa":
        prediction = official_answer(prediction)
        answers = [strip_punctuation(answer) for answer in answers] if len(set(answers)) > 1 else answers
    else:
        raise ValueError(f"Unknown rule {rule!r}, expected vqa or textvqa.")
    agree = [answer == prediction for answer in answers]
    total = sum(agree)
    return sum(min(1.0, (total - left_out) / AGREEING_PEOPLE) for left_out in agree) / len(answers)

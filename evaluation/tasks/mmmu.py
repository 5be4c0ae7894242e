# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""MMMU (arXiv 2311.16502): questions of college exams, about one or several pictures."""

import ast
import re
import string
from collections.abc import Sequence

from ...data.stored_sets import is_stored_folder, load_stored
from ..exact_answers import matches
from ..open_answers import holds_answer
from .mmbench import multiple_choice_prompt
from .picture_answers import WORLDRWKV, accuracy, final_answer
from .scienceqa import score_choice
from .task import DataOptions, Published, Sample, Score, Task, image_block, ratios_by, require, text_block


LAYOUT = (
    "a folder of the set MMMU/MMMU: parquet files or sets saved by `datasets`, itself or one folder a subject, with "
    "the columns id, question, options, answer, question_type, image_1, image_2, ..."
)
MULTIPLE_CHOICE = "multiple-choice"
_IMAGE_MARK = re.compile(r"<image (\d+)>")
_HIDDEN_ANSWER = "?"


def read_mmmu(options: DataOptions) -> list[Sample]:
    """Samples of the stored set; pictures stand where the question or an option mentions them.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its columns are others.
    """
    path = require(options.path, "mmmu", LAYOUT)
    if not path.is_dir() or not is_stored_folder(path):
        raise ValueError(f"{path}: no stored set; mmmu expects {LAYOUT}")
    rows = load_stored(str(path), split=MMMU.split_of(options))
    missing = {"id", "question", "options", "answer", "question_type", "image_1"} - set(rows.column_names)
    if missing:
        raise ValueError(f"{path}: no column {min(missing)}; mmmu expects {LAYOUT}")
    return [_sample(row) for row in rows]


def score_mmmu(prediction: str, sample: Sample, rule: str) -> Score:
    """The option named; of open questions, an answer as MMMU's scorer finds it, or, by other rules, nothing else."""
    if sample.details["question_type"] == MULTIPLE_CHOICE:
        return score_choice(prediction, sample, rule)
    answer = final_answer(prediction)
    if rule == MMMU.rule:
        return Score(holds_answer(answer, sample.reference))
    return Score(any(matches(answer, reference, "strict") for reference in sample.reference))


def summarize_mmmu(records: Sequence[dict], rule: str) -> dict[str, float]:
    """`accuracy`, of all, by subject, and by the kind of question."""
    return accuracy(records, rule) | ratios_by(records, "question_type", "accuracy")


def _sample(row: dict) -> Sample:
    choices = ast.literal_eval(row["options"]) if isinstance(row["options"], str) else row["options"]
    is_choice = row["question_type"] == MULTIPLE_CHOICE
    letters = dict(zip(string.ascii_uppercase, choices, strict=False))
    prompt = multiple_choice_prompt(row["question"], letters) if is_choice else row["question"]
    subject = re.sub(r"^(?:dev|validation|test)_|_\d+$", "", row["id"])
    details = {"question_type": row["question_type"], "options": choices, "category": subject}
    return Sample(row["id"], _with_pictures(prompt, row), _reference(row["answer"], is_choice), details)


def _reference(answer: str, is_choice: bool) -> str | list[str] | None:
    """The letter, the answers to an open question, or `None` if they are not told."""
    if answer == _HIDDEN_ANSWER:
        return None
    if is_choice:
        return answer
    answers = ast.literal_eval(answer) if answer.startswith("[") else [answer]
    return [str(one) for one in answers]


def _with_pictures(prompt: str, row: dict) -> tuple[dict, ...]:
    blocks = []
    for index, piece in enumerate(_IMAGE_MARK.split(prompt)):
        is_mark = index % 2 == 1
        picture = row.get(f"image_{piece}") if is_mark else None
        if is_mark and picture:
            blocks.append(image_block(picture["bytes"] or picture["path"]))
        elif piece and not is_mark:
            blocks.append(text_block(piece))
    return tuple(blocks)


MMMU = Task(
    name="mmmu",
    dataset="MMMU",
    title="college exams about one or several pictures",
    layout=LAYOUT,
    read=read_mmmu,
    metric="accuracy",
    rule="mmmu",
    score=score_mmmu,
    summarize=summarize_mmmu,
    has_media_files=False,
    splits=("validation", "dev", "test"),
    published=(Published("WorldRWKV SigLIP2 3B", 38.7, f"{WORLDRWKV}, and arXiv 2505.14505"),),
)

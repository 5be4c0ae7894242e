# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""ScienceQA (arXiv 2209.09513) in LLaVA's form: questions of school science, half of them with a picture."""

import string
from collections.abc import Sequence
from dataclasses import replace

from ...data.json_records import read_records
from ..multiple_choice import chosen_option
from .picture_answers import (
    OPTION_LETTER,
    final_answer,
    published_of_visual,
    published_of_world,
    question_about,
    read_json,
)
from .task import DataOptions, Sample, Score, Task, ratio, records_with, require, text_block


LAYOUT = "llava_SPLIT_CQM-A.json, problems.json, and the pictures in images/SPLIT/"
IMAGE_MARK = "<image>"


def read_scienceqa(options: DataOptions) -> list[Sample]:
    """Samples of a folder with the official problems and LLaVA's prompts.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a record is not in the official form.
    """
    split = SCIENCEQA.split_of(options)
    problems = read_json(require(options.path / "problems.json", "scienceqa", LAYOUT))
    prompts = require(options.path / f"llava_{split}_CQM-A.json", "scienceqa", LAYOUT)
    folder = options.media_folder or options.path / "images" / split
    samples = []
    for source, record in records_with(read_records(prompts), "id", "conversations"):
        if str(record["id"]) not in problems:
            raise ValueError(f"{source}: problems.json has no problem {record['id']}")
        problem = problems[str(record["id"])]
        question = record["conversations"][0]["value"].replace(IMAGE_MARK, "").strip()
        has_picture = "image" in record
        content = (
            question_about(folder / record["image"], question, OPTION_LETTER)
            if has_picture
            else (text_block(f"{question}\n{OPTION_LETTER}"),)
        )
        details = {"options": problem["choices"], "has_picture": has_picture}
        letter = string.ascii_uppercase[problem["answer"]]
        samples.append(Sample(str(record["id"]), content, letter, details))
    return samples


def score_choice(prediction: str, sample: Sample, rule: str) -> Score:
    """Whether the right option is named."""
    return Score(chosen_option(final_answer(prediction), sample.details["options"], rule) == sample.reference)


def summarize_scienceqa(records: Sequence[dict], rule: str) -> dict[str, float]:
    """`image_accuracy`, which papers report, and `accuracy` with the questions that have no picture."""
    with_picture = [record for record in records if record["has_picture"]]
    return ({"image_accuracy": ratio(with_picture)} if with_picture else {}) | {"accuracy": ratio(records)}


SCIENCEQA = Task(
    name="scienceqa",
    dataset="ScienceQA",
    title="school science, multiple choice",
    layout=LAYOUT,
    read=read_scienceqa,
    metric="accuracy",
    rule="scienceqa",
    score=score_choice,
    summarize=summarize_scienceqa,
    splits=("test", "val", "minitest"),
    published=tuple(
        replace(figure, metric="image_accuracy")
        for figure in published_of_world((43.32, 63.10, 70.93), (51.10, 62.77, 70.06))
        + published_of_visual(50.62, 54.98, 59.74)
    ),
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""GQA (arXiv 1902.09506): questions about what stands where and how it looks, with one right answer each."""

from .picture_answers import (
    SHORT_ANSWER,
    accuracy,
    published_of_visual,
    published_of_world,
    question_about,
    read_json,
    score_exactly,
)
from .task import DataOptions, Sample, Task, require


LAYOUT = "SPLIT_questions.json and the pictures in images/"


def read_gqa(options: DataOptions) -> list[Sample]:
    """Samples of a folder with the official files.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If the questions are not in the official form.
    """
    path = require(options.path / f"{GQA.split_of(options)}_questions.json", "gqa", LAYOUT)
    folder = require(options.media_folder or options.path / "images", "gqa", LAYOUT)
    questions = read_json(path)
    if not isinstance(questions, dict):
        raise ValueError(f"{path}: expected a JSON object of questions by their ids")
    return [
        Sample(
            number,
            question_about(folder / f"{question['imageId']}.jpg", question["question"], SHORT_ANSWER),
            question.get("answer"),
            {"category": question.get("types", {}).get("structural")},
        )
        for number, question in questions.items()
    ]


GQA = Task(
    name="gqa",
    dataset="GQA",
    title="questions about what stands where and how it looks",
    layout=LAYOUT,
    read=read_gqa,
    metric="accuracy",
    rule="gqa",
    score=score_exactly,
    summarize=accuracy,
    splits=("testdev_balanced", "val_balanced"),
    published=published_of_world((55.52, 58.88, 60.75), (49.32, 54.56, 57.00))
    + published_of_visual(59.92, 62.30, 63.20),
)

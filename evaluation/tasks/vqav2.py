# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""VQAv2 (arXiv 1612.00837): questions about photographs of COCO, answered by ten people each."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..vqa_answers import evalai_answer
from .picture_answers import (
    SHORT_ANSWER,
    accuracy,
    final_answer,
    json_member,
    published_of_visual,
    published_of_world,
    question_about,
    score_of_people,
    write_json,
)
from .task import DataOptions, Sample, Task, require


LAYOUT = (
    "v2_OpenEnded_mscoco_SPLIT_questions.json, for val2014 and train2014 v2_mscoco_SPLIT_annotations.json, and the "
    "pictures in val2014/, train2014/ or test2015/"
)
SPLITS = ("val2014", "train2014", "test-dev2015", "test2015")
_ANSWERED = ("val2014", "train2014")


def read_vqav2(options: DataOptions) -> list[Sample]:
    """Samples of a folder with the official files.

    Raises:
        FileNotFoundError: If one is missing.
    """
    split = VQAV2.split_of(options)
    answers = _answers(options.path, split) if split in _ANSWERED else {}
    subset = split.replace("test-dev", "test")
    folder = options.media_folder or options.path / subset
    require(folder, "vqav2", LAYOUT)
    return [
        Sample(
            str(question["question_id"]),
            question_about(
                folder / f"COCO_{subset}_{question['image_id']:012}.jpg", question["question"], SHORT_ANSWER
            ),
            answers.get(question["question_id"]),
        )
        for question in _questions(options.path, split)
    ]


def write_evalai_answers(records: Sequence[dict], options: DataOptions, folder: Path) -> Path:
    """The file for EvalAI; it wants all questions of test2015, so those not asked get an empty answer."""
    answers = {int(record["id"]): evalai_answer(final_answer(record["prediction"])) for record in records}
    every = options.path / "v2_OpenEnded_mscoco_test2015_questions.json"
    if VQAV2.split_of(options) == "test-dev2015" and every.exists():
        wanted = [question["question_id"] for question in _questions(options.path, "test2015")]
    else:
        wanted = list(answers)
    entries = [{"question_id": number, "answer": answers.get(number, "")} for number in wanted]
    return write_json(folder / "vqav2_evalai.json", entries)


def _questions(folder: Path, split: str) -> list[dict]:
    return json_member(require(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", "vqav2", LAYOUT), "questions")


def _answers(folder: Path, split: str) -> dict[int, list[str]]:
    path = require(folder / f"v2_mscoco_{split}_annotations.json", "vqav2", LAYOUT)
    return {
        entry["question_id"]: [answer["answer"] for answer in entry["answers"]]
        for entry in json_member(path, "annotations")
    }


VQAV2 = Task(
    name="vqav2",
    dataset="VQAv2",
    title="questions about photographs",
    layout=LAYOUT,
    read=read_vqav2,
    metric="accuracy",
    rule="vqa",
    score=score_of_people,
    summarize=accuracy,
    splits=SPLITS,
    submission=write_evalai_answers,
    published=tuple(
        replace(figure, source=f"{figure.source} (test server)")
        for figure in published_of_world((72.04, 76.95, 78.30), (62.04, 72.31, 73.13))
        + published_of_visual(75.22, 77.85, 79.84)
    ),
)

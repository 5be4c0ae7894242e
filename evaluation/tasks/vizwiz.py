# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""VizWiz (arXiv 1802.08218): questions of blind people about pictures that they took."""

from collections.abc import Sequence
from pathlib import Path

from ...data.json_records import read_records
from ..vqa_answers import evalai_answer
from .picture_answers import SHORT_ANSWER, accuracy, final_answer, question_about, score_of_people, write_json
from .task import DataOptions, Sample, Task, records_with, require


LAYOUT = "SPLIT.json, itself or in Annotations/, and the pictures in SPLIT/"
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


def read_vizwiz(options: DataOptions) -> list[Sample]:
    """Samples of a folder with the official files.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If a question is not in the official form.
    """
    split = VIZWIZ.split_of(options)
    places = [options.path / f"{split}.json", options.path / "Annotations" / f"{split}.json"]
    path = require(next((place for place in places if place.exists()), places[0]), "vizwiz", LAYOUT)
    folder = require(options.media_folder or options.path / split, "vizwiz", LAYOUT)
    return [
        Sample(
            entry["image"],
            question_about(folder / entry["image"], entry["question"], UNANSWERABLE, SHORT_ANSWER),
            [answer["answer"] for answer in entry["answers"]] if entry.get("answers") else None,
            {"category": entry.get("answer_type")},
        )
        for _, entry in records_with(read_records(path), "image", "question")
    ]


def write_vizwiz_answers(records: Sequence[dict], options: DataOptions, folder: Path) -> Path:
    """The file for EvalAI."""
    entries = [
        {"image": record["id"], "answer": evalai_answer(final_answer(record["prediction"]))} for record in records
    ]
    return write_json(folder / "vizwiz_evalai.json", entries)


VIZWIZ = Task(
    name="vizwiz",
    dataset="VizWiz",
    title="questions of blind people about their pictures",
    layout=LAYOUT,
    read=read_vizwiz,
    metric="accuracy",
    rule="vqa",
    score=score_of_people,
    summarize=accuracy,
    splits=("val", "test", "train"),
    submission=write_vizwiz_answers,
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Questions about pictures in LLaVA's records with answers, for data of one's own."""

from ...data.json_records import read_records
from ..exact_answers import matches
from .picture_answers import accuracy, final_answer
from .scienceqa import IMAGE_MARK
from .task import DataOptions, Sample, Score, Task, image_block, records_with, require, text_block


LAYOUT = (
    'a .jsonl or .json of records {"image", "text", "answer"} or {"image", "conversations"}, as LLaVA\'s, with '
    '"answers" in place of "answer" where several are right, and optionally "question_id" and "category"; '
    "pictures beside it"
)


def read_picture_questions(options: DataOptions) -> list[Sample]:
    """Samples of a file of records.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a record has no question or no answer.
    """
    path = require(options.path, "vqa", LAYOUT)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; vqa expects {LAYOUT}")
    folder = options.media_folder or path.parent
    samples = []
    for number, (source, record) in enumerate(records_with(read_records(path))):
        question, answers = _question_and_answers(record, source)
        names = record.get("image") or []
        pictures = [image_block(folder / name) for name in ([names] if isinstance(names, str) else names)]
        name = str(record.get("question_id", record.get("id", number)))
        content = (*pictures, text_block(question))
        samples.append(Sample(name, content, answers, {"category": record.get("category")}))
    return samples


def score_any(prediction: str, sample: Sample, rule: str) -> Score:
    """Whether the answer is one of those that are right."""
    return Score(any(matches(final_answer(prediction), answer, rule) for answer in sample.reference))


def _question_and_answers(record: dict, source: str) -> tuple[str, list[str]]:
    if "conversations" in record:
        question, answers = (turn["value"] for turn in record["conversations"][:2])
    else:
        question = record.get("text", record.get("question"))
        answers = record.get("answers", record.get("answer"))
    if not question or not answers:
        raise ValueError(f"{source}: no question or no answer; vqa expects {LAYOUT}")
    return question.replace(IMAGE_MARK, "").strip(), [answers] if isinstance(answers, str) else answers


PICTURE_QUESTIONS = Task(
    name="vqa",
    title="questions about pictures of your own, as LLaVA's records",
    layout=LAYOUT,
    read=read_picture_questions,
    metric="accuracy",
    rule="vqa",
    score=score_any,
    summarize=accuracy,
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""TextVQA (arXiv 1904.08920): questions about what is written in pictures, with LLaVA's prompts if they are there."""

from pathlib import Path

from ...data.json_records import read_records
from .picture_answers import (
    SHORT_ANSWER,
    accuracy,
    json_member,
    published_of_visual,
    published_of_world,
    question_about,
    score_of_people,
)
from .task import DataOptions, Sample, Task, records_with, require


QUESTIONS, OCR_PROMPTS = "TextVQA_0.5.1_val.json", "llava_textvqa_val_v051_ocr.jsonl"
LAYOUT = f"{QUESTIONS}, for prompts with OCR tokens {OCR_PROMPTS} of LLaVA, and the pictures in train_images/"


def read_textvqa(options: DataOptions) -> list[Sample]:
    """Samples of a folder; prompts are LLaVA's, which hold OCR tokens, if its file is there.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If LLaVA's file lacks a question.
    """
    prompts = _ocr_prompts(options.path / OCR_PROMPTS)
    folder = require(options.media_folder or options.path / "train_images", "textvqa", LAYOUT)
    samples = []
    for entry in json_member(require(options.path / QUESTIONS, "textvqa", LAYOUT), "data"):
        prompt = f"{entry['question']}\n{SHORT_ANSWER}"
        if prompts:
            prompt = _prompt_of(entry, prompts)
        content = question_about(folder / f"{entry['image_id']}.jpg", prompt)
        details = {"ocr_tokens": bool(prompts)}
        samples.append(Sample(str(entry["question_id"]), content, entry.get("answers"), details))
    return samples


def _ocr_prompts(path: Path) -> dict[tuple[str, str], str]:
    """LLaVA's prompts by picture and the question in lower case, their first line."""
    if not path.exists():
        return {}
    records = records_with(read_records(path), "question_id", "text")
    return {(str(record["question_id"]), _first_line(record["text"])): record["text"] for _, record in records}


def _prompt_of(entry: dict, prompts: dict[tuple[str, str], str]) -> str:
    key = entry["image_id"], _first_line(entry["question"])
    if key not in prompts:
        raise ValueError(f"{OCR_PROMPTS} lacks the question {entry['question']!r} about {entry['image_id']}")
    return prompts[key]


def _first_line(text: str) -> str:
    return text.split("\n")[0].strip().lower()


TEXTVQA = Task(
    name="textvqa",
    dataset="TextVQA 0.5.1",
    title="questions about what is written in pictures",
    layout=LAYOUT,
    read=read_textvqa,
    metric="accuracy",
    rule="textvqa",
    score=score_of_people,
    summarize=accuracy,
    published=published_of_world((38.75, 44.96, 51.09), (31.72, 40.27, 45.56))
    + published_of_visual(37.90, 41.05, 49.49),
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""MMBench (arXiv 2307.06281): multiple choice about pictures, each question asked with its options in every order."""

import base64
import csv
import string
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...data.text_files import open_text
from .picture_answers import WORLDRWKV, accuracy
from .scienceqa import score_choice
from .task import DataOptions, Published, Sample, Task, image_block, records_with, require, text_block


LAYOUT = "an official .tsv with the columns index, question, A, B, ..., image, and the picture itself in base64"
SELECT = "Please select the correct answer from the options above."
SELECT_IN_CHINESE = "请直接回答选项字母。"
# Rows of one question in other orders have its index plus a multiple of this
ROTATION = 1_000_000
# A shorter entry is no picture, but the index of the row that holds it
_SHORTEST_PICTURE = 64
_CJK = ("\u4e00", "\u9fff")


def read_mmbench(options: DataOptions) -> list[Sample]:
    """Samples of an official file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a row is not in the official form.
    """
    path = require(options.path, "mmbench", LAYOUT)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; mmbench expects {LAYOUT}")
    rows = dict(records_with(_tsv_rows(path), "index", "question", "image"))
    pictures = {row["index"]: row["image"] for row in rows.values()}
    return [_sample(source, row, pictures) for source, row in rows.items()]


def multiple_choice_prompt(question: str, options: dict[str, str], hint: str | None = None) -> str:
    """The prompt of VLMEvalKit, which WorldRWKV is scored with.

    Args:
        question: What is asked.
        options: Texts by letters.
        hint: What the question builds on.
    """
    lines = [f"Hint: {hint}"] if hint else []
    lines += [f"Question: {question}", "Options:", *(f"{letter}. {text}" for letter, text in options.items())]
    is_chinese = any(_CJK[0] <= character <= _CJK[1] for character in "".join(lines))
    return "\n".join([*lines, SELECT_IN_CHINESE if is_chinese else SELECT])


def summarize_mmbench(records: Sequence[dict], rule: str) -> dict[str, float]:
    """`accuracy` of all rows, and `circular_accuracy`, of questions answered right in every order of the options."""
    orders = defaultdict(list)
    for record in records:
        orders[int(record["id"]) % ROTATION].append(record["points"])
    circular = sum(all(points) for points in orders.values()) / len(orders)
    return {"circular_accuracy": circular} | accuracy(records, rule)


def _sample(source: str, row: dict[str, str], pictures: dict[str, str]) -> Sample:
    options = {letter: row[letter] for letter in string.ascii_uppercase if row.get(letter) not in (None, "", "nan")}
    if not options:
        raise ValueError(f"{source}: no options; mmbench expects {LAYOUT}")
    picture = pictures.get(row["image"], "") if len(row["image"]) < _SHORTEST_PICTURE else row["image"]
    hint = row.get("hint") if row.get("hint") != "nan" else None
    prompt = multiple_choice_prompt(row["question"], options, hint)
    try:
        content = image_block(base64.b64decode(picture, validate=True)), text_block(prompt)
    except ValueError as error:
        raise ValueError(f"{source}: the picture is not base64 ({error})") from error
    details = {"options": list(options.values()), "category": row.get("category")}
    return Sample(row["index"], content, row.get("answer") or None, details)


def _tsv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(sys.maxsize)  # pictures are longer than the limit of 128 KiB
    with open_text(path, newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t")
        for row in reader:
            if None in row:
                raise ValueError(f"{path}:{reader.line_num}: more fields than the {len(reader.fieldnames)} columns")
            # A row that ends early lacks the columns that it does not reach
            yield f"{path}:{reader.line_num}", {name: value for name, value in row.items() if value is not None}


MMBENCH = Task(
    name="mmbench",
    dataset="MMBench",
    title="multiple choice about pictures",
    layout=LAYOUT,
    read=read_mmbench,
    metric="accuracy",
    rule="mmbench",
    score=score_choice,
    summarize=summarize_mmbench,
    has_media_files=False,
    published=(Published("WorldRWKV SigLIP2 3B", 66.6, f"{WORLDRWKV}, and arXiv 2505.14505"),),
)

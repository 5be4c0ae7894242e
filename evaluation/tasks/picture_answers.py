# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What benchmarks of questions about pictures share: LLaVA's prompt, files, and what an answer is cut down to."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.text_files import read_text
from ..exact_answers import matches
from ..vqa_answers import vqa_score
from .task import Published, Sample, Score, image_block, ratio, ratios_by, text_block


SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
_REASONED_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

WORLDRWKV = "WorldRWKV, README"
VISUALRWKV = "VisualRWKV v7.00, README"
_SIZES = ("0.4B", "1.5B", "3B")


def final_answer(text: str) -> str:
    """What stands in `<answer>` if the model reasoned, as WorldRWKV's G1 models do; else the text, without spaces."""
    found = _REASONED_ANSWER.search(text)
    return (found[1] if found else text).strip()


def question_about(picture: str | Path | bytes, question: str, *instructions: str) -> tuple[dict, ...]:
    """A picture, then the question, then instructions, a line each."""
    return image_block(picture), text_block("\n".join((question, *instructions)))


def score_of_people(prediction: str, sample: Sample, rule: str) -> Score:
    """By the answers of ten people, see [`vqa_score`]."""
    return Score(vqa_score(final_answer(prediction), sample.reference, rule))


def score_exactly(prediction: str, sample: Sample, rule: str) -> Score:
    """By one answer, see [`matches`]."""
    return Score(matches(final_answer(prediction), sample.reference, rule))


def accuracy(records: Sequence[dict], rule: str) -> dict[str, float]:
    """The share of right answers, of all and by category."""
    return {"accuracy": ratio(records)} | ratios_by(records, "category", "accuracy")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error


def json_member(path: Path, key: str) -> Any:
    """A member of the object that a JSON file holds.

    Raises:
        ValueError: If it has none of that name.
    """
    content = read_json(path)
    if not isinstance(content, dict) or key not in content:
        raise ValueError(f"{path}: expected a JSON object with {key!r}")
    return content[key]


def write_json(path: Path, content: Any) -> Path:
    """Writes a file of answers, and returns it."""
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def published_of_world(siglip2: Sequence[float], clip: Sequence[float] = ()) -> tuple[Published, ...]:
    """WorldRWKV's figures for its models of 0.4, 1.5 and 3 billion parameters."""
    rows = [("SigLIP2", siglip2), ("CLIP-L/336", clip)]
    return tuple(
        Published(f"WorldRWKV {encoder} {size}", value, WORLDRWKV)
        for encoder, values in rows
        for size, value in zip(_SIZES, values, strict=False)
    )


def published_of_visual(*values: float) -> tuple[Published, ...]:
    """VisualRWKV's figures for its models of 0.1, 0.4 and 1.5 billion parameters."""
    sizes = ("0.1B", "0.4B", "1.5B")
    return tuple(
        Published(f"VisualRWKV-7 {size}", value, VISUALRWKV) for size, value in zip(sizes, values, strict=True)
    )

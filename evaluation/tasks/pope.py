# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""POPE (arXiv 2305.10355): whether something is in a picture, asked of what is there and what is not."""

from collections.abc import Sequence

from ...data.json_records import read_lines
from ..yes_no import binary_scores, says_yes
from .picture_answers import SHORT_ANSWER, final_answer, published_of_world, question_about
from .task import DataOptions, Sample, Score, Task, records_with, require


CATEGORIES = ("random", "popular", "adversarial")
LAYOUT = "coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and the pictures in val2014/"
YES, NO = "yes", "no"


def read_pope(options: DataOptions) -> list[Sample]:
    """Samples of a folder with the three official files, which hold a JSON object a line whatever their name says.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If a line is not in the official form.
    """
    folder = require(options.media_folder or options.path / "val2014", "pope", LAYOUT)
    samples = []
    for category in CATEGORIES:
        path = require(options.path / f"coco_pope_{category}.json", "pope", LAYOUT)
        for source, line in records_with(read_lines(path), "question_id", "image", "text", "label"):
            if line["label"] not in (YES, NO):
                raise ValueError(f"{source}: label is {line['label']!r}, expected yes or no")
            content = question_about(folder / line["image"], line["text"], SHORT_ANSWER)
            name = f"{category}-{line['question_id']}"
            samples.append(Sample(name, content, line["label"], {"category": category}))
    return samples


def score_yes_no(prediction: str, sample: Sample, rule: str) -> Score:
    """Whether the answer says what is right."""
    return Score(says_yes(final_answer(prediction)) == (sample.reference == YES))


def summarize_pope(records: Sequence[dict], rule: str) -> dict[str, float]:
    """Scores of every category, and their means, of which `f1` and `accuracy` are what papers call POPE."""
    by_category = {}
    for category in CATEGORIES:
        chosen = [record for record in records if record["category"] == category]
        if chosen:
            said = [says_yes(final_answer(record["prediction"])) for record in chosen]
            by_category[category] = binary_scores(said, [record["reference"] == YES for record in chosen])
    names = next(iter(by_category.values()))
    means = {name: sum(scores[name] for scores in by_category.values()) / len(by_category) for name in names}
    # The categories may differ in size where a run is limited; the main metric is of all questions
    means["accuracy"] = sum(record["points"] for record in records) / len(records)
    return means | {
        f"{name} ({category})": value for category, scores in by_category.items() for name, value in scores.items()
    }


POPE = Task(
    name="pope",
    dataset="POPE",
    title="whether something is in a picture",
    layout=LAYOUT,
    read=read_pope,
    metric="accuracy",
    rule="pope",
    score=score_yes_no,
    summarize=summarize_pope,
    failed=lambda sample: NO if sample.reference == YES else YES,
    # Published as one number; it looks like the mean of F1 or accuracy, the README does not say
    published=published_of_world((86.6, 86.7, 87.1)),
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores Tiny World on held-out voices and pictures, beside chance and a baseline that neither sees nor hears.

    python score.py checkpoint

The rows are made anew from their seeds, the same that `make_data.py` calls `speech_test` and `scenes_test`.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import jiwer
import torch
from conversations import SPEECH_QUESTION, encode
from make_data import TRAIN_FAMILIES, scene_row, scene_tasks, speech_row
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rwkv7_world import RWKVWorldForConditionalGeneration, RWKVWorldProcessor


BASELINE_ROWS = 2000  # training rows that the baseline counts answers in
BATCH_SIZE = 50
MAX_NEW_TOKENS = 20


def held_out_rows(clips: int, pictures: int) -> tuple[list[dict], list[dict]]:
    """The first rows of `speech_test` and `scenes_test` of seed 0."""
    speech = [speech_row((seed, True)) for seed in track(range(clips), "held-out speech", transient=True)]
    scenes = [scene_row(task) for task in track(scene_tasks(range(pictures), True), "held-out scenes", transient=True)]
    return speech, scenes


@torch.inference_mode()
def answer(model, processor, rows: list[dict], title: str) -> list[str]:
    """The model's greedy answer to every row."""
    answers = []
    for start in track(range(0, len(rows), BATCH_SIZE), title, transient=True):
        inputs = encode(processor, rows[start : start + BATCH_SIZE], with_answer=False)
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new_tokens, skip_special_tokens=True)
    return answers


def text_only_baseline(rows: list[dict]) -> dict[str, str]:
    """The commonest answer to every question in the training data: what can be known from the text alone."""
    counts = defaultdict(Counter)
    for row in rows:
        question, answer = (
            (SPEECH_QUESTION, row["text"]) if "text" in row else (row["questions"][0], row["answers"][0])
        )
        counts[question][answer] += 1
    return {question: counter.most_common(1)[0][0] for question, counter in counts.items()}


def score_speech(rows: list[dict], answers: list[str]) -> dict[str, float]:
    """Word error rates in percent: of the model, and of always saying the commonest training phrase."""
    said = [row["text"] for row in rows]
    training = [speech_row((seed, False)) for seed in range(BASELINE_ROWS // 10)]
    constant = text_only_baseline(training)[SPEECH_QUESTION]
    return {
        "clips": len(rows),
        "wer": 100 * jiwer.wer(said, answers),
        "text_only_wer": 100 * jiwer.wer(said, [constant] * len(said)),
    }


def score_scenes(rows: list[dict], answers: list[str]) -> dict[str, dict[str, float]]:
    """Right answers in percent, by question family and for all: of the model, by chance, and from text alone."""
    baseline = text_only_baseline([scene_row(task) for task in _baseline_tasks()])
    families = {}
    for family in sorted({row["family"] for row in rows}):
        chosen = [(row, said) for row, said in zip(rows, answers, strict=True) if row["family"] == family]
        families[family] = {
            "pictures": len(chosen),
            "accuracy": _percent(said == row["answers"][0] for row, said in chosen),
            "text_only": _percent(baseline.get(row["questions"][0]) == row["answers"][0] for row, _ in chosen),
            "chance": 100 / len({row["answers"][0] for row, _ in chosen}),
        }
    total = sum(scores["pictures"] for scores in families.values())
    families["all"] = {"pictures": total} | {
        key: sum(scores[key] * scores["pictures"] for scores in families.values()) / total
        for key in ("accuracy", "text_only", "chance")
    }
    return families


def _baseline_tasks():
    return scene_tasks(range(BASELINE_ROWS), False)[: BASELINE_ROWS // len(TRAIN_FAMILIES) * len(TRAIN_FAMILIES)]


def _percent(outcomes) -> float:
    outcomes = list(outcomes)
    return 100 * sum(outcomes) / len(outcomes)


def show(scores: dict) -> None:
    """Prints the scores as two tables."""
    speech, scenes = scores["speech"], scores["scenes"]
    console = Console()
    table = Table(title=f"Speech: {speech['clips']} clips of voices never heard in training")
    for column in ("", "word error rate"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("Tiny World", f"{speech['wer']:.1f} %")
    table.add_row("text only (commonest phrase)", f"{speech['text_only_wer']:.1f} %")
    console.print(table)
    table = Table(title=f"Pictures: {scenes['all']['pictures']} scenes never seen in training, right answers")
    for column in ("question", "Tiny World", "text only", "chance"):
        table.add_column(column, justify="left" if column == "question" else "right")
    for family, row in scenes.items():
        if family == "all":
            table.add_section()
        table.add_row(family, *(f"{row[key]:.1f} %" for key in ("accuracy", "text_only", "chance")))
    console.print(table)


def score(checkpoint: Path, clips: int = 300, pictures: int = 400) -> dict:
    """Scores of a checkpoint folder, see [`score_speech`] and [`score_scenes`]."""
    model = RWKVWorldForConditionalGeneration.from_pretrained(checkpoint).eval()
    processor = RWKVWorldProcessor.from_pretrained(checkpoint)
    speech, scenes = held_out_rows(clips, pictures)
    return {
        "speech": score_speech(speech, answer(model, processor, speech, "listening")),
        "scenes": score_scenes(scenes, answer(model, processor, scenes, "looking")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Scores Tiny World on held-out data.", epilog="example: python score.py checkpoint --json out.json"
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the trained model")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    options = parser.parse_args()
    if not (options.checkpoint / "config.json").is_file():
        parser.error(f"{options.checkpoint} is no checkpoint folder: it has no config.json")
    scores = score(options.checkpoint)
    show(scores)
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

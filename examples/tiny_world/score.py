# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores Tiny World on held-out voices and pictures by `rwkv7-world evaluate`, beside chance and text alone.

    python score.py checkpoint

The rows are made anew from their seeds, the same that `make_data.py` calls `speech_test` and `scenes_test`.
"""

import argparse
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import soundfile
from conversations import BATCH_SIZE, MAX_NEW_TOKENS, SPEECH_QUESTION
from make_data import TRAIN_FAMILIES, scene_row, scene_tasks, speech_row
from rich.console import Console
from rich.progress import track
from rich.table import Table
from speech import SAMPLE_RATE

from rwkv7_world.cli.main import main as rwkv7_world
from rwkv7_world.evaluation.error_rates import word_error_rate


BASELINE_ROWS = 2000  # training rows that the baseline counts answers in


def held_out_rows(clips: int, pictures: int) -> tuple[list[dict], list[dict]]:
    """The first rows of `speech_test` and `scenes_test` of seed 0."""
    speech = [speech_row((seed, True)) for seed in track(range(clips), "held-out speech", transient=True)]
    scenes = [scene_row(task) for task in track(scene_tasks(range(pictures), True), "held-out scenes", transient=True)]
    return speech, scenes


def write_questions(folder: Path, speech: list[dict], scenes: list[dict]) -> tuple[Path, Path]:
    """Clips and pictures as files, each kind with the list of its questions that `rwkv7-world evaluate` reads."""
    listed = []
    for number, row in enumerate(speech):
        samples = np.frombuffer(row["audio"], "<i2")
        soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
        listed.append({"audio": f"{number}.wav", "text": row["text"]})
    clips = write_lines(folder / "speech.jsonl", listed)
    listed = []
    for number, row in enumerate(scenes):
        (folder / f"{number}.png").write_bytes(row["image"])
        question, answer = row["questions"][0], row["answers"][0]
        listed.append({"image": f"{number}.png", "text": question, "answer": answer, "category": row["family"]})
    return clips, write_lines(folder / "scenes.jsonl", listed)


def write_lines(path: Path, records: list[dict]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def evaluate(checkpoint: Path, task: str, data: Path, *options: str) -> dict:
    """What `rwkv7-world evaluate` finds, after it printed it."""
    output = data.with_suffix("")
    command = ["evaluate", str(checkpoint), task, "--data", str(data), "--output", str(output), *options]
    command += ["--batch-size", str(BATCH_SIZE), "--max-new-tokens", str(MAX_NEW_TOKENS)]
    if rwkv7_world(command):
        raise SystemExit(f"rwkv7-world {' '.join(command)} failed")
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def text_only_baseline(rows: list[dict]) -> dict[str, str]:
    """The commonest answer to every question in the training data: what can be known from the text alone."""
    counts = defaultdict(Counter)
    for row in rows:
        question, answer = (
            (SPEECH_QUESTION, row["text"]) if "text" in row else (row["questions"][0], row["answers"][0])
        )
        counts[question][answer] += 1
    return {question: counter.most_common(1)[0][0] for question, counter in counts.items()}


def beside_speech_baseline(results: dict, rows: list[dict]) -> dict:
    """Word error rates in percent: of the model, and of always saying the commonest training phrase."""
    training = [speech_row((seed, False)) for seed in range(BASELINE_ROWS // 10)]
    constant = text_only_baseline(training)[SPEECH_QUESTION]
    said = [row["text"] for row in rows]
    return {
        "clips": len(rows),
        "wer": results["value"],
        "interval": results["interval"],
        "text_only_wer": 100 * word_error_rate([constant] * len(said), said)["wer"],
    }


def beside_scenes_baselines(results: dict, rows: list[dict]) -> dict[str, dict]:
    """Right answers in percent, by question family and for all: of the model, by chance, and from text alone."""
    baseline = text_only_baseline([scene_row(task) for task in _baseline_tasks()])
    families = {}
    for family in sorted({row["family"] for row in rows}):
        chosen = [row for row in rows if row["family"] == family]
        families[family] = {
            "pictures": len(chosen),
            "accuracy": results["metrics"][f"accuracy ({family})"],
            "text_only": _percent(baseline.get(row["questions"][0]) == row["answers"][0] for row in chosen),
            "chance": 100 / len({row["answers"][0] for row in chosen}),
        }
    families["all"] = {"pictures": len(rows), "accuracy": results["value"], "interval": results["interval"]} | {
        key: sum(scores[key] * scores["pictures"] for scores in families.values()) / len(rows)
        for key in ("text_only", "chance")
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


def score(
    checkpoint: Path, clips: int = 300, pictures: int = 400, keep: Path | None = None, results: Path | None = None
) -> dict:
    """Scores of a checkpoint folder, see [`beside_speech_baseline`] and [`beside_scenes_baselines`].

    Args:
        checkpoint: The folder.
        clips, pictures: How many are asked.
        keep: Where the questions and what `rwkv7-world evaluate` writes are kept.
        results: Where its results alone are kept too, as `results_speech.json` and `results_scenes.json`.
    """
    speech, scenes = held_out_rows(clips, pictures)
    with nullcontext(keep) if keep else tempfile.TemporaryDirectory() as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        speech_questions, scene_questions = write_questions(Path(folder), speech, scenes)
        heard = evaluate(checkpoint, "asr", speech_questions, "--prompt", SPEECH_QUESTION, "--rule", "none")
        seen = evaluate(checkpoint, "vqa", scene_questions, "--rule", "strict")
        if results:
            for questions in (speech_questions, scene_questions):
                shutil.copyfile(questions.with_suffix("") / "results.json", results / f"results_{questions.stem}.json")
    return {"speech": beside_speech_baseline(heard, speech), "scenes": beside_scenes_baselines(seen, scenes)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Scores Tiny World on held-out data.", epilog="example: python score.py checkpoint --json out.json"
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the trained model")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the questions, answers and results here")
    parser.add_argument("--results", metavar="DIR", type=Path, help="keep the two files of results here, for the card")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    options = parser.parse_args()
    if not (options.checkpoint / "config.json").is_file():
        parser.error(f"{options.checkpoint} is no checkpoint folder: it has no config.json")
    scores = score(options.checkpoint, keep=options.keep, results=options.results)
    show(scores)
    if options.json:
        options.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The shipped Tiny World checkpoint sees and hears what training never showed, and keeps to its limits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv7_world.cli.main import main


TINY_WORLD = Path(__file__).resolve().parents[2] / "examples" / "tiny_world"
CHECKPOINT, SAMPLES = TINY_WORLD / "checkpoint", TINY_WORLD / "samples"
MAX_CHECKPOINT_BYTES = 20 * 1000**2


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """What `score.py` prints, on fewer rows; run as a user would, beside its sibling modules."""
    code = (
        "import json, sys; from pathlib import Path; from score import score;"
        "print(json.dumps(score(Path('checkpoint'), clips=100, pictures=120)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=TINY_WORLD, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_held_out_word_error_rate_is_low(scores):
    assert scores["speech"]["wer"] <= 10
    assert scores["speech"]["text_only_wer"] > 50


def test_held_out_pictures_are_answered(scores):
    assert scores["scenes"]["all"]["accuracy"] >= 90
    assert scores["scenes"]["all"]["text_only"] < 60


def test_published_scores_are_those_of_the_goal():
    published = json.loads((TINY_WORLD / "scores.json").read_text(encoding="utf-8"))
    assert published["speech"]["wer"] <= 10
    assert published["scenes"]["all"]["accuracy"] >= 90


def test_checkpoint_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < MAX_CHECKPOINT_BYTES


@pytest.mark.parametrize("sample", json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")), ids=str)
def test_command_answers_the_shipped_samples(sample, capsys):
    medium = "image" if "image" in sample else "audio"
    status = main(["generate", str(CHECKPOINT), sample["question"], f"--{medium}", str(SAMPLES / sample[medium])])
    assert status == 0
    assert capsys.readouterr().out.strip() == sample["answer"]


def test_command_without_streaming_prints_the_same(capsys):
    arguments = ["generate", str(CHECKPOINT), "what word is written?", "--image", str(SAMPLES / "word.png")]
    assert main(arguments) == 0
    streamed = capsys.readouterr().out
    assert main([*arguments, "--no-stream", "--backend", "reference"]) == 0
    assert capsys.readouterr().out == streamed

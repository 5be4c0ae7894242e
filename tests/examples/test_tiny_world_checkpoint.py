# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The shipped Tiny World checkpoint sees and hears: better than text alone on what training never showed.

What the example aims at (10 % word errors, 90 % right answers) is further than the shipped checkpoint has come; see
`examples/tiny_world/scores.json` for what it reaches.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rwkv7_world.cli.main import main


TINY_WORLD = Path(__file__).resolve().parents[2] / "examples" / "tiny_world"
CHECKPOINT, SAMPLES = TINY_WORLD / "checkpoint", TINY_WORLD / "samples"
MAX_CHECKPOINT_BYTES = 20 * 1000**2
SAMPLING_MARGIN = 12  # percentage points between a third of the held-out rows and all of them


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """What `score.py` prints, on fewer rows; run as a user would, beside its sibling modules."""
    code = (
        "import json, sys; from pathlib import Path; from score import score;"
        "print(json.dumps(score(Path('checkpoint'), clips=100, pictures=120)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=TINY_WORLD, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_it_hears_voices_that_training_never_used(scores):
    assert scores["speech"]["wer"] < scores["speech"]["text_only_wer"] / 2


def test_it_sees_what_is_in_pictures_that_training_never_showed(scores):
    assert scores["scenes"]["all"]["accuracy"] > scores["scenes"]["all"]["text_only"] + 10


def test_published_scores_are_what_the_checkpoint_reaches(scores):
    published = json.loads((TINY_WORLD / "scores.json").read_text(encoding="utf-8"))
    assert scores["speech"]["wer"] == pytest.approx(published["speech"]["wer"], abs=SAMPLING_MARGIN)
    assert scores["scenes"]["all"]["accuracy"] == pytest.approx(
        published["scenes"]["all"]["accuracy"], abs=SAMPLING_MARGIN
    )


def test_checkpoint_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < MAX_CHECKPOINT_BYTES


@pytest.mark.parametrize("sample", json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")), ids=str)
def test_command_answers_the_shipped_samples_in_words_of_the_vocabulary(sample, capsys):
    medium = "image" if "image" in sample else "audio"
    status = main(["generate", str(CHECKPOINT), sample["question"], f"--{medium}", str(SAMPLES / sample[medium])])
    assert status == 0
    assert capsys.readouterr().out.strip().replace(" ", "").isalpha()


def test_command_without_streaming_prints_the_same(capsys):
    arguments = ["generate", str(CHECKPOINT), "what word is written?", "--image", str(SAMPLES / "word.png")]
    assert main(arguments) == 0
    streamed = capsys.readouterr().out
    assert main([*arguments, "--no-stream", "--backend", "reference"]) == 0
    assert capsys.readouterr().out == streamed

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the pictures and clips that `demo.py` shows, all from held-out data, with their questions and answers.

python make_samples.py samples
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from conversations import SPEECH_QUESTION
from make_data import scene_row, speech_row
from scenes import FAMILIES
from speech import SAMPLE_RATE


FIRST_SEED = 1_000_000  # far from the scored rows
CLIPS = 3


def write_samples(folder: Path) -> None:
    """One picture for every question family and a few clips, listed in `samples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for offset, family in enumerate(FAMILIES):
        row = scene_row((FIRST_SEED + offset, True, family))
        (folder / f"{family}.png").write_bytes(row["image"])
        samples.append({"image": f"{family}.png", "question": row["questions"][0], "answer": row["answers"][0]})
    for offset in range(CLIPS):
        row = speech_row((FIRST_SEED + offset, True))
        name = f"clip{offset + 1}.wav"
        soundfile.write(folder / name, np.frombuffer(row["audio"], "<i2"), SAMPLE_RATE, subtype="PCM_16")
        samples.append({"audio": name, "question": SPEECH_QUESTION, "answer": row["text"], "voice": row["voice"]})
    (folder / "samples.json").write_text(json.dumps(samples, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    write_samples(parser.parse_args().folder)

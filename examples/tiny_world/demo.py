# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What `make demo` runs: the command on the shipped model, pictures and clips, then the held-out scores."""

import json
import shlex
from pathlib import Path

from score import score, show

from rwkv7_world.cli.main import main as rwkv7_world


HERE = Path(__file__).resolve().parent
CHECKPOINT, SAMPLES = HERE / "checkpoint", HERE / "samples"


def ask(sample: dict) -> None:
    """Runs `rwkv7-world generate` on one sample, and prints the command before what the command prints."""
    medium = "image" if "image" in sample else "audio"
    command = ["generate", str(CHECKPOINT), sample["question"], f"--{medium}", str(SAMPLES / sample[medium])]
    shown = [part.replace(f"{Path.cwd()}/", "") for part in command]
    print(f"\n$ rwkv7-world {shlex.join(shown)}", flush=True)
    status = rwkv7_world(command)
    if status:
        raise SystemExit(status)
    print(f"  (expected: {sample['answer']})", flush=True)


if __name__ == "__main__":
    for entry in json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")):
        ask(entry)
    print()
    show(score(CHECKPOINT))

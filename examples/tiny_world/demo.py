# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What `make demo` runs: the command on the shipped model, images and clips, then the held-out scores.

Arguments are a question of one's own and options of `generate`, asked in place of all that:
`make demo ARGS="'is there a ring?' --image photo.png"`.
"""

import json
import shlex
import sys
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


def how_to_call() -> str:
    """How to run the command that `make demo` installed, which is not on the path."""
    command = Path(sys.executable).with_name("rwkv7-world")
    place = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    return f"The command is {place} here; after `. {place.with_name('activate')}` it is rwkv7-world."


if __name__ == "__main__":
    if arguments := sys.argv[1:]:
        sys.exit(rwkv7_world(["generate", str(CHECKPOINT), *arguments]))
    for entry in json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8")):
        ask(entry)
    print()
    show(score(CHECKPOINT))
    print(f"\n{how_to_call()}")

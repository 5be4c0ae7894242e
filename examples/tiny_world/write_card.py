# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes the model card of Tiny World, as `rwkv7-world upload` would, from the results beside its weights.

python write_card.py checkpoint

Its name on the Hub stands for one that you choose; an upload writes the card anew with that.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from rwkv7_world import RWKVWorldForConditionalGeneration, RWKVWorldProcessor
from rwkv7_world.publishing.model_card import Description
from rwkv7_world.publishing.upload import RESULT_FILES, packed


REPO, LICENSE = "me/tiny-world", "apache-2.0"


def write_card(checkpoint: Path) -> str:
    """The card of a checkpoint folder, whose lines of code were run."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "tiny-world")
        for kind in (RWKVWorldForConditionalGeneration, RWKVWorldProcessor):
            kind.from_pretrained(checkpoint).save_pretrained(folder)
        for file in checkpoint.glob(RESULT_FILES):
            shutil.copy(file, folder)
        with packed(folder, Description(REPO, LICENSE)) as parcel:
            return parcel.card


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes the model card of Tiny World.", epilog="example: python write_card.py checkpoint"
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the model and of its results_*.json")
    parser.add_argument("--output", type=Path, help="default: README.md in that folder")
    options = parser.parse_args()
    if not (options.checkpoint / "config.json").is_file():
        parser.error(f"{options.checkpoint} is no checkpoint folder: it has no config.json")
    output = options.output or options.checkpoint / "README.md"
    output.write_text(write_card(options.checkpoint), encoding="utf-8")


if __name__ == "__main__":
    main()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""State tuning: Tiny World, which names a color or a shape in one word, learns to name both, and no weight changes.

    python state_tuning.py checkpoint adapter

Only the state that every conversation starts from is trained, 12,288 numbers. `adapter` gets it, in PEFT's format.
"""

import argparse
import json
import re
from pathlib import Path

import torch
from conversations import answer, encode
from make_data import scene_row
from peft import PeftModel
from rich.progress import track

from rwkv7_world import RWKVWorldForConditionalGeneration, RWKVWorldProcessor
from rwkv7_world.adapters import attach_adapter


FAMILIES = ("color", "shape")  # what is asked
BATCH_SIZE, LEARNING_RATE, FINAL_RATE = 32, 0.3, 0.01
FIRST_SEED = 2_000_000  # far from the rows of `make_data.py`
IGNORED = -100


def phrase_row(seed: int, held_out: bool) -> dict:
    """A picture and one question about a thing in it, to be answered as "red circle"."""
    row = scene_row((FIRST_SEED + seed, held_out, FAMILIES[seed % len(FAMILIES)]))
    question, word = row["questions"][0], row["answers"][0]
    thing = re.fullmatch(r"what (?:color|shape) is the (\w+).*", question)[1]
    phrase = f"{word} {thing}" if row["family"] == "color" else f"{thing} {word}"
    return {**row, "questions": [question], "answers": [phrase], "phrase": phrase, "word": word}


def train(model: PeftModel, processor: RWKVWorldProcessor, steps: int) -> None:
    """Adam on new pictures in every step, with a falling rate."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, FINAL_RATE / LEARNING_RATE, total_iters=steps)
    for step in track(range(steps), "training"):
        rows = [phrase_row(seed, held_out=False) for seed in range(step * BATCH_SIZE, (step + 1) * BATCH_SIZE)]
        batch = encode(processor, rows, with_answer=True, return_assistant_tokens_mask=True)
        learned = torch.as_tensor(batch.pop("assistant_masks")).bool()
        labels = batch["input_ids"].masked_fill(~learned, IGNORED)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def score(model: torch.nn.Module, processor: RWKVWorldProcessor, pictures: int) -> dict[str, float]:
    """Held-out pictures, in percent, answered by the right color and shape, and by the one word that was asked for."""
    rows = [phrase_row(seed, held_out=True) for seed in range(pictures)]
    answers = answer(model, processor, rows, "looking")
    return {
        key: 100 * sum(said == row[key] for row, said in zip(rows, answers, strict=True)) / pictures
        for key in ("phrase", "word")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Teaches Tiny World to name color and shape by state tuning.",
        epilog="example: python state_tuning.py checkpoint /tmp/phrases",
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the model, left as it is")
    parser.add_argument("adapter", type=Path, help="folder for the learned state")
    parser.add_argument("--steps", type=int, default=150, help="of 32 pictures, default 150")
    parser.add_argument("--pictures", type=int, default=400, help="that are scored, default 400")
    options = parser.parse_args()

    model = RWKVWorldForConditionalGeneration.from_pretrained(options.checkpoint).eval()
    processor = RWKVWorldProcessor.from_pretrained(options.checkpoint)
    before = score(model, processor, options.pictures)
    model = attach_adapter(model, {"method": "state"})
    train(model, processor, options.steps)
    after = score(model, processor, options.pictures)
    model.save_pretrained(options.adapter)
    print(json.dumps({"before": before, "after": after}))


if __name__ == "__main__":
    main()

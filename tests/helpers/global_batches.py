# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Short runs with the same global batch on any number of processes: their data, settings and results."""

import json
import shutil
from pathlib import Path

import soundfile
import torch
from safetensors.torch import load_file

from helpers import composites
from helpers.text_models import tiny_model
from helpers.training import save_composite, weights, write_recipe


STEPS, RESUMED_AT, BATCH, ROWS = 4, 2, 4, 14
# Adam would turn rounding errors of the smallest gradients into steps as long as any
TRAINER = {"adam_epsilon": 1e-2, "learning_rate": 3e-2, "l2wrap": 1e-3}
TRAINER |= {"max_steps": STEPS, "save_steps": RESUMED_AT, "logging_steps": 1}
TRAINER |= {"eval_strategy": "steps", "eval_steps": STEPS, "train_sampling_strategy": "group_by_length"}
ADAPTER = {"method": "lora", "r": 4, "state": True}


def write_chat(path: Path) -> str:
    """Conversations of various lengths, of which some cannot be learned from; the last batch is not whole."""
    words = (
        "red",
        "the red circle",
        "what the red circle",
        "the",
        "circle is red",
        "",
        "what is the red circle",
        "is",
    )
    answers = (words * 2)[:ROWS]
    rows = [[{"role": "user", "content": "what"}, {"role": "assistant", "content": answer}] for answer in answers]
    path.write_text("".join(json.dumps({"messages": row, "id": index}) + "\n" for index, row in enumerate(rows)))
    return str(path)


def write_media(folder: Path) -> str:
    """Conversations of which, on two processes, one has all those with pictures and the other those with clips.

    Clips come only after the checkpoint, one row is bad.
    """
    folder.mkdir()
    composites.random_image().save(folder / "picture.png")
    soundfile.write(folder / "clip.wav", composites.random_clip(samples=9000), composites.SAMPLING_RATE)
    rows = []
    for index, answer in enumerate(("red", "the red circle", "circle", "what is") * 4):
        content = [{"type": "text", "text": "what"}]
        if index % BATCH < BATCH // 2:
            content.append({"type": "image", "path": str(folder / "picture.png")})
        elif index % BATCH == BATCH - 1 and index >= RESUMED_AT * BATCH:
            content.append({"type": "audio", "path": str(folder / "clip.wav")})
        said = "" if index == BATCH + 1 else answer
        rows.append([{"role": "user", "content": content}, {"role": "assistant", "content": said}])
    path = folder / "media.jsonl"
    lines = [json.dumps({"messages": row, "id": index}) + "\n" for index, row in enumerate(rows[:ROWS])]
    path.write_text("".join(lines))
    return str(path)


def prepare(folder: Path) -> Path:
    """Models and data, below the folder: model, composite, chat.jsonl, media/media.jsonl."""
    tokenizer = composites.tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_chat(folder / "chat.jsonl")
    save_composite(folder / "composite", "siglip", "whisper")
    write_media(folder / "media")
    return folder


def make_recipe(folder: Path, name: str, trainer: dict, adapter: dict | None = None, has_media: bool = False) -> str:
    """A recipe for what is below the folder, to train and evaluate on rows with media or of text alone."""
    data = str(folder / ("media/media.jsonl" if has_media else "chat.jsonl"))
    recipe = write_recipe(
        folder / f"{name}.yaml",
        {**TRAINER, **trainer, "per_device_train_batch_size": BATCH},
        output_dir=str(folder / name),
        model=str(folder / ("composite" if has_media else "model")),
        data=[data],
        eval_data=[{"path": data, "split": f"[:{BATCH}]"}],
        generation={"rows": 3, "max_new_tokens": 4, "batch_size": 2},
        adapter=adapter,
    )
    return str(recipe)


def job(recipe: str, out: Path, resume: bool = False, processes: int = 1) -> dict:
    sizes = [f"trainer.per_device_{kind}_batch_size={BATCH // processes}" for kind in ("train", "eval")]
    return {"path": recipe, "assignments": [f"output_dir={out}", *sizes], "resume": resume}


def begin_from(source: Path, out: Path) -> Path:
    """A folder in which a run has got no further than to a checkpoint of another."""
    shutil.copytree(source / f"checkpoint-{RESUMED_AT}", out / f"checkpoint-{RESUMED_AT}")
    return out


def logged(out: Path, key: str) -> list[float]:
    history = json.loads((out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in history if key in entry]


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = (load(folder) for folder in (first, second))
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def load(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter) if adapter.is_file() else weights(folder)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Short runs with the same global batch on any number of processes: their data, settings and results."""

import json
import shutil
from pathlib import Path

import datasets
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
# Of data with media
MODELS = {"media/media.jsonl": "composite", "media/pictures.jsonl": "eyes", "media/clips.jsonl": "ears"}
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


def write_media(folder: Path) -> None:
    """Conversations with media, of which one is bad.

    In media.jsonl one of two processes has all those with pictures and the other those with clips, which come only
    after the checkpoint; in pictures.jsonl all have pictures, in clips.jsonl all have clips.
    """
    folder.mkdir()
    composites.random_image().save(folder / "picture.png")
    soundfile.write(folder / "clip.wav", composites.random_clip(samples=9000), composites.SAMPLING_RATE)
    picture, clip = ({"type": "image", "path": "picture.png"}, {"type": "audio", "path": "clip.wav"})
    picture, clip = ({**block, "path": str(folder / block["path"])} for block in (picture, clip))
    mixed, pictures, clips = [], [], []
    for index, answer in enumerate((("red", "the red circle", "circle", "what is") * 4)[:ROWS]):
        media = [picture] if index % BATCH < BATCH // 2 else []
        if index % BATCH == BATCH - 1 and index >= RESUMED_AT * BATCH:
            media = [clip]
        said = "" if index == BATCH + 1 else answer
        mixed.append(_with_media(media, said, index))
        pictures.append(_with_media([picture], said, index))
        clips.append(_with_media([clip], said, index))
    (folder / "media.jsonl").write_text("".join(mixed))
    (folder / "pictures.jsonl").write_text("".join(pictures))
    (folder / "clips.jsonl").write_text("".join(clips))


def _with_media(media: list[dict], answer: str, index: int) -> str:
    content = [{"type": "text", "text": "what"}, *media]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, "id": index}) + "\n"


def write_texts(folder: Path) -> None:
    """A stored set of texts, one of them empty."""
    texts = ["the red circle " * (index % BATCH + 1) + str(index) for index in range(ROWS)]
    texts[BATCH + 1] = ""
    folder.mkdir()
    datasets.Dataset.from_dict({"text": texts}).to_parquet(folder / "texts.parquet")


def prepare(folder: Path) -> Path:
    """Models and data, below the folder.

    model, composite, eyes, ears, chat.jsonl, texts, media/{media,pictures,clips}.jsonl
    """
    tokenizer = composites.tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_chat(folder / "chat.jsonl")
    save_composite(folder / "composite", "siglip", "whisper")
    save_composite(folder / "eyes", "siglip")
    save_composite(folder / "ears", None, "whisper")
    write_media(folder / "media")
    write_texts(folder / "texts")
    return folder


def make_recipe(folder: Path, name: str, trainer: dict, adapter: dict | None = None, data: str = "chat.jsonl") -> str:
    """A recipe for what is below the folder, to train and to evaluate on some of the same rows.

    The last batch of the evaluation is not whole; on two processes one has nothing in it.

    Args:
        folder: That of [`prepare`].
        name: Of the recipe.
        trainer: Its arguments.
        adapter: Its adapter.
        data: Below the folder; texts are streamed.
    """
    is_streamed = data == "texts"
    source = {"path": str(folder / data), "options": {"streaming": True} if is_streamed else {}}
    recipe = write_recipe(
        folder / f"{name}.yaml",
        {**TRAINER, **trainer, "per_device_train_batch_size": BATCH},
        output_dir=str(folder / name),
        model=str(folder / MODELS.get(data, "model")),
        data=[source],
        eval_data=[{**source, "split": f"[:{BATCH + 1}]"}],
        generation=None if is_streamed else {"rows": 3, "max_new_tokens": 4, "batch_size": 1},
        adapter=adapter,
    )
    return str(recipe)


def job(recipe: str, out: Path, resume: bool = False, processes: int = 1, micro_batch: int | None = None) -> dict:
    """A run of a recipe, with micro-batches as large as make one a step where their size is not given."""
    size = micro_batch or BATCH // processes
    sizes = [f"trainer.per_device_{kind}_batch_size={size}" for kind in ("train", "eval")]
    if micro_batch is not None:
        sizes.append(f"trainer.gradient_accumulation_steps={BATCH // processes // micro_batch}")
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

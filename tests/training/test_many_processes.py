# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One global batch on one process and on two: the same losses, checkpoints that each loads of the other."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from helpers import composites
from helpers.many_processes import launch
from helpers.text_models import tiny_model
from helpers.training import save_composite, weights, write_recipe
from rwkv7_world.training.run import run_recipe


STEPS, RESUMED_AT, BATCH = 4, 2, 4
# Adam would turn rounding errors of the smallest gradients into steps as long as any
TRAINER = {"adam_epsilon": 1e-2, "learning_rate": 3e-2, "l2wrap": 1e-3}
TRAINER |= {"max_steps": STEPS, "save_steps": RESUMED_AT, "logging_steps": 1}
TRAINER |= {"eval_strategy": "steps", "eval_steps": STEPS, "train_sampling_strategy": "group_by_length"}
VARIANTS = {
    "plain": {},
    "chunks": {"chunk_length": 6, "detach_state": False, "gradient_accumulation_steps": 2},
    "adapter": {"chunk_length": 6, "detach_state": False},
    "truncated": {"chunk_length": 6},
    "mixed": {"train_sampling_strategy": "sequential"},
    "mixed chunks": {"train_sampling_strategy": "sequential", "chunk_length": 7, "detach_state": False},
}
WITH_ADAPTER, WITH_MEDIA = ("adapter", "truncated"), ("mixed", "mixed chunks")
ADAPTER = {"method": "lora", "r": 4, "state": True}


def write_chat(path: Path) -> str:
    """Conversations of various lengths, of which some cannot be learned from.

    Whole batches: accelerate fills an incomplete last one with rows from the beginning if there are several processes.
    """
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
    answers = words * 3
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
    for index, answer in enumerate(("red", "the red circle", "circle", "what is") * 6):
        content = [{"type": "text", "text": "what"}]
        if index % BATCH < BATCH // 2:
            content.append({"type": "image", "path": str(folder / "picture.png")})
        elif index % BATCH == BATCH - 1 and index >= RESUMED_AT * BATCH:
            content.append({"type": "audio", "path": str(folder / "clip.wav")})
        said = "" if index == BATCH + 1 else answer
        rows.append([{"role": "user", "content": content}, {"role": "assistant", "content": said}])
    path = folder / "media.jsonl"
    path.write_text("".join(json.dumps({"messages": row, "id": index}) + "\n" for index, row in enumerate(rows)))
    return str(path)


def make_recipe(folder: Path, variant: str) -> str:
    content = {"adapter": ADAPTER} if variant in WITH_ADAPTER else {}
    seen = variant in WITH_MEDIA
    data = str(folder / ("media/media.jsonl" if seen else "chat.jsonl"))
    recipe = write_recipe(
        folder / f"{variant}.yaml",
        {**TRAINER, **VARIANTS[variant], "per_device_train_batch_size": BATCH},
        output_dir=str(folder / variant),
        model=str(folder / ("composite" if seen else "model")),
        data=[data],
        eval_data=[{"path": data, "split": f"[:{BATCH}]"}],
        generation={"rows": 3, "max_new_tokens": 4, "batch_size": 2},
        **content,
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
    from safetensors.torch import load_file

    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter) if adapter.is_file() else weights(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each variant run on one process."""
    folder = tmp_path_factory.mktemp("processes")
    tokenizer = composites.tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_chat(folder / "chat.jsonl")
    save_composite(folder / "composite", "siglip", "whisper")
    write_media(folder / "media")
    for variant in VARIANTS:
        run_recipe(**job(make_recipe(folder, variant), folder / "one" / variant))
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, folder) -> Path:
    """Each variant run on two processes, and gone on with on two from a checkpoint of one."""
    out, jobs = folder / request.param, []
    for variant in VARIANTS:
        recipe = str(folder / f"{variant}.yaml")
        jobs.append(job(recipe, out / variant, processes=2))
        resumed = begin_from(folder / "one" / variant, out / f"{variant}-of-one")
        jobs.append(job(recipe, resumed, resume=True, processes=2))
    launch(request.param, jobs)
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_evaluation_are_those_of_one_process(folder, two, variant):
    one = folder / "one" / variant
    for key in ("loss", "eval_loss", "eval_exact_match"):
        values = logged(one, key)
        assert values
        assert logged(two / variant, key) == pytest.approx(values, rel=1e-3), key
    # A process may already have met a bad row of the next step when it counts
    assert logged(two / variant, "skipped_rows")[-1] == logged(one, "skipped_rows")[-1] > 0
    said, expected = ((out / "predictions" / f"eval-step-{STEPS}.jsonl").read_text() for out in (two / variant, one))
    assert sorted(said.splitlines()) == sorted(expected.splitlines())
    assert_same_weights(one, two / variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_go_on_from_a_checkpoint_of_one(folder, two, variant):
    assert_same_weights(folder / "one" / variant, two / f"{variant}-of-one")


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_process_goes_on_from_a_checkpoint_of_two(folder, two, variant, tmp_path):
    resumed = begin_from(two / variant, tmp_path / variant)
    run_recipe(**job(str(folder / f"{variant}.yaml"), resumed, resume=True))
    assert_same_weights(folder / "one" / variant, resumed)

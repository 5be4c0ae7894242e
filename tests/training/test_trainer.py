# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs at toy size: what changes and what does not, resuming, checkpoints that are whole, evaluation."""

import io
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from transformers import AutoModelForMultimodalLM, AutoProcessor, Trainer, TrainerCallback, TrainingArguments

from helpers import composites
from helpers.text_models import tiny_model
from helpers.training import (
    COLORS,
    PACKAGE_PARENT,
    QUIET_TRAINER,
    differing,
    save_composite,
    save_text_model,
    start_command,
    weights,
    write_llava,
    write_recipe,
    write_text,
)
from rwkv7_world.data.formats import read_data
from rwkv7_world.training.checkpoint.checkpoints import PARTIAL_FOLDER, last_checkpoint, publish
from rwkv7_world.training.recipe.arguments import RWKVTrainingArguments
from rwkv7_world.training.recipe.recipe import find_recipe
from rwkv7_world.training.run import run_recipe
from rwkv7_world.training.trainer.collator import ConversationCollator
from rwkv7_world.training.trainer.trainer import RWKVTrainer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def composite(tmp_path_factory) -> Path:
    return save_composite(tmp_path_factory.mktemp("models") / "composite")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_llava(tmp_path_factory.mktemp("pictures"))


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def picture_recipe(tmp_path: Path, composite: Path, pictures: Path, trainer: dict | None = None, **content) -> Path:
    defaults = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    content = {"output_dir": str(tmp_path / "out"), "model": str(composite), "data": [str(pictures)], **content}
    return write_recipe(tmp_path / "recipe.yaml", {**defaults, **(trainer or {})}, **content)


def test_both_stages_of_worldrwkv_lower_the_loss_and_leave_frozen_parts_bit_for_bit(tmp_path, pictures):
    """The shipped recipes at toy size, the second from what the first saved."""
    start = tmp_path / "start"
    composites.tiny_composite("siglip").save_pretrained(start)
    composites.tiny_processor("siglip").save_pretrained(start)
    data = (f"data=[{{path: {pictures}, format: llava}}]", "eval_share=null", "generation=")
    trainer = {**QUIET_TRAINER, "bf16": False, "dataloader_num_workers": 0, "max_steps": 30, "warmup_steps": 2}
    trainer |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "eval_strategy": "no"}
    trainer |= {"logging_steps": 1, "learning_rate": 1e-2}
    settings = tuple(f"trainer.{key}={json.dumps(value)}" for key, value in trainer.items())
    stages = {
        "worldrwkv_stage1": (0.96, ("model.vision_projector",)),
        "worldrwkv_stage2": (0.6, ("model.vision_projector", "model.language_model", "lm_head")),
    }
    for stage, (fall, trained) in stages.items():
        out = tmp_path / stage
        run = run_recipe(find_recipe(stage), (*data, *settings, f"model={start}", f"output_dir={out}"))
        values = losses(run)
        assert sum(values[-3:]) < fall * sum(values[:3]), values
        changed = differing(weights(start), weights(out))
        assert {part for part in trained for name in changed if name.startswith(part)} == set(trained)
        assert all(name.startswith(trained) for name in changed)
        start = out


def test_text_is_pretrained_from_nothing(tmp_path):
    model = composites.tiny_config().text_config.to_dict()
    sizes = {key: model[key] for key in ("model_type", "hidden_size", "num_hidden_layers", "head_dim")}
    data = write_text(tmp_path / "corpus.txt", rows=60)
    trainer = {**QUIET_TRAINER, "bf16": False, "dataloader_num_workers": 0, "max_steps": 20, "logging_steps": 1}
    trainer |= {"eval_strategy": "steps", "eval_steps": 10, "learning_rate": 1e-2, "gradient_accumulation_steps": 1}
    settings = (
        *(f"trainer.{key}={json.dumps(value)}" for key, value in trainer.items()),
        f"data.0.path={data}",
        "eval_share=0.2",
        f"model.config={json.dumps({**sizes, 'vocab_size': 65536})}",
        f"output_dir={tmp_path / 'out'}",
        "samples.max_length=64",
    )
    run = run_recipe(find_recipe("pretrain_text"), settings)
    evaluated = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert losses(run)[-1] < 0.6 * losses(run)[0]
    assert evaluated[1] < evaluated[0]


def test_saved_result_answers_the_same_in_a_new_process(tmp_path, composite, pictures):
    trainer = run_recipe(picture_recipe(tmp_path, composite, pictures, {"max_steps": 2}))
    script = """
import sys, torch, rwkv7_world
from transformers import AutoModelForMultimodalLM, AutoProcessor
model, processor = (c.from_pretrained(sys.argv[1]) for c in (AutoModelForMultimodalLM, AutoProcessor))
content = [{"type": "image", "path": sys.argv[2]}, {"type": "text", "text": "what"}]
inputs = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True,
                                       return_tensors="pt", add_generation_prompt=True)
print(model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist())
"""
    picture = pictures.parent / "1.png"
    command = [sys.executable, "-c", script, str(tmp_path / "out"), str(picture)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(PACKAGE_PARENT), "PATH": ""}
    )
    row = read_data(str(pictures))[1]
    inputs = trainer.data_collator.prompts([row])
    model = trainer.model.eval()
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
    assert json.loads(done.stdout.splitlines()[-1]) == expected
    assert (tmp_path / "out" / "recipe.yaml").is_file()
    config, before = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", composite))
    assert config.get("use_cache") == before.get("use_cache")  # which transformers' Trainer sets for training


SETTINGS = {
    "accumulation and workers": {"gradient_accumulation_steps": 2, "dataloader_num_workers": 2},
    "length groups, several epochs": {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 6},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("step", [1, 3])
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path, composite, pictures, setting, step):
    trainer = {"max_steps": 5, "save_steps": 1, "per_device_train_batch_size": 2, **SETTINGS[setting]}
    recipe = picture_recipe(tmp_path, composite, pictures, trainer)
    run_recipe(recipe)
    expected = weights(tmp_path / "out")
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "out" / f"checkpoint-{step}").rename(again / f"checkpoint-{step}")
    resumed = run_recipe(recipe, (f"output_dir={again}",), resume=True)
    assert resumed.state.global_step == 5
    assert not differing(expected, weights(again))


def test_run_with_an_auxiliary_loss_resumes_bit_for_bit_and_saves_the_model_alone(tmp_path, composite, pictures):
    (tmp_path / "heads.py").write_text(
        """
import torch
from rwkv7_world.training.auxiliary import AuxiliaryLoss

class Brightness(AuxiliaryLoss):
    def __init__(self, model, processor):
        super().__init__(model, processor)
        self.head = torch.nn.Linear(model.config.text_config.hidden_size, 1)

    @staticmethod
    def targets(processor, rows):
        return {"length": torch.tensor([float(len(str(row["messages"]))) for row in rows])}

    def forward(self, model, inputs, targets):
        features = model.get_image_features(inputs.pop("pixel_values"))
        said = self.head(torch.stack(list(features.pooler_output)).mean(1)).squeeze(-1)
        loss = (said - targets["length"] / 100).square().mean()
        return loss, {**inputs, "mm_encoder_outputs": {"image": features}}
"""
    )
    trainer = {"max_steps": 4, "save_steps": 2, "gradient_accumulation_steps": 2}
    recipe = picture_recipe(tmp_path, composite, pictures, trainer, auxiliary="heads.py:Brightness")
    run_recipe(recipe)
    expected = weights(tmp_path / "out")
    assert expected.keys() == weights(composite).keys()
    again = tmp_path / "again"
    again.mkdir()
    (tmp_path / "out" / "checkpoint-2").rename(again / "checkpoint-2")
    run_recipe(recipe, (f"output_dir={again}",), resume=True)
    assert not differing(expected, weights(again))


def text_recipe(tmp_path: Path, trainer: dict, **content) -> Path:
    model, data = save_text_model(tmp_path / "text_model"), write_text(tmp_path / "text.txt")
    defaults = {"output_dir": str(tmp_path / "out"), "model": str(model), "data": [str(data)]}
    return write_recipe(tmp_path / "recipe.yaml", trainer, **{**defaults, **content})


def test_step_of_bad_rows_alone_leaves_the_weights_finite(tmp_path):
    rows = [[{"role": "user", "content": "what"}, {"role": "assistant", "content": said}] for said in ("", "red")]
    data = tmp_path / "chat.jsonl"
    data.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    trainer = {"max_steps": 2, "per_device_train_batch_size": 1, "l2wrap": 1e-3, "save_strategy": "no"}
    run_recipe(text_recipe(tmp_path, {**trainer, "train_sampling_strategy": "sequential"}, data=[str(data)]))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "out").values())


@pytest.mark.parametrize("step", [1, 4])
def test_streamed_run_resumes_bit_for_bit_in_any_pass(tmp_path, step):
    """Of nine rows, in steps of four, so that some hold the end of one pass and the beginning of the next."""
    rows = {"text": [f"the red circle {index}" if index != 5 else "" for index in range(9)]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "rows.parquet")
    data = [{"path": str(tmp_path / "set"), "options": {"streaming": True}}]
    trainer = {"max_steps": 6, "save_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    recipe = text_recipe(tmp_path, trainer, data=data)
    run_recipe(recipe)
    expected = weights(tmp_path / "out")
    (tmp_path / "again").mkdir()
    (tmp_path / "out" / f"checkpoint-{step}").rename(tmp_path / "again" / f"checkpoint-{step}")
    run_recipe(recipe, (f"output_dir={tmp_path / 'again'}",), resume=True)
    assert not differing(expected, weights(tmp_path / "again"))


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.002)


def test_killed_save_leaves_nothing_that_resuming_takes_for_whole(tmp_path, capsys):
    recipe = text_recipe(tmp_path, {"max_steps": 400, "save_steps": 1, "save_total_limit": 3})
    out, partial = tmp_path / "out", tmp_path / "out" / PARTIAL_FOLDER
    process = start_command("train", recipe, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: last_checkpoint(out) is not None, process)
    wait_for(lambda: any(partial.glob("checkpoint-*/*")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    whole = list(out.glob("checkpoint-*"))
    assert whole
    for path in whole:
        names = {file.name for file in path.iterdir()}
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= names
        torch.load(path / "optimizer.pt", weights_only=True)
    last = int(last_checkpoint(out).name.split("-")[1])
    (partial / "checkpoint-999").mkdir(parents=True)
    resumed = run_recipe(recipe, (f"trainer.max_steps={last + 2}",), resume=True)
    said = capsys.readouterr().out
    assert resumed.state.global_step == last + 2
    assert f"resuming {out / f'checkpoint-{last}'}" in said
    assert f"{partial / 'checkpoint-999'}: left by a save that did not end" in said


def test_checkpoint_that_cannot_be_written_ends_the_run_in_one_clear_line(tmp_path):
    """Files of a limited size stand for a disk that is full."""
    recipe = text_recipe(tmp_path, {"max_steps": 3, "save_steps": 1})

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    process = start_command(
        "train", recipe, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )
    message = process.communicate()[1].strip().splitlines()[-1]
    assert process.returncode == 2
    assert f"{tmp_path / 'out'}: checkpoint-1 could not be written" in message
    assert "GB are free" in message and "no earlier checkpoint" in message
    assert last_checkpoint(tmp_path / "out") is None


def test_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(os.fstat(file).st_ino), fsync(file)))
    partial = tmp_path / PARTIAL_FOLDER / "checkpoint-1"
    (partial / "inside").mkdir(parents=True)
    (partial / "inside" / "weights").write_text("1")
    wanted = {path.stat().st_ino for path in (partial, partial / "inside", partial / "inside" / "weights")}
    at_rename = []
    monkeypatch.setattr(Path, "rename", lambda self, to: (at_rename.extend(flushed), os.rename(self, to)))
    final = publish(partial, tmp_path)
    assert (final / "inside" / "weights").read_text() == "1"
    assert set(at_rename) == wanted
    assert flushed[-1] == tmp_path.stat().st_ino


class Killed(BaseException):
    """Stands for a kill, which no code of ours outlives."""


@pytest.mark.parametrize("number", range(6))
def test_one_whole_checkpoint_is_found_whenever_the_replacing_of_one_is_killed(number, tmp_path, monkeypatch):
    """Kills before each of the changes to the file system that publishing makes, then publishes again."""
    calls = []

    def killing(change):
        def before(*args, **kwargs):
            calls.append(change)
            if len(calls) == number + 1:
                raise Killed
            return change(*args, **kwargs)

        return before

    def write(content: str) -> Path:
        partial = tmp_path / PARTIAL_FOLDER / "checkpoint-10"
        partial.mkdir(parents=True, exist_ok=True)
        (partial / "weights").write_text(content)
        return partial

    publish(write("old"), tmp_path)
    partial = write("new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killing(Path.rename))
        patch.setattr(shutil, "rmtree", killing(shutil.rmtree))
        try:
            publish(partial, tmp_path)
        except Killed:
            assert number < len(calls)
    found = last_checkpoint(tmp_path)
    assert (found / "weights").read_text() in ("old", "new")
    final = publish(write("newest"), tmp_path)
    assert list(tmp_path.glob("checkpoint-*")) == [final] == [last_checkpoint(tmp_path)]
    assert (final / "weights").read_text() == "newest"


def test_no_checkpoint_is_deleted_before_a_newer_one_is_whole(tmp_path, monkeypatch):
    out, rmtree, kept = tmp_path / "out", shutil.rmtree, []

    def remove(path, *args, **kwargs):
        if Path(path).match(f"{out}/checkpoint-*") and Path(path).exists():
            others = [other for other in out.glob("checkpoint-*") if other != Path(path)]
            kept.append({file.name for file in others[0].iterdir()} if others else set())
        rmtree(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", remove)
    run_recipe(text_recipe(tmp_path, {"max_steps": 3, "save_steps": 1, "save_total_limit": 1}))
    assert len(kept) == 2
    assert all({"model.safetensors", "optimizer.pt", "trainer_state.json"} <= names for names in kept)


def test_loss_that_is_no_number_ends_the_run_at_its_step(tmp_path):
    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 2:
                model.lm_head.weight.data[0] = math.nan

    trainer = tiny_trainer(tmp_path, max_steps=5)
    trainer.add_callback(Poison())
    with pytest.raises(FloatingPointError, match="loss of step 3 is nan"):
        trainer.train()


def tiny_trainer(tmp_path: Path, trainer_class=RWKVTrainer, **arguments) -> RWKVTrainer:
    torch.manual_seed(0)
    processor = composites.tiny_tokenizer()
    model = tiny_model(vocab_size=len(processor))
    arguments = {**QUIET_TRAINER, "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, **arguments}
    class_of_arguments = RWKVTrainingArguments if trainer_class is RWKVTrainer else TrainingArguments
    rows = read_data(str(write_text(tmp_path / "text.txt")))
    collator = ConversationCollator(processor)
    return trainer_class(model, class_of_arguments(**arguments), train_dataset=rows, data_collator=collator)


def test_plain_trainer_trains_the_same(tmp_path):
    """With one group of parameters and one loss for all tokens, ours is transformers' Trainer."""
    common = {"max_steps": 3, "gradient_accumulation_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    plain = tiny_trainer(tmp_path, Trainer, remove_unused_columns=False, **common)
    ours = tiny_trainer(tmp_path, decay_bias_multiplier=1.0, **common)
    for trainer in (plain, ours):
        trainer.train()
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-5)
    for name, tensor in plain.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"loss_chunk_size": 5}, {"activation_checkpointing": True}])
def test_saving_memory_changes_no_loss(tmp_path, options):
    plain, saving = tiny_trainer(tmp_path, max_steps=3, logging_steps=1), None
    plain.train()
    saving = tiny_trainer(tmp_path, max_steps=3, logging_steps=1, **options)
    saving.train()
    assert losses(saving) == pytest.approx(losses(plain), rel=1e-5)


def test_l2wrap_pulls_the_largest_logits_down(tmp_path):
    trained = {}
    for strength in (0.0, 1.0):
        trainer = tiny_trainer(tmp_path, max_steps=6, l2wrap=strength, learning_rate=1e-2)
        trainer.train()
        batch = trainer.data_collator([{"text": "the red circle 1"}])
        trained[strength] = trainer.model.eval()(batch["input_ids"]).logits.max(-1).values.mean().item()
    assert trained[1.0] < trained[0.0]


def test_throughput_memory_and_skipped_rows_are_logged(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2, logging_steps=1)
    trainer.train_dataset = [{"text": "the red circle"}, {"text": ""}, {"text": "a"}, {"text": "b"}] * 2
    trainer.train()
    entry = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert {"tokens_per_second", "samples_per_second", "peak_memory_gb"} <= entry.keys()
    assert entry["skipped_rows"] == 1


def test_frozen_encoder_has_no_dropout(tmp_path, pictures):
    model = composites.tiny_composite("siglip").train()
    model.model.vision_tower.requires_grad_(False)
    arguments = RWKVTrainingArguments(output_dir=str(tmp_path), max_steps=1, **QUIET_TRAINER)
    modes = []
    model.model.vision_tower.register_forward_hook(lambda module, *_: modes.append(module.training))
    collator = ConversationCollator(composites.tiny_processor("siglip"))
    RWKVTrainer(model, arguments, train_dataset=read_data(str(pictures)), data_collator=collator).train()
    assert modes and not any(modes)
    assert model.training


def test_batch_without_pictures_trains_where_only_the_projector_does(tmp_path, composite):
    rows = tmp_path / "chat.jsonl"
    messages = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "red"}]
    rows.write_text((json.dumps({"messages": messages}) + "\n") * 4)
    recipe = picture_recipe(tmp_path, composite, rows, {"max_steps": 2, "save_strategy": "no"}, train=["projector"])
    run_recipe(recipe)
    assert not differing(weights(composite), weights(tmp_path / "out"))


def test_answers_are_generated_scored_and_kept(tmp_path, composite, pictures, capsys):
    content = {
        "eval_data": [{"path": str(pictures), "split": "[:6]"}],
        "generation": {"metric": "exact_match", "rows": 5, "max_new_tokens": 6},
    }
    trainer = {
        "max_steps": 60,
        "eval_strategy": "steps",
        "eval_steps": 60,
        "save_strategy": "no",
        "learning_rate": 5e-3,
    }
    trainer |= {"per_device_train_batch_size": 8, "load_best_model_at_end": False}
    run = run_recipe(picture_recipe(tmp_path, composite, pictures, trainer, **content))
    entry = next(entry for entry in run.state.log_history if "eval_exact_match" in entry)
    kept = (tmp_path / "out" / "predictions" / "eval-step-60.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in kept]
    assert [row["reference"] for row in rows] == [COLORS[index % 4] for index in range(5)]
    right = sum(row["prediction"] == row["reference"] for row in rows)
    assert entry["eval_exact_match"] == pytest.approx(100 * right / 5)
    assert right >= 3
    assert "(expected 'red')" in capsys.readouterr().out


def test_tensorboard_shows_questions_pictures_and_answers(tmp_path, composite, pictures):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = json.loads(pictures.read_text())[:5]
    records[0]["image"] = "missing.png"
    path = pictures.parent / "first_bad.json"
    path.write_text(json.dumps(records))
    content = {"eval_data": [str(path)], "generation": {"rows": 5, "max_new_tokens": 2}}
    trainer = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}
    run_recipe(picture_recipe(tmp_path, composite, pictures, trainer | {"report_to": "tensorboard"}, **content))
    events = EventAccumulator(str(next((tmp_path / "out").rglob("events.out.*")).parent), {"images": 0, "tensors": 0})
    events.Reload()
    kept = (tmp_path / "out" / "predictions" / "eval-step-1.jsonl").read_text().splitlines()
    shown = [tag for tag in events.Tags()["tensors"] if "predictions" in tag]
    assert shown == [f"eval/predictions/{number}/text_summary" for number in range(3)]
    for number, (tag, answer) in enumerate(zip(shown, map(json.loads, kept), strict=False)):
        text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        lines = [line.strip() for line in text.splitlines()]
        assert lines[0] == "user: what"
        assert "\n".join(lines[1:]) == f"answer: {answer['prediction']}\nexpected: {answer['reference']}".strip()
        (event,) = events.Images(f"eval/predictions/{number}/image0")
        picture = Image.open(io.BytesIO(event.encoded_image_string))
        assert picture.getpixel((5, 5)) == ImageColor.getrgb(answer["reference"]) and event.step == 1


def test_bad_rows_alone_are_left_out_of_what_is_answered(tmp_path, composite, pictures):
    records = json.loads(pictures.read_text())[:3]
    records[1]["image"] = "missing.png"
    some_bad = pictures.parent / "some_bad.json"
    some_bad.write_text(json.dumps(records))
    content = {"eval_data": [str(some_bad)], "generation": {"rows": 3, "max_new_tokens": 2}}
    trainer = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no"}
    run_recipe(picture_recipe(tmp_path, composite, pictures, trainer, **content))
    kept = (tmp_path / "out" / "predictions" / "eval-step-1.jsonl").read_text().splitlines()
    assert [json.loads(line)["reference"] for line in kept] == [COLORS[0], COLORS[2]]


def test_best_checkpoint_is_named_where_it_is(tmp_path, composite, pictures):
    trainer = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 2}
    trainer |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    run = run_recipe(picture_recipe(tmp_path, composite, pictures, trainer, eval_data=[str(pictures)]))
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path / "out" and best.is_dir()
    state = json.loads((last_checkpoint(tmp_path / "out") / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).parent == tmp_path / "out"


def test_earlier_run_is_not_overwritten(tmp_path):
    recipe = text_recipe(tmp_path, {"max_steps": 1, "save_steps": 1})
    run_recipe(recipe)
    with pytest.raises(ValueError, match="holds checkpoint-1 of an earlier run"):
        run_recipe(recipe)


@pytest.mark.parametrize(
    ("name", "template", "mark", "options"),
    [
        ("siglip", "E5", "media_inside", {}),
        ("qwen3_vl", "mod-rwkv", "'after'", {"num_deepstack_projectors": 1}),
    ],
)
def test_composite_of_a_text_model_and_an_encoder_keeps_their_weights(
    name, template, mark, options, tmp_path, pictures
):
    text = save_text_model(tmp_path / "text")
    encoder = composites.tiny_composite(name).model.vision_tower
    encoder.save_pretrained(tmp_path / "encoder")
    composites.tiny_image_processor(name).save_pretrained(tmp_path / "encoder")
    model = {"text": str(text), "vision": str(tmp_path / "encoder"), "chat_template": template, "config": options}
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        {"max_steps": 1, "save_strategy": "no"},
        output_dir=str(tmp_path / "out"),
        model=model,
        data=[str(pictures)],
        train=["projector"],
    )
    run_recipe(recipe)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(loaded.model.vision_tower.state_dict()[name], tensor), name
    assert torch.equal(loaded.lm_head.weight, weights(text)["lm_head.weight"])
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert mark in processor.chat_template
    assert loaded.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("\x17")


class TestTransformersOwnTrainer:
    """Batches with a picture, with a clip and with neither are evaluated one after the other."""

    @pytest.fixture
    def trainer(self, tmp_path):
        model = composites.tiny_composite("siglip", "wavlm")
        processor = composites.tiny_processor("siglip", "wavlm")
        image = {"type": "image", "image": composites.random_image()}
        clip = {"type": "audio", "audio": composites.random_clip()}
        text = {"type": "text", "text": "what?"}
        rows = [
            {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "so"}]}
            for content in ([image, text], [clip, text], [text], [image, image, text])
        ]
        seen = []

        def compute_metrics(prediction) -> dict:
            seen.append(prediction.predictions)
            return {"rows": len(prediction.label_ids)}

        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_eval_batch_size=1, remove_unused_columns=False, **QUIET_TRAINER
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            eval_dataset=rows,
            data_collator=ConversationCollator(processor),
            compute_metrics=compute_metrics,
        )
        return trainer, rows, seen

    def test_metrics_are_computed_from_logits_alone(self, trainer):
        trainer, rows, seen = trainer
        assert trainer.evaluate()["eval_rows"] == len(rows)
        assert isinstance(seen[0], np.ndarray) and seen[0].shape[0] == len(rows)

    def test_predictions_are_logits_alone(self, trainer):
        trainer, rows, _ = trainer
        predictions = trainer.predict(rows).predictions
        assert isinstance(predictions, np.ndarray) and predictions.shape[0] == len(rows)


class TestSignals:
    @pytest.fixture
    def run(self, tmp_path):
        """A run of many steps that has begun, and its output folder."""
        model, out = save_text_model(tmp_path / "model"), tmp_path / "out"
        trainer = {"max_steps": 100_000, "save_steps": 100_000, "logging_steps": 1, "per_device_train_batch_size": 1}
        recipe = write_recipe(
            tmp_path / "recipe.yaml",
            trainer,
            output_dir=str(out),
            model=str(model),
            data=[str(write_text(tmp_path / "data.txt"))],
        )
        process = start_command("train", recipe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in process.stdout:
            if "loss" in line:
                break
        return process, recipe, out

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_one_saves_a_checkpoint_and_says_how_to_go_on(self, run, number, capsys):
        process, recipe, out = run
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 130 and "Traceback" not in said
        assert f"{number.name}: a checkpoint is saved after this step; once more stops at once" in said
        saved = last_checkpoint(out)
        step = int(saved.name.split("-")[1])
        assert f"stopped by {number.name} after step {step} of 100000" in said and "--resume goes on" in said
        assert not (out / "model.safetensors").exists()
        resumed = run_recipe(recipe, (f"trainer.max_steps={step + 1}",), resume=True)
        assert resumed.state.global_step == step + 1

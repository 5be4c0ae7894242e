# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The shipped configurations of DeepSpeed, where it is installed: the same training as on one process without it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import WhisperModel

from helpers import composites
from helpers.global_batches import ADAPTER, assert_same_weights, begin_from, job, logged, make_recipe, prepare
from helpers.many_processes import launch
from helpers.training import save_text_model, weights
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.training.run import run_recipe


pytest.importorskip("deepspeed")

VARIANTS = {
    "plain": {},
    "adapter": {},
    "pictures": {},
    "clips": {},
    "mixed": {"train_sampling_strategy": "sequential"},
}
DATA = {"pictures": "media/pictures.jsonl", "clips": "media/clips.jsonl", "mixed": "media/media.jsonl"}

# Those that can take steps in which processes hold different media
TAKES_MIXED = ("zero1",)


def make(folder: Path, variant: str) -> str:
    adapter = ADAPTER if variant == "adapter" else None
    return make_recipe(folder, variant, VARIANTS[variant], adapter, DATA.get(variant, "chat.jsonl"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each variant run on one process without DeepSpeed."""
    folder = prepare(tmp_path_factory.mktemp("processes"))
    for variant in VARIANTS:
        run_recipe(**job(make(folder, variant), folder / "one" / variant))
    return folder


def with_stage(stage: str, work: dict) -> dict:
    return {**work, "assignments": [*work["assignments"], f"trainer.deepspeed={stage}"]}


@pytest.fixture(scope="module", params=["zero1", "zero2", "zero3"])
def two(request, folder) -> Path:
    """Each variant run on two processes, and once more from the checkpoint in the middle."""
    out, stage = folder / request.param, request.param
    variants = [variant for variant in VARIANTS if stage in TAKES_MIXED or variant != "mixed"]
    recipes = {variant: str(folder / f"{variant}.yaml") for variant in variants}
    launch("ddp", [with_stage(stage, job(recipe, out / name, processes=2)) for name, recipe in recipes.items()])
    again = {name: begin_from(out / name, out / f"{name}-again") for name in variants}
    launch("ddp", [with_stage(stage, job(recipes[name], again[name], True, processes=2)) for name in variants])
    return out


@pytest.fixture(params=VARIANTS)
def variant(request, two) -> str:
    if two.name not in TAKES_MIXED and request.param == "mixed":
        pytest.skip("refused, as a test of its own shows")
    return request.param


def test_losses_and_weights_are_those_of_one_process(folder, two, variant):
    one = folder / "one" / variant
    for key in ("loss", "eval_loss", "eval_exact_match"):
        assert logged(two / variant, key) == pytest.approx(logged(one, key), rel=1e-3), key
    assert_same_weights(one, two / variant)


def test_resumed_run_ends_with_the_same_weights(two, variant):
    assert_same_weights(two / variant, two / f"{variant}-again")


def test_result_is_loaded_as_any_model(two):
    model = RWKV7ForCausalLM.from_pretrained(two / "plain")
    saved = weights(two / "plain")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_a_model_put_together_by_the_recipe_is_that_of_one_process(folder, tmp_path):
    WhisperModel(composites.audio_config("whisper")).save_pretrained(folder / "whisper")
    composites.tiny_feature_extractor("whisper").save_pretrained(folder / "whisper")
    model = {
        "text": str(save_text_model(folder / "text")),
        "audio": str(folder / "whisper"),
        "chat_template": "speech",
    }
    recipe = make_recipe(folder, "assembled", {}, None, DATA["clips"])
    settings = [f"model={json.dumps(model)}", "train=[projector]"]
    for name, processes in {"one": 1, "two": 2}.items():
        work = job(recipe, tmp_path / name, processes=processes)
        work["assignments"] += settings
        if processes == 1:
            run_recipe(**work)
        else:
            launch("ddp", [with_stage("zero3", work)])
    assert_same_weights(tmp_path / "one", tmp_path / "two")


def test_one_process_refuses_a_checkpoint_of_deepspeed(folder, two, tmp_path):
    resumed = begin_from(two / "plain", tmp_path / "plain")
    with pytest.raises(ValueError, match="of a run with DeepSpeed, which goes on with the same deepspeed setting"):
        run_recipe(**job(str(folder / "plain.yaml"), resumed, resume=True))


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_processes_that_see_different_media_are_told(folder, stage):
    work = with_stage(stage, job(str(folder / "mixed.yaml"), folder / f"refused-{stage}", processes=2))
    work["assignments"].append(f"model={folder / 'eyes'}")
    with pytest.raises(AssertionError, match="ValueError: .*some have pictures or clips and others none"):
        launch("ddp", [work])

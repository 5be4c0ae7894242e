# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world train`: a run, and one line for what cannot be run."""

import json
from importlib.util import find_spec

import datasets
import pytest

from helpers.training import save_composite, save_text_model, write_llava, write_recipe, write_text
from rwkv7_world.cli.main import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(tmp_path) -> str:
    save_text_model(tmp_path / "model")
    write_text(tmp_path / "text.txt")
    content = {"output_dir": "out", "model": "model", "data": ["text.txt"]}
    return str(write_recipe(tmp_path / "recipe.yaml", {"max_steps": 2}, **content))


def refusal(capsys, *argv: str) -> str:
    capsys.readouterr()
    status = main(["train", *argv])
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1), err
    return err


def test_recipe_is_carried_out(recipe, tmp_path, capsys):
    assert main(["train", recipe, "--set", "trainer.max_steps=1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out: trained for 1 steps"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "max_steps: 1" in (tmp_path / "out" / "recipe.yaml").read_text()


def test_resume_without_a_checkpoint_is_refused(recipe, capsys):
    assert main(["train", recipe, "--resume"]) == 2
    assert "out: holds no whole checkpoint to --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["trainer.max_stepz=3"], "did you mean 'max_steps'?"),
        (["trainer.loss_reduction=mean"], "loss_reduction is 'mean'"),
        (["data.0=nothing.txt"], "nothing.txt: no such file"),
        (["data.0.path=text.txt", "data.0.format=words"], "data.0.format is 'words'"),
        (["data=[{path: text.txt, split: train}]"], "split is 'train'"),
        (["model=./nowhere"], "./nowhere: no such folder"),
        (["model.path="], "model is 'model', which has no keys"),
        (["model={dtype: float32}"], "expected one of path, text, config and build, got none"),
        (["train=[projector]"], "'projector' is no part of the model to train; this model has embeddings, head, text"),
        (["trainer.part_learning_rates.encoder=1.0"], "'encoder' is no part of the model"),
        (["auxiliary=heads.py:Heads"], "heads.py:Heads: expected file.py:object"),
        (["generation.metric=accuracy"], "generation.metric is 'accuracy'"),
        (["adapter.r=8"], "adapter method None: expected one of state, lora"),
        (["adapter={method: lora, rank: 8}"], "adapter method lora has no 'rank'"),
        (["adapter={method: lora}", "train=[text]"], "train: text does not go with adapter"),
        (["adapter={method: lora}", "train=[projector]"], "'projector' is no part of the model"),
        (["adapter={method: lora}", "freeze=[head]"], "freeze does not go with adapter"),
        (["trainer.chunk_length=0"], "trainer.chunk_length is 0, expected at least 1"),
        (["trainer.chunk_length=8", "trainer.activation_checkpointing=true"], "cannot hand on its state"),
        (["model={build: 'build.py:nothing'}"], "build.py:nothing: expected file.py:object"),
    ],
)
def test_mistakes_are_told_in_one_line(recipe, capsys, changes, complaint):
    if changes[0].startswith("data.0.path"):
        changes = [f"data=[{{path: text.txt, format: {changes[1].partition('=')[2]}}}]"]
    settings = [part for change in changes for part in ("--set", change)]
    assert complaint in refusal(capsys, recipe, *settings)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="it is installed")
@pytest.mark.parametrize("config", ["zero3", "zero4"])
def test_missing_deepspeed_is_named_with_what_installs_it(recipe, capsys, config):
    said = refusal(capsys, recipe, "--set", f"trainer.deepspeed={config}")
    assert said.endswith('error: deepspeed is not installed; pip install "rwkv7-world[deepspeed]"\n')


def test_configurations_of_deepspeed_that_there_are_not_are_told(recipe, capsys):
    pytest.importorskip("deepspeed")
    said = refusal(capsys, recipe, "--set", "trainer.deepspeed=zero4")
    assert "deepspeed 'zero4': no such file; the package has zero1, zero2, zero3" in said


def test_data_of_another_kind_is_told_by_its_keys(recipe, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    assert "['completion', 'prompt']" in refusal(capsys, recipe, "--set", "data=[{path: rows.jsonl}]")
    said = refusal(capsys, recipe, "--set", "data=[{path: rows.jsonl, format: text}]")
    assert "not one of the first 1 rows can be learned from; rows.jsonl:1: no text under 'text'" in said.replace(
        f"{tmp_path}/", ""
    )


def test_an_option_of_a_text_entry_is_answered_with_how_to_give_it(recipe, capsys):
    option = ("--set", "data.0.options.image_folder=images")
    said = refusal(capsys, recipe, *option)
    entry = "data.0={path: text.txt}"
    assert f"data.0 is 'text.txt', which has no keys; give it keys first, with --set '{entry}'" in said
    said = refusal(capsys, recipe, "--set", entry, *option)
    assert "error: data.0.options: " in said
    assert said.endswith(
        "text.txt: format text has no option 'image_folder', it has streaming, text_column, sample_by; image_folder "
        "is an option of llava\n"
    )
    said = refusal(capsys, recipe, "--set", entry, "--set", "data.0.options.nonsense=1")
    assert said.endswith("no option 'nonsense', it has streaming, text_column, sample_by\n")
    assert "output_dir is 'out', which has no keys\n" in refusal(capsys, recipe, "--set", "output_dir.x=1")


def test_pictures_for_a_model_without_eyes_are_told(recipe, tmp_path, capsys):
    save_composite(tmp_path / "blind", vision=None)
    write_llava(tmp_path / "pictures", rows=2)
    said = refusal(capsys, recipe, "--set", "model=blind", "--set", "data=[pictures/records.json]")
    assert "the model has no vision encoder" in said


def test_unknown_recipe_is_told(capsys):
    assert "nothing.yaml: no such recipe; the package has" in refusal(capsys, "nothing.yaml")

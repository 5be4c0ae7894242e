# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Recipes: what they may hold, how they are changed on the command line, and what is said of mistakes."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers.training import QUIET_TRAINER
from rwkv7_world.training.recipe.arguments import CONFIGS
from rwkv7_world.training.recipe.recipe import SHIPPED_RECIPES, find_recipe, load_recipe
from rwkv7_world.training.recipe.typed_yaml import parse_yaml, set_value


CONTENT = {"output_dir": "out", "model": "folder", "data": ["a.jsonl"], "trainer": {"max_steps": 3}}


def load(tmp_path, content: dict, *assignments: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path, assignments)


def test_shorthands_and_defaults(tmp_path):
    recipe, text = load(tmp_path, CONTENT)
    assert recipe.model.path == "folder" and recipe.model.dtype == "float32"
    assert recipe.data[0].path == "a.jsonl" and recipe.data[0].weight == 1.0
    assert recipe.folder == tmp_path
    assert yaml.safe_load(text) == CONTENT


def test_values_are_set_from_the_command_line(tmp_path):
    recipe, text = load(
        tmp_path,
        CONTENT,
        "trainer.learning_rate=1e-3",
        "data.0=b.txt",
        "samples.max_length=64",
        "train=[projector, text]",
        "trainer.part_learning_rates.projector=2e-4",
    )
    assert recipe.trainer == {"max_steps": 3, "learning_rate": 1e-3, "part_learning_rates": {"projector": 2e-4}}
    assert (recipe.data[0].path, recipe.samples.max_length, recipe.train) == ("b.txt", 64, ["projector", "text"])
    assert yaml.safe_load(text)["samples"] == {"max_length": 64}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"modle": "x"}, "unknown key 'modle', did you mean 'model'?"),
        ({"trainer": {"learningrate": 1.0}}, "trainer: unknown key 'learningrate', did you mean 'learning_rate'?"),
        ({"trainer": {"max_steps": "many"}}, "trainer.max_steps: expected a whole number, got 'many'"),
        ({"trainer": {"max_steps": 1.5}}, "trainer.max_steps: expected a whole number, got 1.5"),
        ({"trainer": {"output_dir": "x"}}, "trainer: unknown key 'output_dir'"),
        ({"trainer": {"bf16": "yes please"}}, "trainer.bf16: expected true or false"),
        ({"data": [{"path": "x", "wieght": 2}]}, "data.0: unknown key 'wieght', did you mean 'weight'?"),
        ({"data": "x"}, "data: expected a list"),
        ({"data": []}, "data: the list is empty"),
        ({"data": [{"format": "text"}]}, "data.0: the key 'path' is missing"),
        ({"model": {"dtype": "float32"}}, "expected one of path, text, config and build, got none"),
        ({"model": {"path": "a", "text": "b"}}, "got path and text"),
        ({"model": {"text": "b"}}, "text needs vision or audio"),
        ({"samples": {"max_length": True}}, "samples.max_length: expected a whole number, got True"),
        ({"train": "projector"}, "train: expected a list"),
    ],
)
def test_mistakes_are_told_by_file_and_key(tmp_path, change, complaint):
    with pytest.raises(ValueError) as error:
        load(tmp_path, {**CONTENT, **change})
    message = str(error.value)
    assert complaint in message and "\n" not in message
    assert message.startswith(str(tmp_path / "recipe.yaml"))


@pytest.mark.parametrize("key", ["output_dir", "model", "data"])
def test_missing_keys_are_named(tmp_path, key):
    with pytest.raises(ValueError, match=f"the key '{key}' is missing"):
        load(tmp_path, {name: value for name, value in CONTENT.items() if name != key})


@pytest.mark.parametrize("assignment", ["max_steps", "=3", "data.5.path=x", "output_dir.x=1", "a..b=1", "trainer=[1"])
def test_assignments_that_cannot_be_carried_out_are_refused(assignment):
    with pytest.raises(ValueError, match="--set"):
        set_value({"output_dir": "out", "data": [], "trainer": {}}, assignment)


@pytest.mark.parametrize(
    ("content", "complaint"), [("a: [", "no YAML"), ("- a", "expected keys"), ("", "expected keys")]
)
def test_file_that_is_no_recipe_is_refused(tmp_path, content, complaint):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        load_recipe(tmp_path / "recipe.yaml")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_way_to_write_a_number_is_one(value):
    for text in (repr(value), f"{value:e}", f"{value:.0e}"):
        assert parse_yaml(text, "") == float(text) and not isinstance(parse_yaml(text, ""), str)


def test_no_is_a_word_and_false_is_not():
    assert parse_yaml("{save_strategy: no, bf16: false, version: 1.2.3}", "") == {
        "save_strategy": "no",
        "bf16": False,
        "version": "1.2.3",
    }


@pytest.mark.parametrize("path", sorted(SHIPPED_RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_found_and_hold_no_mistake(path):
    from rwkv7_world.training.recipe.arguments import RWKVTrainingArguments

    assert find_recipe(path.stem) == path
    recipe, _ = load_recipe(path, [f"trainer.{key}={str(value).lower()}" for key, value in QUIET_TRAINER.items()])
    RWKVTrainingArguments(output_dir=recipe.output_dir, **{**recipe.trainer, "bf16": False})


def test_unknown_recipe_is_told_with_those_there_are():
    with pytest.raises(FileNotFoundError, match="pretrain_text"):
        find_recipe("pretrain")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shipped_configurations_of_deepspeed_leave_the_recipe_what_it_decides(stage):
    content = json.loads((CONFIGS / f"zero{stage}.json").read_text())
    assert content["zero_optimization"]["stage"] == stage
    decided = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    assert {content[key] for key in decided} == {content["bf16"]["enabled"], "auto"}
    assert not {"optimizer", "scheduler"} & content.keys()

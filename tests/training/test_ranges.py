# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A recipe with a number that makes no sense is refused by file and key, before anything is trained."""

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

from helpers.training import QUIET_TRAINER, save_text_model, write_text
from rwkv7_world.training.arguments import RWKVTrainingArguments
from rwkv7_world.training.ranges import (
    DATA_RANGES,
    GENERATION_RANGES,
    MODEL_RANGES,
    SAMPLE_RANGES,
    TRAINER_RANGES,
    Range,
)
from rwkv7_world.training.recipe import DataSpec, GenerationSpec, ModelSpec, SampleSpec, load_recipe
from rwkv7_world.training.run import run_recipe
from rwkv7_world.training.typed_yaml import parse_yaml


SECTIONS = {
    "model": (ModelSpec, MODEL_RANGES),
    "data.0": (DataSpec, DATA_RANGES),
    "samples": (SampleSpec, SAMPLE_RANGES),
    "generation": (GenerationSpec, GENERATION_RANGES),
    "trainer": (RWKVTrainingArguments, TRAINER_RANGES),
}
RECIPE = {"output_dir": "out", "model": {"path": "m"}, "data": [{"path": "d.txt"}], "samples": {}, "generation": {}}


def is_number(kind) -> bool:
    return bool({int, float} & {kind, *get_args(kind)})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_of_a_recipe_has_a_range(section):
    spec, ranges = SECTIONS[section]
    hints = get_type_hints(spec)
    assert {field.name for field in fields(spec) if field.init and is_number(hints[field.name])} == set(ranges)


def outside(spec, key: str, allowed) -> list:
    if not isinstance(allowed, Range):
        return [5, -1]
    whole = int in {get_type_hints(spec)[key], *get_args(get_type_hints(spec)[key])}
    values = [allowed.least if allowed.is_open else allowed.least - 1, -7, allowed.most + 1]
    values = [value for value in values if value not in allowed and value != float("inf")]
    return [int(value) for value in values] if whole else [*map(float, values), float("nan"), float("inf")]


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, (_, ranges) in SECTIONS.items() for key in ranges]
)
def test_a_number_out_of_its_range_is_refused_by_file_and_key(section, key, tmp_path):
    spec, ranges = SECTIONS[section]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"trainer": {}}))
    for value in outside(spec, key, ranges[key]):
        text = yaml.safe_dump(value).splitlines()[0]
        with pytest.raises(ValueError, match=rf"recipe\.yaml: {section}\.{key} is .*, expected ") as error:
            load_recipe(path, [f"{section}.{key}={text}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("rate", ["1e40", "-1e-3", ".nan"])
def test_rates_of_parts_have_the_range_of_the_rate(rate, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(ValueError, match=r"trainer\.part_learning_rates\.text is .*, expected at least 0"):
        load_recipe(path, [f"trainer.part_learning_rates.text={rate}"])


def test_rates_of_parts_may_be_json(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"trainer": {"part_learning_rates": '{"text": 1e-4}'}}))
    assert load_recipe(path)[0].trainer["part_learning_rates"] == '{"text": 1e-4}'


def test_merge_keys_of_yaml_are_read():
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n"
    assert parse_yaml(text, "recipe")["b"] == {"x": 1, "y": 2}


def test_an_empty_list_of_parts_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"train": []}))
    with pytest.raises(ValueError, match=r"recipe\.yaml: train: the list is empty"):
        load_recipe(path)


def test_yaml_is_that_of_1_2():
    text = "{a: 010, b: 12:30, c: 0x1F, d: 0o17, e: 2026-11-28, f: no, g: 1e-3, h: -5, i: true, j: 1_000, k: ~}"
    expected = [10, "12:30", 31, 15, "2026-11-28", "no", 1e-3, -5, True, "1_000", None]
    assert list(parse_yaml(text, "recipe").values()) == expected


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x: {a: 1, a: 1}"])
def test_a_key_given_twice_is_refused(text):
    with pytest.raises(ValueError, match="recipe: no YAML .*the key 'a' is given twice"):
        parse_yaml(text, "recipe")


class TestRuns:
    @pytest.fixture
    def recipe(self, tmp_path):
        model = save_text_model(tmp_path / "model")
        data = write_text(tmp_path / "data.txt")
        content = {"output_dir": str(tmp_path / "out"), "model": str(model), "data": [str(data)]}
        trainer = QUIET_TRAINER | {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 2}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content | {"trainer": trainer}))
        return path

    def test_processes_that_form_no_group_are_refused(self, recipe, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match=r"2 processes were launched, .* set trainer\.use_cpu=true"):
            run_recipe(recipe, ("trainer.use_cpu=false",))

    def test_nothing_to_resume_is_refused(self, recipe, tmp_path):
        with pytest.raises(ValueError, match="holds no whole checkpoint to --resume"):
            run_recipe(recipe, resume=True)

    def test_a_part_without_rows_is_refused_by_key_and_file(self, recipe):
        with pytest.raises(ValueError, match=r"eval_data\.0\.split is '\[500:\]', but .*data\.txt has 40 rows"):
            run_recipe(recipe, (f"eval_data=[{{path: {recipe.parent / 'data.txt'}, split: '[500:]'}}]",))

    def test_weights_that_are_not_finite_are_never_saved(self, recipe, tmp_path):
        trainer = run_recipe(recipe, ("trainer.save_strategy=no",))
        with torch.no_grad():
            trainer.model.model.norm.weight[0] = float("nan")
        with pytest.raises(ValueError, match=r"1 tensors are not finite, for example model\.norm\.weight"):
            trainer.save_model(str(tmp_path / "saved"))
        assert not list((tmp_path / "saved").glob("*.safetensors"))

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A recipe with a number or word that makes no sense is refused by file and key, before anything is loaded."""

import re
from dataclasses import fields
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
import yaml

from helpers.training import QUIET_TRAINER, save_text_model, write_text
from rwkv7_world.training.recipe.arguments import RWKVTrainingArguments
from rwkv7_world.training.recipe.ranges import (
    DATA_RANGES,
    GENERATION_RANGES,
    MODEL_RANGES,
    RECIPE_RANGES,
    SAMPLE_RANGES,
    TRAINER_RANGES,
    Range,
    Words,
)
from rwkv7_world.training.recipe.recipe import (
    DataSpec,
    GenerationSpec,
    ModelSpec,
    Recipe,
    SampleSpec,
    load_recipe,
)
from rwkv7_world.training.recipe.typed_yaml import parse_yaml
from rwkv7_world.training.run import run_recipe


SECTIONS = {
    "": (Recipe, RECIPE_RANGES),
    "model": (ModelSpec, MODEL_RANGES),
    "data.0": (DataSpec, DATA_RANGES),
    "samples": (SampleSpec, SAMPLE_RANGES),
    "generation": (GenerationSpec, GENERATION_RANGES),
    "trainer": (RWKVTrainingArguments, TRAINER_RANGES),
}
# Texts that name what the user has or calls something, and so may be any
FREE = {
    "": {"output_dir", "processor", "auxiliary"},
    "model": {"path", "text", "vision", "audio", "chat_template", "build"},
    "data.0": {"path", "split"},
    "trainer": {
        *("accelerator_config", "deepspeed", "fsdp", "fsdp_config", "optim_args", "optim_target_modules"),
        *("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs", "label_names"),
        *("hub_model_id", "hub_revision", "hub_token", "length_column_name", "metric_for_best_model", "project"),
        *("run_name", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id", "torch_compile_backend"),
        *("output_dir", "part_learning_rates", "resume_from_checkpoint"),
    },
}
RECIPE = {"output_dir": "out", "model": {"path": "m"}, "data": [{"path": "d.txt"}], "samples": {}, "generation": {}}


def holds(kind, *wanted: type) -> bool:
    """Whether a value of this annotation may be one of these types, or a list of them."""
    return (
        kind in wanted
        or get_origin(kind) in wanted
        or any(holds(part, *wanted) for part in get_args(kind) if get_origin(kind) is not dict)
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_and_word_of_a_recipe_has_a_range(section):
    spec, ranges = SECTIONS[section]
    hints = {field.name: get_type_hints(spec)[field.name] for field in fields(spec) if field.init}
    numbers, words = (
        {name for name, kind in hints.items() if holds(kind, *types)} for types in ((int, float), (str,))
    )
    assert numbers == {key for key, allowed in ranges.items() if not isinstance(allowed, Words) or key == "bits"}
    assert words - FREE.get(section, set()) == {
        key for key, allowed in ranges.items() if isinstance(allowed, Words)
    } - {"bits"}


def yaml_value(value) -> str:
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def outside(spec, key: str, allowed) -> list:
    if key == "bits":
        return [5, -1]
    if not isinstance(allowed, Range):
        is_list = holds(get_type_hints(spec)[key], list)
        words = [word for word in ("nothing", "", "Nothing.py") if word not in allowed]
        return [["nothing"], [allowed.words[0], "nothing"]] if is_list else words
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
    name = f"{section}.{key}".removeprefix(".")
    for value in outside(spec, key, ranges[key]):
        with pytest.raises(ValueError, match=rf"recipe\.yaml: {re.escape(name)} is .*, expected ") as error:
            load_recipe(path, [f"{name}={yaml_value(value)}"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, (_, ranges) in SECTIONS.items() for key in ranges]
)
def test_every_word_that_is_offered_is_taken(section, key, tmp_path):
    allowed = SECTIONS[section][1][key]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"trainer": {}, "eval_data": ["d.txt"]}))
    spec = SECTIONS[section][0]
    for word in allowed.words if isinstance(allowed, Words) else ():
        value = [word] if holds(get_type_hints(spec)[key], list) else word
        load_recipe(path, [f"{section}.{key}={yaml_value(value)}".removeprefix(".")])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["trainer.bf16=true", "trainer.fp16=true"], "trainer.bf16 and trainer.fp16 are both true"),
        (["trainer.bf16_full_eval=true", "trainer.fp16_full_eval=true"], "trainer.fp16_full_eval are both true"),
        (["trainer.report_to=tensorbord"], "trainer.report_to is 'tensorbord', expected one of "),
        (["trainer.report_to=[none, wandbd]"], "trainer.report_to is 'wandbd', expected one of "),
        (["trainer.part_learning_rates.heads=1e-3"], "trainer.part_learning_rates is 'heads', expected one of "),
        (["generation.metric=nothing.py:score"], "generation.metric: nothing.py:score: expected file.py:object"),
        (["auxiliary=nothing.py:Loss"], "auxiliary: nothing.py:Loss: expected file.py:object"),
        (["auxiliary=Loss"], "auxiliary: Loss: expected file.py:object"),
        (["model={build: nothing}"], "model.build: nothing: expected file.py:object"),
        (["data.0.format=nothing.py:read"], "data.0.format: nothing.py:read: expected file.py:object"),
        (["data.0.split=5%"], "data.0: split is '5%', expected a slice"),
        (["eval_data=[{path: d.txt, split: train}]"], "eval_data.0: split is 'train', expected a slice"),
        (["model={text: m, vision: v, chat_template: E9}"], "model: chat_template 'E9' is neither one of "),
        (["samples.packing=true"], "samples: packing needs max_length"),
        (["train=[text]", "freeze=[text]"], "train is ['text'] and freeze is ['text'], so nothing would be trained"),
        (["train=[head, embeddings]", "freeze=[text]"], "so nothing would be trained"),
        (["train=[projector]", "freeze=[vision_projector, audio_projector]"], "so nothing would be trained"),
        (["freeze=[text, projector, encoder]"], "so nothing would be trained"),
    ],
)
def test_what_names_nothing_is_refused_when_the_recipe_is_read(changes, complaint, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_recipe(path, changes)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and complaint in message and "\n" not in message


@pytest.mark.parametrize("change", ["train=[projector]", "freeze=[embeddings]", "train=[text]"])
def test_what_leaves_something_to_train_is_taken(change, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    load_recipe(path, [change])


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        ("{method: lora, r: 0}", "adapter r is 0, expected a whole number of at least 1"),
        ("{method: lora, r: 2.5}", "adapter r is 2.5"),
        ("{method: lora, alpha: -1}", "adapter alpha is -1, expected a number above 0"),
        ("{method: lora, alpha: .inf}", "adapter alpha is inf, expected a number above 0"),
        ("{method: lora, alpha: .nan}", "adapter alpha is nan"),
        ("{method: pissa, dropout: 2}", "adapter dropout is 2, expected a number from 0 to below 1"),
        ("{method: lora, init: best}", "adapter init 'best'"),
        ("{method: lora, rslora: 1}", "adapter rslora is 1, expected true or false"),
        ("{method: lora, state: 'yes'}", "adapter state is 'yes'"),
        ("{method: lora, norms: 3}", "adapter norms is 3"),
        ("{method: lora, targets: [attn.q_proj]}", "targets: attn.q_proj given, expected some of "),
        ("{method: lora, targets: 3}", "adapter targets 3"),
        ("{method: lora, modules_to_save: lm_head}", "adapter modules_to_save 'lm_head': expected a list"),
        ("{method: state, tokens: 1}", "adapter tokens is 1"),
        ("{method: state, r: 4}", "adapter method state has no 'r'"),
        ("{method: bone, r: -1}", "adapter r is -1"),
        ("{method: miss, init: mini, mini_r: 0}", "adapter mini_r is 0"),
        ("{method: miss, mini_r: 2}", "adapter mini_r goes with init: mini"),
        ("{method: nothing}", "adapter method 'nothing'"),
        ("{method: [lora]}", "adapter method ['lora']"),
        ("{}", "adapter method None"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_when_the_recipe_is_read(adapter, complaint, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with pytest.raises(ValueError) as error:
        load_recipe(path, [f"adapter={adapter}"])
    assert str(error.value).startswith(f"{path}: {complaint}")


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

    def test_nor_are_buffers_that_are_saved_with_them(self, recipe, tmp_path):
        trainer = run_recipe(recipe, ("trainer.save_strategy=no",))
        trainer.model.model.norm.register_buffer("running_mean", torch.tensor([float("inf")]))
        trainer.model.model.norm.register_buffer("mask", torch.tensor([float("-inf")]), persistent=False)
        with pytest.raises(ValueError, match=r"1 tensors are not finite, for example model\.norm\.running_mean"):
            trainer.save_model(str(tmp_path / "saved"))

    def test_what_transformers_refuses_is_led_by_the_file(self, recipe):
        settings = ("trainer.load_best_model_at_end=true", "trainer.save_strategy=epoch")
        with pytest.raises(ValueError, match=r"recipe\.yaml: trainer: .*load_best_model_at_end") as error:
            run_recipe(recipe, settings)
        assert "\n" not in str(error.value)

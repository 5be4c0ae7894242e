# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A recipe: one YAML file that says all of a training run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import yaml

from ...adapters import check_adapter
from ...data.mixture import slice_bounds
from ...processing.chat_templates import ERA_CHAT_TEMPLATES
from ...processing.chat_templates_e7 import E7_CHAT_TEMPLATES
from ..trainer.parameter_selectors import ALL_PARTS, trains_anything
from .arguments import RWKVTrainingArguments
from .hooks import check_hook, is_hook
from .ranges import (
    DATA_RANGES,
    GENERATION_RANGES,
    MODEL_RANGES,
    RECIPE_RANGES,
    SAMPLE_RANGES,
    TRAINER_RANGES,
    check_ranges,
)
from .typed_yaml import build, check_keys, read_yaml, set_value


# Of composites that are put together, by name
COMPOSITE_TEMPLATES = ERA_CHAT_TEMPLATES | E7_CHAT_TEMPLATES

_SET_BY_RECIPE = ("output_dir",)
SHIPPED_RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass
class ModelSpec:
    """Where the model comes from: exactly one of `path`, `text`, `config` and `build`. A text alone is the `path`.

    Attributes:
        path: Folder or Hub id of a model.
        text: Folder or Hub id of a text model, to which `vision` and `audio` encoders are added, each with a new
            projector.
        vision: Folder or Hub id of a vision encoder; a list of those of DINOv2 with registers, SigLIP and SAM makes a
            VisualRWKV.
        audio: Folder or Hub id of an audio encoder.
        chat_template: Of such a composite: an era of WorldRWKV, a template of E7 (`docs/conversion.md`), or a file of
            Jinja.
        config: Fields of the configuration: of such a composite, or with `model_type` of a new model.
        build: Python, "file.py:function", that returns a model and its processor.
        options: Arguments of that function.
        dtype: Of the weights that are trained; mixed precision is `bf16` of the trainer.
        bits: 8 or 4: the large matrices of the model at `path` are quantised, for an adapter to be trained on them.
    """

    SHORTHAND: ClassVar[str] = "path"

    path: str | None = None
    text: str | None = None
    vision: str | list[str] | None = None
    audio: str | None = None
    chat_template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    build: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    bits: int | None = None

    def __post_init__(self):
        given = [name for name in ("path", "text", "build") if getattr(self, name) is not None]
        if not given and self.config:
            given = ["config"]
        if len(given) != 1:
            raise ValueError(f"expected one of path, text, config and build, got {' and '.join(given) or 'none'}")
        if self.bits is not None and self.path is None:
            raise ValueError("bits goes with path: a model is quantised as it is loaded")
        if self.text is not None and self.vision is None and self.audio is None:
            raise ValueError("text needs vision or audio beside it; a text model alone is given as path")
        if self.chat_template not in (None, *COMPOSITE_TEMPLATES) and not Path(self.chat_template).is_file():
            eras = ", ".join(COMPOSITE_TEMPLATES)
            raise ValueError(f"chat_template {self.chat_template!r} is neither one of {eras} nor a file")


@dataclass
class DataSpec:
    """Some data. A text alone is the `path`.

    Attributes:
        path: A file or folder.
        format: A name of `data.formats.FORMATS`, or Python, "file.py:function"; told from the file by default.
        options: Of the format's reader.
        split: A slice of the rows, as "[:90%]".
        weight: How often the rows are read in an epoch.
    """

    SHORTHAND: ClassVar[str] = "path"

    path: str
    format: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    split: str | None = None
    weight: float = 1.0

    def __post_init__(self):
        if self.split is not None:
            slice_bounds(self.split)


@dataclass
class SampleSpec:
    """How rows become tokens, see [`ConversationCollator`]."""

    max_length: int | None = None
    labels: str = "assistant"
    mask_first_tokens: int = 0
    packing: bool = False
    strict: bool = False

    def __post_init__(self):
        if self.packing and self.max_length is None:
            raise ValueError("packing needs max_length, the tokens of a packed row")


@dataclass
class GenerationSpec:
    """Evaluation by generation, see [`GenerationEvaluator`]; `metric` may be Python, "file.py:function"."""

    metric: str = "exact_match"
    rows: int = 64
    max_new_tokens: int = 64
    batch_size: int = 8


@dataclass
class Recipe:
    """All of a training run. Paths are relative to the current folder, Python files to the recipe's.

    Attributes:
        output_dir: Folder for checkpoints, logs and the trained model.
        model: Where the model comes from.
        data: What it learns from.
        processor: Folder or Hub id of its processor or tokenizer, if it is not the model's.
        train: Parts of the model to train, of `parts.PARTS`; all by default. With an adapter, parts other than "text"
            that are trained beside it and saved with it; none by default.
        freeze: Parts of these that stay as they are.
        adapter: Adapter by which to train, as {method: lora, r: 32}, see [`adapters.attach_adapter`].
        auxiliary: Python, "file.py:Class", a loss beside the model's, see [`AuxiliaryLoss`].
        eval_data: What it is evaluated on.
        eval_share: In place of `eval_data`, the share of the rows of `data` that are held out for it, as 0.05.
        samples: How rows become tokens.
        generation: Evaluation by generation.
        trainer: Fields of [`RWKVTrainingArguments`].
        folder: Where the recipe is.
    """

    output_dir: str
    model: ModelSpec
    data: list[DataSpec]
    processor: str | None = None
    train: list[str] | None = None
    freeze: list[str] = field(default_factory=list)
    adapter: dict[str, Any] | None = None
    auxiliary: str | None = None
    eval_data: list[DataSpec] = field(default_factory=list)
    eval_share: float | None = None
    samples: SampleSpec = field(default_factory=SampleSpec)
    generation: GenerationSpec | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    folder: Path = field(default=Path(), init=False)


def find_recipe(name: str) -> Path:
    """The path of a recipe, given as a path or as the name of one that comes with the package.

    Raises:
        FileNotFoundError: If there is neither.
    """
    shipped = SHIPPED_RECIPES / f"{name}.yaml"
    if Path(name).is_file() or not shipped.is_file():
        if not Path(name).is_file():
            names = ", ".join(sorted(path.stem for path in SHIPPED_RECIPES.glob("*.yaml")))
            raise FileNotFoundError(f"{name}: no such recipe; the package has {names}")
        return Path(name)
    return shipped


def load_recipe(path: str | Path, assignments: Iterable[str] = ()) -> tuple[Recipe, str]:
    """Reads a recipe.

    Args:
        path: The YAML file.
        assignments: Changes to it, as "trainer.max_steps=100".

    Returns:
        The recipe, and its YAML text with the changes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown or missing, or a value is not what it should be; names file and key.
    """
    path = Path(path)
    content = read_yaml(path)
    for assignment in assignments:
        set_value(content, assignment)
    recipe = build(Recipe, content, str(path))
    recipe.folder = path.resolve().parent
    _check_trainer(recipe.trainer, f"{path}: trainer")
    _check_ranges(recipe, f"{path}: ")
    if not recipe.data:
        raise ValueError(f"{path}: data: the list is empty")
    _check_evaluation(recipe, f"{path}: ")
    _check_parts(recipe, f"{path}: ")
    _check_hooks(recipe, f"{path}: ")
    return recipe, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _check_evaluation(recipe: Recipe, where: str) -> None:
    if recipe.eval_data and recipe.eval_share is not None:
        raise ValueError(
            f"{where}eval_data and eval_share both say what is evaluated on; --set eval_share=null leaves eval_data"
        )
    strategy = recipe.trainer.get("eval_strategy", "no")
    if strategy != "no" and not recipe.eval_data and recipe.eval_share is None:
        raise ValueError(
            f"{where}trainer.eval_strategy is {strategy!r}, but there is neither eval_data nor eval_share"
        )


def _check_parts(recipe: Recipe, where: str) -> None:
    """Refuses a choice of parts, or an adapter, with which no model could be trained."""
    if recipe.adapter is not None:
        try:
            check_adapter(recipe.adapter)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from error
    elif recipe.train == []:
        raise ValueError(f"{where}train: the list is empty, so nothing would be trained; leave it out to train all")
    elif not trains_anything(recipe.train or ALL_PARTS, recipe.freeze):
        raise ValueError(f"{where}train is {recipe.train} and freeze is {recipe.freeze}, so nothing would be trained")


def _check_hooks(recipe: Recipe, where: str) -> None:
    named = {"model.build": recipe.model.build, "auxiliary": recipe.auxiliary}
    words = {
        f"{key}.{index}.format": spec.format
        for key in ("data", "eval_data")
        for index, spec in enumerate(getattr(recipe, key))
    }
    words["generation.metric"] = recipe.generation and recipe.generation.metric
    named |= {key: word for key, word in words.items() if word is not None and is_hook(word)}
    for key, name in named.items():
        try:
            if name is not None:
                check_hook(name, recipe.folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{where}{key}: {error}") from error


def _check_ranges(recipe: Recipe, where: str) -> None:
    check_ranges(vars(recipe), RECIPE_RANGES, where)
    check_ranges(vars(recipe.model), MODEL_RANGES, f"{where}model.")
    for name in ("data", "eval_data"):
        for index, spec in enumerate(getattr(recipe, name)):
            check_ranges(vars(spec), DATA_RANGES, f"{where}{name}.{index}.")
    check_ranges(vars(recipe.samples), SAMPLE_RANGES, f"{where}samples.")
    if recipe.generation is not None:
        check_ranges(vars(recipe.generation), GENERATION_RANGES, f"{where}generation.")
    check_ranges(recipe.trainer, TRAINER_RANGES, f"{where}trainer.")
    for first, second in (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval")):
        if recipe.trainer.get(first) and recipe.trainer.get(second):
            raise ValueError(f"{where}trainer.{first} and trainer.{second} are both true; a run has one precision")
    rates = recipe.trainer.get("part_learning_rates")
    for part, rate in (json.loads(rates) if isinstance(rates, str) else rates or {}).items():
        check_ranges(
            {"part_learning_rates": part}, {"part_learning_rates": RECIPE_RANGES["train"]}, f"{where}trainer."
        )
        check_ranges({part: rate}, {part: TRAINER_RANGES["learning_rate"]}, f"{where}trainer.part_learning_rates.")


def _check_trainer(content: dict[str, Any], where: str) -> None:
    hints = get_type_hints(RWKVTrainingArguments)
    names = [name for name in RWKVTrainingArguments.__dataclass_fields__ if name not in _SET_BY_RECIPE]
    check_keys(content, names, where)
    for key, value in content.items():
        content[key] = build(hints[key], value, f"{where}.{key}")

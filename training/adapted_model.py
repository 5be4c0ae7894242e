# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The model of a recipe with the recipe's adapter: what is trained is small, and what is saved is that alone."""

from pathlib import Path

from torch import nn
from transformers import PreTrainedModel

from ..adapters import attach_adapter
from ..configuration.optional_libraries import optional_imports
from ..conversion.output import usual_mode
from .checkpoint.checkpoints import write_atomically
from .recipe.recipe import Recipe
from .trainer.parameter_selectors import parts_of


with optional_imports():
    from peft import PeftModel


BASE_FOLDER = "base"  # in the output folder: a base model that was put together by the recipe


def adapt(model: PreTrainedModel, recipe: Recipe, processor, is_main_process: bool) -> PeftModel:
    """Puts the adapter of a recipe on its model, which then alone is trained, beside the parts that `train` names.

    A model that is in no folder yet is saved, so that the adapter can name the model that it belongs to.

    Args:
        model: The model.
        recipe: With an `adapter`.
        processor: Of the model.
        is_main_process: Whether this is the process that saves.

    Raises:
        ValueError: If the settings are wrong or do not go with the model.
    """
    if recipe.freeze:
        raise ValueError(
            "freeze does not go with adapter, which freezes all but itself and the parts that train names"
        )
    if recipe.model.path is None and not model.name_or_path:
        base = Path(recipe.output_dir, BASE_FOLDER)
        model.name_or_path = str(base)
        if is_main_process and not base.exists():
            _save(model, processor, base)
    spec = dict(recipe.adapter)
    if recipe.train:
        spec["modules_to_save"] = [*(spec.get("modules_to_save") or []), *modules_of_parts(model, recipe.train)]
    return attach_adapter(model, spec)


def modules_of_parts(model: nn.Module, parts: list[str]) -> list[str]:
    """Full names of the modules that the parts consist of.

    Raises:
        ValueError: If a part is not a module of its own that an adapter leaves alone.
    """
    if "text" in parts:
        raise ValueError("train: text does not go with adapter, which stands for it; leave it out")
    modules = set()
    for name, _ in model.named_parameters():
        if set(parts) & set(parts_of(name)):
            modules.add(_module_of_part(name))
    return sorted(modules)


def _module_of_part(parameter: str) -> str:
    """The name of the tower, projector, embedding or head that a parameter is in."""
    names = parameter.split(".")
    ends = ("_tower", "_projector", "_projectors", "embeddings", "lm_head")
    last = next(index for index, name in enumerate(names) if name.endswith(ends))
    # Of a list of projectors, which PEFT does not train whole, each by itself
    return ".".join(names[: last + 1 + names[last].endswith("_projectors")])


def _save(model: PreTrainedModel, processor, folder: Path) -> None:
    partial = folder.with_name(f"_{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)

    def write() -> None:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        usual_mode(*partial.glob("*.safetensors"))

    write_atomically(write, folder.parent, "the base model")
    partial.rename(folder)

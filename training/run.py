# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Carries out a recipe."""

import os
from pathlib import Path

from torch import nn
from torch.utils.data import IterableDataset
from transformers import set_seed

from .adapted_model import adapt
from .arguments import RWKVTrainingArguments
from .auxiliary import WithAuxiliaryLoss
from .checkpoints import last_checkpoint, write_whole
from .collator import ConversationCollator
from .data.formats import read_data
from .data.mixture import mix, part_of
from .data.skipped_rows import SKIPPED_ROWS_FILE, SkippedRows
from .data.streams import EndlessRows
from .generation_evaluation import GenerationEvaluator
from .hooks import is_hook, load_hook
from .interruption import StopOnSignal
from .models import build_model
from .parts import check_parts, set_trainable
from .recipe import Recipe, load_recipe
from .trainer import RWKVTrainer


RECIPE_FILE = "recipe.yaml"
ROWS_TRIED = 8  # rows that are encoded before training, of which one must be good


def run_recipe(path: str | Path, assignments: tuple[str, ...] = (), resume: bool = False) -> RWKVTrainer:
    """Trains as a recipe says, and saves the model with its processor and the recipe in the output folder.

    Ctrl-C or SIGTERM ends the run after the step with a checkpoint, and nothing but that is saved.

    Args:
        path: The recipe.
        assignments: Changes to it, see [`load_recipe`].
        resume: Whether to go on from the last whole checkpoint of the output folder.

    Raises:
        ValueError: If the recipe, the data or the model is not as it should be.
        OSError: If something cannot be read or written.
        KeyboardInterrupt: If a signal ended the run; says how to go on.
    """
    recipe, text = load_recipe(path, assignments)
    arguments = RWKVTrainingArguments(output_dir=recipe.output_dir, **recipe.trainer)
    _check_processes(arguments)
    checkpoint = _checkpoint(arguments, resume)
    if arguments.dataloader_num_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the workers are parallel already
    trainer = build_trainer(recipe, arguments)
    if trainer.is_world_process_zero():
        Path(recipe.output_dir).mkdir(parents=True, exist_ok=True)
        Path(recipe.output_dir, RECIPE_FILE).write_text(text, encoding="utf-8")
    stop = StopOnSignal()
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        stop.restore()
    if stop.received is not None and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt(
            f"{recipe.output_dir}: stopped by {stop.received.name} after step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}, with a checkpoint; the same command with --resume goes on"
        )
    trainer.save_state()  # first: the card of an adapter holds its figures
    write_whole(trainer.save_model, Path(recipe.output_dir), "the trained model")
    return trainer


def build_trainer(recipe: Recipe, arguments: RWKVTrainingArguments) -> RWKVTrainer:
    """The trainer of a recipe, ready to train."""
    set_seed(arguments.seed)
    model, processor = build_model(recipe)
    check_parts(arguments.part_learning_rates or {}, model)
    if recipe.adapter is not None:
        check_parts(recipe.train or [], model)
        model = adapt(model, recipe, processor, arguments.process_index == 0)
    elif recipe.train is not None or recipe.freeze:
        set_trainable(model, recipe.train or ["text", "projector", "encoder"], recipe.freeze)
    collator = ConversationCollator(
        processor, **vars(recipe.samples), skipped=SkippedRows(Path(recipe.output_dir, SKIPPED_ROWS_FILE))
    )
    rows = _read(recipe, "data", arguments.seed)
    _check_rows(rows, collator)
    eval_rows = _read(recipe, "eval_data", arguments.seed) if recipe.eval_data else None
    evaluator = _evaluator(recipe, collator)
    if recipe.auxiliary is not None:
        model = _with_auxiliary(model, processor, collator, recipe)
    return RWKVTrainer(
        model,
        arguments,
        processing_class=processor,
        train_dataset=EndlessRows(rows) if isinstance(rows, IterableDataset) else rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        generation_evaluator=evaluator,
    )


def _check_processes(arguments: RWKVTrainingArguments) -> None:
    """Refuses to train apart what was launched together: each process would write into the same folder."""
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and arguments.world_size == 1:
        raise ValueError(
            f"{launched} processes were launched, but they do not form a group: on a machine without GPUs set "
            "trainer.use_cpu=true (and launch with a configuration, as ddp.yaml; `accelerate launch --cpu` starts one)"
        )


def _checkpoint(arguments: RWKVTrainingArguments, resume: bool) -> Path | None:
    """The checkpoint to go on from, if any."""
    output_dir = arguments.output_dir
    found = last_checkpoint(output_dir)
    if found is not None and not resume:
        raise ValueError(
            f"{output_dir}: holds {found.name} of an earlier run: --resume it, or choose another output_dir"
        )
    if resume and found is None:
        raise ValueError(f"{output_dir}: holds no whole checkpoint to --resume; leave that out to begin")
    if resume and arguments.process_index == 0:
        print(f"resuming {found}")
    return found


def _read(recipe: Recipe, key: str, seed: int):
    """The rows of all data under a key of the recipe."""
    sets, specs, folder = [], getattr(recipe, key), recipe.folder
    for index, spec in enumerate(specs):
        form = load_hook(spec.format, folder) if spec.format is not None and is_hook(spec.format) else spec.format
        rows = read_data(spec.path, form, **spec.options)
        sets.append(rows if spec.split is None else part_of(rows, spec.split))
        if isinstance(rows, IterableDataset):
            continue
        if len(rows) == 0:
            raise ValueError(f"{spec.path}: holds no rows")
        if len(sets[-1]) == 0:
            raise ValueError(f"{key}.{index}.split is {spec.split!r}, but {spec.path} has {len(rows)} rows")
    return mix(sets, [spec.weight for spec in specs], seed)


def _check_rows(rows, collator: ConversationCollator) -> None:
    """Encodes the first rows, so that data of another kind is told at once."""
    first = iter(rows) if isinstance(rows, IterableDataset) else (rows[index] for index in range(len(rows)))
    tried = [row for row, _ in zip(first, range(ROWS_TRIED), strict=False)]
    collator.check(tried)


def _evaluator(recipe: Recipe, collator: ConversationCollator) -> GenerationEvaluator | None:
    if recipe.generation is None:
        return None
    options = vars(recipe.generation).copy()
    if is_hook(options["metric"]):
        options["metric"] = load_hook(options["metric"], recipe.folder)
    return GenerationEvaluator(collator, **options)


def _with_auxiliary(model: nn.Module, processor, collator: ConversationCollator, recipe: Recipe) -> WithAuxiliaryLoss:
    auxiliary = load_hook(recipe.auxiliary, recipe.folder)(model, processor)
    collator.targets = auxiliary.targets
    return WithAuxiliaryLoss(model, auxiliary)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Carries out a recipe."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn
from torch.utils.data import IterableDataset
from transformers import set_seed

from ..data.formats import UnknownOptionError, read_data
from ..data.mixture import hold_out, mix, part_of
from ..data.skipped_rows import SKIPPED_ROWS_FILE, SkippedRows
from ..data.streams import EndlessRows
from .adapted_model import adapt
from .auxiliary import WithAuxiliaryLoss
from .checkpoint.checkpoints import last_checkpoint, write_atomically
from .models import build_model
from .recipe.arguments import RWKVTrainingArguments
from .recipe.hooks import is_hook, load_hook
from .recipe.recipe import Recipe, load_recipe
from .trainer.collator import ConversationCollator
from .trainer.generation_evaluation import GenerationEvaluator
from .trainer.interruption import StopOnSignal
from .trainer.parameter_selectors import ALL_PARTS, check_parts, set_trainable
from .trainer.trainer import RWKVTrainer


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
    arguments = _arguments(recipe, f"{path}: trainer: ")
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
    write_atomically(trainer.save_model, Path(recipe.output_dir), "the trained model")
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
        set_trainable(model, recipe.train or ALL_PARTS, recipe.freeze)
    collator = ConversationCollator(
        processor, **vars(recipe.samples), skipped=SkippedRows(Path(recipe.output_dir, SKIPPED_ROWS_FILE))
    )
    rows, eval_rows = _read_rows(recipe, arguments.seed)
    _check_rows(rows, collator)
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


def _arguments(recipe: Recipe, where: str) -> RWKVTrainingArguments:
    try:
        return RWKVTrainingArguments(output_dir=recipe.output_dir, **recipe.trainer)
    except ValueError as error:
        raise ValueError(where + " ".join(str(error).split())) from error


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


def _read_rows(recipe: Recipe, seed: int) -> tuple:
    """The rows to train on, and those to evaluate on or `None`."""
    rows, held_out = (_read(recipe, key) for key in ("data", "eval_data"))
    if recipe.eval_share is None:
        return _mixed(recipe, "data", rows, seed), _mixed(recipe, "eval_data", held_out, seed) if held_out else None
    pairs = [_hold_out(part, recipe, index) for index, part in enumerate(rows)]
    rows, held_out = zip(*pairs, strict=True)
    return _mixed(recipe, "data", rows, seed), mix(held_out, [1] * len(held_out), seed)


def _read(recipe: Recipe, key: str) -> list:
    """The set of every entry under a key of the recipe.

    Raises:
        ValueError: If one has no rows, by key and file.
    """
    sets, folder = [], recipe.folder
    for index, spec in enumerate(getattr(recipe, key)):
        form = load_hook(spec.format, folder) if spec.format is not None and is_hook(spec.format) else spec.format
        try:
            whole = read_data(spec.path, form, **spec.options)
        except UnknownOptionError as error:
            raise ValueError(f"{key}.{index}.options: {error}") from error
        if not _has_rows(whole):
            raise ValueError(f"{spec.path}: holds no rows")
        try:
            sets.append(whole if spec.split is None else part_of(whole, spec.split))
        except ValueError as error:
            raise ValueError(f"{key}.{index}.{error}") from error
        if not _has_rows(sets[-1]):
            count = "no more rows" if isinstance(whole, IterableDataset) else f"{len(whole)} rows"
            raise ValueError(f"{key}.{index}.split is {spec.split!r}, but {spec.path} has {count}")
    return sets


def _has_rows(rows) -> bool:
    return next(iter(rows), None) is not None if isinstance(rows, IterableDataset) else len(rows) > 0


def _hold_out(rows, recipe: Recipe, index: int) -> tuple:
    where = f"data.{index}: eval_share"
    if isinstance(rows, IterableDataset):
        raise ValueError(
            f"{where} needs the number of rows, which a stream does not have: --set eval_share=null, give data the "
            "split [500:] and eval_data the split [:500]"
        )
    if len(rows) == 1:
        raise ValueError(f"{where} leaves nothing: there is one row in {recipe.data[index].path}")
    return hold_out(rows, recipe.eval_share)


def _mixed(recipe: Recipe, key: str, sets: Sequence, seed: int):
    """The sets of the entries under a key as one, by their weights."""
    specs = getattr(recipe, key)
    for index, (spec, rows) in enumerate(zip(specs, sets, strict=True)):
        if not isinstance(rows, IterableDataset) and round(spec.weight * len(rows)) == 0:
            raise ValueError(
                f"{key}.{index}.weight is {spec.weight}, which leaves nothing: {spec.path} has {len(rows)} rows"
            )
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

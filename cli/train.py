# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world train`: one recipe, one run."""

import argparse
import sys
from contextlib import nullcontext

from .console import PROGRAM, quiet_libraries


_EPILOG = f"""\
examples:
  {PROGRAM} train recipe.yaml
  {PROGRAM} train recipe.yaml --set trainer.learning_rate=2e-5 --set output_dir=runs/second
  {PROGRAM} train recipe.yaml --resume
  {PROGRAM} train worldrwkv_stage1 --set model.text=rwkv7-0.4b --set data.0.path=blip_laion_cc_sbu_558k.json
  {PROGRAM} train lora_sft --set model=rwkv7-1.5b --set data.0.path=chat.jsonl
  accelerate launch --config_file training/configs/ddp.yaml -m rwkv7_world.cli.main train recipe.yaml
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "train",
        help="train a model as a recipe says",
        description="Trains a model as a recipe says, a YAML file. The model, its processor and the recipe end up in "
        "the recipe's output_dir.",
        epilog=_EPILOG,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one that comes with the package")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="change a value of the recipe, as trainer.max_steps=100; repeatable",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint of output_dir")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the recipe, its data or model is not as it should be.
        OSError: If something cannot be read or written.
        KeyboardInterrupt: If a signal ended the run.
    """
    import datasets

    from ..training.recipe.recipe import find_recipe
    from ..training.run import run_recipe

    if not args.debug:
        datasets.disable_progress_bars()
    try:
        with nullcontext() if args.debug else quiet_libraries():
            trainer = run_recipe(find_recipe(args.recipe), tuple(args.assignments), args.resume)
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # the first signal, after which a checkpoint was saved
            print(interrupt, file=sys.stderr)
        raise
    if trainer.is_world_process_zero():
        print(f"{trainer.args.output_dir}: trained for {trainer.state.global_step} steps")

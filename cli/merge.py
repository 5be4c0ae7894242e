# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world merge`: a model and an adapter of PEFT become one model."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, quiet_libraries
from .loading import DTYPES, describe_quantization, load_config, load_model, load_processor, pick_device, save_folder


_EPILOG = f"""\
examples:
  {PROGRAM} merge rwkv7-0.1b my-lora rwkv7-0.1b-mine
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "merge",
        help="write a model with an adapter of PEFT merged into it",
        description="Merges an adapter of PEFT into the weights of its model, and writes both as one model.",
        epilog=_EPILOG,
    )
    parser.add_argument("base", metavar="BASE", help="folder with the adapter's model, or its id on the Hub")
    parser.add_argument("adapter", metavar="ADAPTER", help="folder with the adapter, or its id on the Hub")
    parser.add_argument("destination", metavar="OUT", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the adapter is of another model or cannot be merged, or the destination is taken.
        OSError: If something cannot be read or written.
    """
    from ..conversion.output import whole_folder

    with nullcontext() if args.debug else quiet_libraries(), whole_folder(args.destination) as folder:
        config = load_config(args.base)
        if quantization := describe_quantization(config):
            raise ValueError(f"{args.base}: is quantised ({quantization}), and nothing can be merged into it")
        from ..adapters import load_adapter

        adapted = load_adapter(load_model(config, args.dtype, pick_device("cpu")), args.adapter)
        if not hasattr(adapted.base_model, "merge_and_unload"):
            method = adapted.peft_config["default"].peft_type.value
            raise ValueError(f"{args.adapter}: {method} changes no weights, so that it cannot be merged")
        size = save_folder(adapted.merge_and_unload(), load_processor(config), folder)
    print(f"{args.destination}: {args.base} with {args.adapter} merged, {size:,} bytes of weights")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world quantize`: a model folder with weights of 8 or 4 bits."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, quiet_libraries
from .loading import QUANTIZED_BITS, load_config, load_model, load_processor, pick_device, save_folder


_EPILOG = f"""\
examples:
  {PROGRAM} quantize rwkv7-1.5b rwkv7-1.5b-int8 --bits 8
  {PROGRAM} quantize rwkv7-1.5b rwkv7-1.5b-int4 --bits 4
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "quantize",
        help="write a model with weights of 8 or 4 bits",
        description="Writes a model whose large matrices have 8 or 4 bits; it loads as any folder does.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="FOLDER", help="folder with a model, or its id on the Hugging Face Hub")
    parser.add_argument("destination", metavar="OUT", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--bits", type=int, choices=sorted(QUANTIZED_BITS.values()), required=True, help="of a weight")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the model cannot be quantised, or the destination is taken.
        OSError: If something cannot be read or written.
    """
    from ..conversion.output import whole_folder

    name = next(name for name, bits in QUANTIZED_BITS.items() if bits == args.bits)
    with nullcontext() if args.debug else quiet_libraries(), whole_folder(args.destination) as folder:
        config = load_config(args.model)
        model = load_model(config, "auto", pick_device("cpu"), name)
        size = save_folder(model, load_processor(config), folder)
    print(f"{args.destination}: {args.bits} bits, {size:,} bytes of weights")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert`: published checkpoints to Hub-ready folders, and back."""

import argparse
import re
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, quiet_libraries
from .loading import DTYPES


DEFAULT_SHARD_SIZE = "5GB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_EPILOG = f"""\
examples:
  {PROGRAM} convert RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth rwkv7-0.1b
  {PROGRAM} convert rwkv7-0.1b rwkv7-0.1b.pth --to blinkdl
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "convert",
        help="turn BlinkDL's .pth files into Hub-ready folders, and back",
        description="Converts an RWKV-7 checkpoint; every tensor keeps its exact numbers unless --dtype is given.",
        epilog=_EPILOG,
    )
    parser.add_argument("source", metavar="SRC", type=Path, help="a .pth file; with --to blinkdl a model folder")
    parser.add_argument("destination", metavar="DST", type=Path, help="what to write; must not exist yet")
    parser.add_argument("--to", choices=("hub", "blinkdl"), default="hub", help="format to write (default: hub)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as they are)")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        type=_shard_size,
        default=DEFAULT_SHARD_SIZE,
        help="largest weight file of a folder, as 500MB or 5GB (default: %(default)s)",
    )
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the source is not what it should be, or the destination is taken.
        OSError: If something cannot be read or written.
    """
    import torch

    from ..conversion import convert_to_blinkdl, convert_to_hub

    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    with nullcontext() if args.debug else quiet_libraries():
        if args.to == "hub":
            done = convert_to_hub(args.source, args.destination, dtype, args.max_shard_size, show_progress=True)
        else:
            done = convert_to_blinkdl(args.source, args.destination, dtype, show_progress=True)
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in done.dtypes)
    size = f"{done.parameters:,} numbers in {dtypes}, {done.sizes.layers} layers of {done.sizes.hidden}"
    print(f"{args.destination}: {size}")
    if args.to == "hub" and not done.has_tokenizer:
        print(f"no tokenizer: a vocabulary of {done.sizes.vocab} is not that of the World models")
    if done.kept_aside:
        print(f"kept aside for the way back: {', '.join(done.kept_aside)}")


def _shard_size(text: str) -> int:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B)", text.strip(), flags=re.IGNORECASE)
    size = int(float(parts[1]) * _UNITS[parts[2].upper()]) if parts else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 5GB")
    return size

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert`: published checkpoints and adapters to folders of the Hub's format, and back."""

import argparse
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .console import PROGRAM, number, quiet_libraries
from .loading import DTYPES


if TYPE_CHECKING:
    import torch

    from ..conversion.worldrwkv import WorldConversion


DEFAULT_SHARD_SIZE = "5GB"
_WORLD_OPTIONS = ("era", "encoder", "template", "speech_padding", "whole_window")
_ADAPTER_OPTIONS = ("base", "alpha", "init_pissa", "merge")
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_EPILOG = f"""\
examples:
  {PROGRAM} convert RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth rwkv7-0.1b
  {PROGRAM} convert rwkv7-0.1b rwkv7-0.1b.pth --to blinkdl
  {PROGRAM} convert RWKV7-0.4B-siglip2/rwkv-0.pth rwkv7-0.4b-siglip2 --encoder google/siglip2-base-patch16-384
  {PROGRAM} convert rwkv-0.pth adapter --base rwkv7-0.1b --alpha 32
  {PROGRAM} convert adapter rwkv-peft.pth --to rwkv-peft
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "convert",
        help="turn BlinkDL's, WorldRWKV's and RWKV-PEFT's .pth files into Hub-ready folders, and back",
        description="Converts an RWKV-7 checkpoint, text model or WorldRWKV with its encoder, or an adapter of "
        "RWKV-PEFT; every tensor keeps its exact numbers unless --dtype is given.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="a .pth file, or ModRWKV's folder; with --to a text model's or an adapter's folder",
    )
    parser.add_argument("destination", metavar="DST", type=Path, help="what to write; must not exist yet")
    parser.add_argument(
        "--to", choices=("hub", "blinkdl", "rwkv-peft"), default="hub", help="format to write (default: hub)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as they are)")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        type=_shard_size,
        default=DEFAULT_SHARD_SIZE,
        help="largest weight file of a folder, as 500MB or 5GB (default: %(default)s)",
    )
    _add_world_options(parser)
    _add_adapter_options(parser)
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the source is not what it should be, or the destination is taken.
        OSError: If something cannot be read or written.
    """
    with nullcontext() if args.debug else quiet_libraries():
        if args.to == "rwkv-peft":
            _export_adapter(args)
        elif _is_adapter(args):
            _convert_adapter(args)
        else:
            _convert_model(args)


def _is_adapter(args: argparse.Namespace) -> bool:
    from ..conversion import holds_rwkv_peft

    given = [name for name in _ADAPTER_OPTIONS if getattr(args, name)]
    is_adapter = args.to == "hub" and holds_rwkv_peft(args.source)
    if given and not is_adapter:
        raise ValueError(f"--{given[0].replace('_', '-')} is for converting RWKV-PEFT's adapters, not {args.source}")
    if is_adapter and args.base is None:
        kind = "an adapter of RWKV-PEFT or a trained state"
        raise ValueError(f"{args.source}: {kind}; give the folder of its model with --base")
    return is_adapter


def _convert_adapter(args: argparse.Namespace) -> None:
    from ..conversion.rwkv_peft import convert_rwkv_peft

    done = convert_rwkv_peft(args.source, args.destination, args.base, args.alpha, args.init_pissa, args.merge)
    rank = f" of rank {done.rank}" if done.rank else ""
    kind = "the whole model, with merged weights" if done.merged else "an adapter of PEFT"
    print(f"{args.destination}: {kind}, from {done.method}{rank}, {done.tensors} tensors")


def _export_adapter(args: argparse.Namespace) -> None:
    from ..conversion.rwkv_peft_export import export_rwkv_peft

    done = export_rwkv_peft(args.source, args.destination, _dtype(args))
    alpha = "" if done.alpha is None else f"; the file does not tell alpha, which is {done.alpha:g}"
    print(f"{args.destination}: {done.method}, {done.tensors} tensors{alpha}")


def _dtype(args: argparse.Namespace) -> "torch.dtype | None":
    import torch

    return None if args.dtype == "auto" else getattr(torch, args.dtype)


def _convert_model(args: argparse.Namespace) -> None:
    from ..conversion import convert_to_blinkdl, convert_to_hub, convert_worldrwkv, holds_worldrwkv

    dtype = _dtype(args)
    world_options = {name: getattr(args, name) for name in _WORLD_OPTIONS if getattr(args, name) is not None}
    is_world = args.to == "hub" and holds_worldrwkv(args.source)
    if world_options and not is_world:
        option = "--" + next(iter(world_options)).replace("_", "-")
        raise ValueError(f"{option} is for converting WorldRWKV's checkpoints, not {args.source}")
    if is_world:
        sizes = {"dtype": dtype, "max_shard_size": args.max_shard_size}
        done = convert_worldrwkv(args.source, args.destination, show_progress=True, **sizes, **world_options)
    elif args.to == "hub":
        done = convert_to_hub(args.source, args.destination, dtype, args.max_shard_size, show_progress=True)
    else:
        done = convert_to_blinkdl(args.source, args.destination, dtype, show_progress=True)
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in done.dtypes)
    size = f"{done.parameters:,} numbers in {dtypes}, {done.sizes.layers} layers of {done.sizes.hidden}"
    print(f"{args.destination}: {size}")
    if is_world:
        _print_world(done)
        return
    if args.to == "hub" and not done.has_tokenizer:
        print(f"no tokenizer: a vocabulary of {done.sizes.vocab} is not that of the World models")
    if done.kept_aside:
        print(f"kept aside for the way back: {', '.join(done.kept_aside)}")


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("WorldRWKV's checkpoints: what a file does not tell")
    group.add_argument("--era", metavar="E1..E6", help="when it was trained (default: what names and shapes tell)")
    group.add_argument("--encoder", metavar="MODEL", help="folder or Hub id of its encoder (default: the usual one)")
    group.add_argument("--template", metavar="NAME", help="chat template: E1 to E6 or speech (default: of its era)")
    group.add_argument(
        "--speech-padding", metavar="N", type=int, choices=(0, 2), help="0 if trained before 2025-03-04 (default: 2)"
    )
    group.add_argument(
        "--whole-window", action="store_true", default=None, help="for Whisper trained before 2025-03-12"
    )


def _add_adapter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("RWKV-PEFT's adapters: what a file does not tell")
    group.add_argument("--base", metavar="MODEL", type=Path, help="folder of the model that it was trained for")
    group.add_argument(
        "--alpha",
        metavar="A",
        type=number(float, lambda value: 0 < value < float("inf"), "a number above 0"),
        help="of a LoRA",
    )
    group.add_argument("--init-pissa", metavar="FILE", type=Path, help="the init_pissa.pth of a PiSSA")
    group.add_argument(
        "--merge", action="store_true", help="write the whole model (always, where PEFT has no such adapter)"
    )


def _print_world(done: "WorldConversion") -> None:
    doubt = f" (it could be {' or '.join(done.other_eras)}: --era tells)" if done.other_eras else ""
    print(f"era {done.era}{doubt}, chat template {done.template}, encoder {done.encoder}")
    if done.kept_aside:
        print(f"left out, never used: {', '.join(done.kept_aside)}")


def _shard_size(text: str) -> int:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B)", text.strip(), flags=re.IGNORECASE)
    size = int(float(parts[1]) * _UNITS[parts[2].upper()]) if parts else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 5GB")
    return size

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert`: published checkpoints to Hub-ready folders, and back."""

import argparse
import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import PROGRAM, number, quiet_libraries
from .convert_adapters import RWKV_PEFT, add_adapter_options, convert_adapter, export_adapter, is_adapter
from .loading import DTYPES


if TYPE_CHECKING:
    import torch

    from ..conversion.blinkdl import Conversion
    from ..conversion.modrwkv import ModRWKVConversion
    from ..conversion.text_folders import TextConversion
    from ..conversion.visualrwkv import VisualConversion
    from ..conversion.worldrwkv import WorldConversion


DEFAULT_SHARD_SIZE = "5GB"
# Options that only some checkpoints take, and their names in the function that converts those
_WORLD_OPTIONS = {name: name for name in ("era", "encoder", "template", "speech_padding", "whole_window")}
_E7_OPTIONS = {name: name for name in ("dialect", "encoder", "template")}
_VISUAL_OPTIONS = {"encoder": "encoders", "tokens_per_image": "tokens_per_image"}
_TEXT_OPTIONS = {"template": "template"}
_OWNERS = {
    "WorldRWKV's": _WORLD_OPTIONS,
    "E7's": _E7_OPTIONS,
    "VisualRWKV's": _VISUAL_OPTIONS,
    "text models'": _TEXT_OPTIONS,
}
_FORMATS = ("hub", "fla", "official", "blinkdl", "visualrwkv", RWKV_PEFT)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_EPILOG = f"""\
examples:
  {PROGRAM} convert RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth rwkv7-0.1b
  {PROGRAM} convert rwkv7-0.1b rwkv7-0.1b.pth --to blinkdl
  {PROGRAM} convert RWKV7-1.5B-20260805 rwkv7-1.5b-fla --to fla
  {PROGRAM} convert finetuned.pth mine --template g1h
  {PROGRAM} convert RWKV7-0.4B-siglip2/rwkv-0.pth rwkv7-0.4b-siglip2 --encoder google/siglip2-base-patch16-384
  {PROGRAM} convert rwkv-step-2000.pth rwkv7-0.4b-qwen3.5 --dialect mod-rwkv
  {PROGRAM} convert VisualRWKV-v0700-0B1-v1.0-20250109.pth visualrwkv-0.1b
  {PROGRAM} convert rwkv-0.pth adapter --base rwkv7-0.1b --alpha 32
  {PROGRAM} convert adapter rwkv-peft.pth --to rwkv-peft
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "convert",
        help="turn checkpoints of RWKV-7, WorldRWKV, VisualRWKV, RWKV-PEFT into Hub-ready folders, and back",
        description="Converts an RWKV-7 checkpoint: a text model of any layout, WorldRWKV or VisualRWKV with their "
        "encoders, or an adapter of RWKV-PEFT; every tensor keeps its exact numbers unless --dtype is given.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        help="a .pth or .safetensors file, or a folder: of ours, fla's, the official layout, ModRWKV's, an adapter",
    )
    parser.add_argument("destination", metavar="DST", type=Path, help="what to write; must not exist yet")
    parser.add_argument("--to", choices=_FORMATS, default="hub", help="format to write (default: hub, our folder)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as they are)")
    parser.add_argument(
        "--max-shard-size",
        metavar="SIZE",
        type=_shard_size,
        default=DEFAULT_SHARD_SIZE,
        help="largest weight file of a folder, as 500MB or 5GB (default: %(default)s)",
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="chat template: of a text model world, g1, g1h or g1i (default: what its name tells); of WorldRWKV's E1 "
        "to E6 or speech (default: of its era); of E7 mod-rwkv, mod-rwkv-order, torchtitan or torchtitan-unspoken "
        "(default: of its dialect)",
    )
    _add_world_options(parser)
    add_adapter_options(parser)
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the source is not what it should be, or the destination is taken.
        OSError: If something cannot be read or written.
    """
    import torch

    dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
    with nullcontext() if args.debug else quiet_libraries():
        if args.to == RWKV_PEFT:
            export_adapter(args, dtype)
        elif is_adapter(args):
            convert_adapter(args)
        else:
            _convert_model(args, dtype)


def _convert_model(args: argparse.Namespace, dtype: "torch.dtype | None") -> None:
    done, details = _convert(args, dtype)
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in done.dtypes)
    size = f"{done.parameters:,} numbers in {dtypes}, {done.sizes.layers} layers of {done.sizes.hidden}"
    print(f"{args.destination}: {size}")
    for line in details:
        print(line)


def _convert(args: argparse.Namespace, dtype: "torch.dtype | None") -> tuple["Conversion", list[str]]:
    """Converts by the format of the source; what was made, and what there is to say of it."""
    from ..conversion import (
        convert_modrwkv,
        convert_to_blinkdl,
        convert_to_fla,
        convert_to_hub,
        convert_to_official,
        convert_to_visualrwkv,
        convert_visualrwkv,
        convert_worldrwkv,
        holds_modrwkv,
        holds_visualrwkv,
        holds_worldrwkv,
    )

    to_file = {"blinkdl": convert_to_blinkdl, "visualrwkv": convert_to_visualrwkv}.get(args.to)
    common = {"dtype": dtype, "show_progress": True}
    if to_file is not None:
        _options(args, {})
        return to_file(args.source, args.destination, **common), []
    common["max_shard_size"] = args.max_shard_size
    to_folder = {"fla": convert_to_fla, "official": convert_to_official}.get(args.to)
    if to_folder is not None:
        done = to_folder(args.source, args.destination, **common, **_options(args, _TEXT_OPTIONS))
        return done, _describe_text(done)
    # Without an encoder a file of E7 has the names of earlier eras
    if args.dialect is not None or holds_modrwkv(args.source):
        done = convert_modrwkv(args.source, args.destination, **common, **_with_one_encoder(args, _E7_OPTIONS))
        return done, _describe_e7(done)
    if holds_worldrwkv(args.source):
        options = _with_one_encoder(args, _WORLD_OPTIONS)
        done = convert_worldrwkv(args.source, args.destination, **common, **options)
        return done, _describe_world(done)
    if holds_visualrwkv(args.source):
        options = _options(args, _VISUAL_OPTIONS)
        done = convert_visualrwkv(args.source, args.destination, **common, **options)
        return done, _describe_visual(done)
    done = convert_to_hub(args.source, args.destination, **common, **_options(args, _TEXT_OPTIONS))
    return done, _describe_text(done)


def _options(args: argparse.Namespace, known: dict[str, str]) -> dict[str, Any]:
    """The given ones of all options that only some checkpoints take, by their names in `known`; refuses others."""
    given = [name for name in _WORLD_OPTIONS | _E7_OPTIONS | _VISUAL_OPTIONS if getattr(args, name) is not None]
    for name in given:
        if name not in known:
            owners = [owner for owner, names in _OWNERS.items() if name in names]
            option = "--" + name.replace("_", "-")
            whose = " and ".join([", ".join(owners[:-1])] * (len(owners) > 1) + owners[-1:])
            raise ValueError(f"{option} is for converting {whose} checkpoints, not {args.source}")
    return {known[name]: getattr(args, name) for name in given}


def _with_one_encoder(args: argparse.Namespace, known: dict[str, str]) -> dict[str, Any]:
    options = _options(args, known)
    if len(options.get("encoder", [])) > 1:
        raise ValueError(f"{args.source}: a checkpoint of WorldRWKV has one encoder, not {len(options['encoder'])}")
    return options | ({"encoder": options["encoder"][0]} if "encoder" in options else {})


def _add_world_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("WorldRWKV's and VisualRWKV's checkpoints: what a file does not tell")
    group.add_argument(
        "--encoder",
        metavar="MODEL",
        action="append",
        help="folder or Hub id of its encoder (default: the usual one); VisualRWKV: three times, DINOv2, SigLIP, SAM",
    )
    group.add_argument(
        "--tokens-per-image",
        metavar="N",
        type=number(int, lambda value: value >= 1, "a whole number of at least 1"),
        help="VisualRWKV: averages over patches, a square number (default: every patch is a token)",
    )
    group.add_argument("--era", metavar="E1..E6", help="when it was trained (default: what names and shapes tell)")
    group.add_argument(
        "--dialect",
        metavar="NAME",
        help="of E7: mod-rwkv, torchtitan-first or torchtitan (default: what names tell, else mod-rwkv)",
    )
    group.add_argument(
        "--speech-padding", metavar="N", type=int, choices=(0, 2), help="0 if trained before 2025-03-04 (default: 2)"
    )
    group.add_argument(
        "--whole-window", action="store_true", default=None, help="for Whisper trained before 2025-03-12"
    )


def _describe_text(done: "TextConversion") -> list[str]:
    lines = []
    if not done.has_tokenizer:
        lines.append(f"no tokenizer: a vocabulary of {done.sizes.vocab} is not that of the World models")
    if done.template is not None:
        lines.append(f"chat template {done.template}")
    if done.kept_aside:
        lines.append(f"kept aside for the way back: {', '.join(done.kept_aside)}")
    return lines


def _describe_world(done: "WorldConversion") -> list[str]:
    doubt = f" (it could be {' or '.join(done.other_eras)}: --era tells)" if done.other_eras else ""
    lines = [f"era {done.era}{doubt}, chat template {done.template}, encoder {done.encoder}"]
    return lines + ([f"left out, never used: {', '.join(done.kept_aside)}"] if done.kept_aside else [])


def _describe_e7(done: "ModRWKVConversion") -> list[str]:
    doubt = f" (it could be {' or '.join(done.other_dialects)}: --dialect tells)" if done.other_dialects else ""
    encoder = done.encoder or "its own"
    lines = [f"era E7, dialect {done.dialect}{doubt}, chat template {done.template}, encoder {encoder}"]
    return lines + ([f"left out, never used: {', '.join(done.kept_aside)}"] if done.kept_aside else [])


def _describe_visual(done: "VisualConversion") -> list[str]:
    towers = ", ".join(done.encoders) or "its own"
    lines = [f"VisualRWKV 7.00, {done.tokens_per_image} tokens a picture, towers: {towers}"]
    aside = f"kept aside for the way back: {len(done.kept_aside)} tensors that are never used"
    return lines + ([aside] if done.kept_aside else [])


def _shard_size(text: str) -> int:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]B)", text.strip(), flags=re.IGNORECASE)
    size = int(float(parts[1]) * _UNITS[parts[2].upper()]) if parts else 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 5GB")
    return size

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The part of `rwkv7-world convert` that is about RWKV-PEFT's adapters."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .console import number


if TYPE_CHECKING:
    import torch


RWKV_PEFT = "rwkv-peft"  # the format to write
_OPTIONS = ("base", "alpha", "init_pissa", "merge")


def add_adapter_options(parser: argparse.ArgumentParser) -> None:
    """Adds what a file of RWKV-PEFT does not tell."""
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


def is_adapter(args: argparse.Namespace) -> bool:
    """Whether the source is an adapter that RWKV-PEFT wrote.

    Raises:
        ValueError: If options and source do not go together.
    """
    from ..conversion import holds_rwkv_peft

    given = [name for name in _OPTIONS if getattr(args, name)]
    is_adapter = args.to == "hub" and holds_rwkv_peft(args.source)
    if given and not is_adapter:
        raise ValueError(f"--{given[0].replace('_', '-')} is for converting RWKV-PEFT's adapters, not {args.source}")
    if is_adapter and args.base is None:
        kind = "an adapter of RWKV-PEFT or a trained state"
        raise ValueError(f"{args.source}: {kind}; give the folder of its model with --base")
    return is_adapter


def convert_adapter(args: argparse.Namespace) -> None:
    """An adapter of RWKV-PEFT to a folder of PEFT, or merged into its model."""
    from ..conversion.rwkv_peft import convert_rwkv_peft

    done = convert_rwkv_peft(args.source, args.destination, args.base, args.alpha, args.init_pissa, args.merge)
    rank = f" of rank {done.rank}" if done.rank else ""
    kind = "the whole model, with merged weights" if done.merged else "an adapter of PEFT"
    print(f"{args.destination}: {kind}, from {done.method}{rank}, {done.tensors} tensors")


def export_adapter(args: argparse.Namespace, dtype: "torch.dtype | None") -> None:
    """A folder of PEFT to a file of RWKV-PEFT."""
    from ..conversion.rwkv_peft_export import export_rwkv_peft

    done = export_rwkv_peft(args.source, args.destination, dtype)
    alpha = "" if done.alpha is None else f"; the file does not tell alpha, which is {done.alpha:g}"
    print(f"{args.destination}: {done.method}, {done.tensors} tensors{alpha}")

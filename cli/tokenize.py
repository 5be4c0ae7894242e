# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world tokenize`: texts as a pair of files .bin and .idx, as RWKV-LM trains on them."""

import argparse
from contextlib import nullcontext

from .console import PROGRAM, quiet_libraries


END_OF_DOCUMENT = 0  # in every RWKV vocabulary

_EPILOG = f"""\
examples:
  {PROGRAM} tokenize texts.jsonl corpus --tokenizer MODEL
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "tokenize",
        help="write texts as binidx files",
        description="Writes texts as tokens, PREFIX.bin and PREFIX.idx, each text ended by the token 0.",
        epilog=_EPILOG,
    )
    parser.add_argument("data", metavar="DATA", help='texts: .txt, .jsonl with "text", parquet or a saved set')
    parser.add_argument("prefix", metavar="PREFIX", help="of the two files")
    parser.add_argument("--tokenizer", metavar="MODEL", required=True, help="folder or Hub id with the tokenizer")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the data holds something else than texts.
        OSError: If something cannot be read or written.
    """
    from rich.progress import track
    from transformers import AutoTokenizer

    from ..training.data.binidx import write_binidx
    from ..training.data.formats import read_data

    with nullcontext() if args.debug else quiet_libraries():
        rows = read_data(args.data)
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        documents = (_tokens(row, tokenizer, args.data) for row in track(rows, "tokens", transient=True))
        count = write_binidx(args.prefix, documents, len(tokenizer))
    print(f"{args.prefix}.bin, {args.prefix}.idx: {count} documents")


def _tokens(row: dict, tokenizer, name: str) -> list[int]:
    if not row.get("text"):
        raise ValueError(f"{row.get('source') or name}: {row.get('error') or 'no text'}")
    return [*tokenizer.encode(row["text"], add_special_tokens=False), END_OF_DOCUMENT]

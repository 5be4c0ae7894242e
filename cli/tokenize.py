# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world tokenize`: texts as a pair of files .bin and .idx, as RWKV-LM trains on them."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, first_line, quiet_libraries, show_progress


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
    import datasets
    from transformers import AutoTokenizer

    from ..data.binidx import write_binidx
    from ..data.formats import read_data

    taken = [path for path in (Path(f"{args.prefix}.bin"), Path(f"{args.prefix}.idx")) if path.exists()]
    if taken:
        raise ValueError(f"{taken[0]}: exists already; name another PREFIX, or remove it")
    if not args.debug:
        datasets.disable_progress_bars()
    with nullcontext() if args.debug else quiet_libraries():
        try:
            tokenizer = AutoTokenizer.from_pretrained(args.tokenizer, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{args.tokenizer}: its tokenizer cannot be loaded ({first_line(error)})") from error
        try:
            rows = read_data(args.data)
        except (UnicodeDecodeError, datasets.exceptions.DatasetGenerationError) as error:
            raise ValueError(f"{args.data}: cannot be read ({first_line(error.__cause__ or error)})") from error
        if not len(rows):
            raise ValueError(f"{args.data}: not one text in it")
        documents = (_tokens(row, tokenizer, args.data) for row in show_progress("tokens")(rows))
        count = write_binidx(args.prefix, documents, len(tokenizer))
    print(f"{args.prefix}.bin, {args.prefix}.idx: {count} documents")


def _tokens(row: dict, tokenizer, name: str) -> list[int]:
    if not row.get("text"):
        raise ValueError(f"{row.get('source') or name}: {row.get('error') or 'no text'}")
    return [*tokenizer.encode(row["text"], add_special_tokens=False), END_OF_DOCUMENT]

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Entry point of the `rwkv7-world` command: picks the sub-command and turns every error into one line."""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from . import convert, evaluate, export, generate, info, merge, quantize, startup, tokenize, train, transcribe, upload
from .console import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    PROGRAM,
    Parser,
    discard_stdout,
    first_line,
    report_error,
)


_EPILOG = f"""\
examples:
  {PROGRAM} info examples/tiny_world/checkpoint
  {PROGRAM} convert RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth rwkv7-0.1b
  {PROGRAM} generate examples/tiny_world/checkpoint "What is in the picture?" --image photo.png
  {PROGRAM} transcribe MODEL recordings --out texts.csv
  {PROGRAM} train recipe.yaml
  {PROGRAM} evaluate rwkv7-world-0.4b librispeech-clean --data LibriSpeech
  {PROGRAM} upload my-model me/my-model --license apache-2.0 --dry-run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Arguments after the program's name; those of the process if `None`.

    Returns:
        The exit status: 0, 2 after an error, 130 after Ctrl-C. A reader of stdout that leaves early is no error.

    Raises:
        SystemExit: From argparse: 0 after --help and --version, 2 if the arguments cannot be understood.
    """
    try:
        return _parse_and_run(argv)
    except BrokenPipeError:
        discard_stdout()
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser() -> Parser:
    """The parser of the command with all its sub-commands."""
    parser = Parser(prog=PROGRAM, description="RWKV-7 World: models that read, see and listen.", epilog=_EPILOG)
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        action=_Completion,
        help="print what makes bash, zsh or tcsh complete the command",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    convert.add_parser(commands)
    evaluate.add_parser(commands)
    export.add_parser(commands)
    generate.add_parser(commands)
    info.add_parser(commands)
    merge.add_parser(commands)
    quantize.add_parser(commands)
    tokenize.add_parser(commands)
    train.add_parser(commands)
    transcribe.add_parser(commands)
    upload.add_parser(commands)
    return parser


class _Completion(argparse.Action):
    """Prints the script that a shell reads to complete sub-commands and options."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            import shtab
        except ImportError as error:
            parser.exit(EXIT_ERROR, f"{PROGRAM}: error: {first_line(error)}\n")
        if values not in shtab.SUPPORTED_SHELLS:
            parser.error(f"{option_string} takes one of {', '.join(shtab.SUPPORTED_SHELLS)}, not {values!r}")
        print(shtab.complete(parser, values))
        parser.exit()


def _parse_and_run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
        return _run(args)
    finally:
        sys.stdout.flush()  # here, where a closed stdout is still handled, not when the interpreter ends


def _run(args: argparse.Namespace) -> int:
    try:
        startup.import_libraries()
        args.run(args)
    except BrokenPipeError:
        raise
    except Exception as error:
        report_error(error, debug=args.debug)
        return EXIT_ERROR
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())

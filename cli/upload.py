# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world upload`: a model, an adapter or a trained state goes to the Hugging Face Hub."""

import argparse
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, quiet_libraries


_EPILOG = f"""\
examples:
  {PROGRAM} upload my-model me/my-model --license apache-2.0 --dry-run
  {PROGRAM} upload my-model me/my-model --license apache-2.0 --private --results evaluation.json
  {PROGRAM} upload my-adapter me/my-adapter --license mit --base-model me/my-model

The token is that of `hf auth login`, or the variable HF_TOKEN. After an interruption the same command with --update
goes on; what arrived is not sent twice.
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "upload",
        help="publish a model, adapter or trained state on the Hugging Face Hub",
        description="Checks a folder (it loads and generates without this package, holds no secrets, no paths of this "
        "machine and no pickles), writes a model card and uploads both. What training leaves beside the model "
        "(checkpoints, optimiser, recipe, logs, predictions) stays here.",
        epilog=_EPILOG,
    )
    _add_arguments(parser)
    parser.set_defaults(run=run)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="what save_pretrained or train wrote, or states; a text model of any layout goes in ours",
    )
    parser.add_argument("repo", metavar="REPO", help="OWNER/NAME on the Hub; made if there is none")
    parser.add_argument("--license", help="identifier of the licence, unless a README.md in FOLDER says it")
    parser.add_argument("--license-name", metavar="NAME", help="of a licence that is other")
    parser.add_argument("--license-link", metavar="LINK", help="where its text is: an address, or a file in FOLDER")
    parser.add_argument(
        "--base-model", metavar="OWNER/NAME", help="the model that this one was made from, unless the folder says it"
    )
    parser.add_argument(
        "--dataset", action="append", default=[], dest="datasets", help="a data set of the training; repeatable"
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="evaluation results for the card; repeatable; results*.json of FOLDER unless given",
    )
    parser.add_argument(
        "--exclude", metavar="PATTERN", action="append", default=[], help="more files to leave out; repeatable"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--update", action="store_true", help="replace files of a repository that is in use")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--branch", help="write to this branch, made if there is none")
    place.add_argument("--pr", action="store_true", dest="pull_request", help="open a pull request")
    parser.add_argument("--dry-run", action="store_true", help="check everything, show what would go, send nothing")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If something must not be published, or the Hub refuses.
        ExceptionGroup: Of such errors, if there are several.
        OSError: If something cannot be read, or the connection breaks.
    """
    from ..publishing.model_card import Description
    from ..publishing.upload import Target, packed, upload

    description = Description(
        args.repo,
        args.license,
        args.license_name,
        args.license_link,
        args.base_model,
        tuple(args.datasets),
        tuple(args.results),
    )
    target = Target(args.private, args.update, args.branch, args.pull_request)
    with (
        nullcontext() if args.debug else quiet_libraries(),
        packed(args.folder, description, tuple(args.exclude)) as parcel,
    ):
        if args.dry_run:
            _show(parcel, args.repo, target)
        else:
            for line in _left_out(parcel):
                print(line, file=sys.stderr)
            print(upload(parcel, args.repo, target))


def _show(parcel, repo: str, target) -> None:
    place = "a pull request" if target.pull_request else f"branch {target.branch or 'main'}"
    print(f"to {repo}, {place}{', private if new' if target.private else ''}; nothing was sent\n")
    for name, size in parcel.sizes.items():
        print(f"{size:>15,}  {name}")
    print(f"{sum(parcel.sizes.values()):>15,}  bytes in {len(parcel.sizes)} files\n")
    print("\n".join([*_left_out(parcel), "", parcel.card]))


def _left_out(parcel) -> list[str]:
    """A line for each file that does not go, and one for all of a folder."""
    tops = Counter(top + slash for top, slash, _ in (name.partition("/") for name in parcel.left_out))
    return [f"left out: {top}" + (f" ({count} files)" if top.endswith("/") else "") for top, count in tops.items()]

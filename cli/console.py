# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What every sub-command shares: the parser, errors of one line, and number types that check their range."""

import argparse
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from ..configuration.optional_libraries import how_to_install


PROGRAM = "rwkv7-world"
EXIT_OK = 0
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

# Errors that say by themselves what was wrong with what the user gave; of others the class is named too.
_SELF_EXPLAINING = (ValueError, OSError)
# What the system says in code, in words; a file's name leads where it is known
_SYSTEM_ERRORS = {
    errno.ENOSPC: "the disk is full; make room, and give the same command again",
    errno.EDQUOT: "the disk quota is used up; make room, and give the same command again",
    errno.EEXIST: "exists already",
    errno.ENOENT: "no such file or folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "cannot be written to, the disk is read-only",
    errno.ENOTDIR: "not a folder, or lies in something that is none",
    errno.EISDIR: "a folder, expected a file",
}
_DISK_FULL = os.strerror(errno.ENOSPC)
# Without these no sub-command runs
REQUIRED_LIBRARIES = ("torch", "transformers")


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that keeps the layout of its epilog and complains in one line."""

    def __init__(self, **kwargs) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """As `ArgumentParser.parse_args`; an unknown option is a complaint of the sub-command that it was given to."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            help_ = (
                f"{self.prog} {parsed.command} --help" if getattr(parsed, "command", None) else f"{self.prog} --help"
            )
            self.exit(EXIT_ERROR, f"{PROGRAM}: error: unrecognized arguments: {' '.join(unknown)} (see {help_})\n")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{PROGRAM}: error: {message} (see {self.prog} --help)\n")


def first_line(error: BaseException) -> str:
    """First line of the message of `error` that is not blank, led by the class unless the message stands alone."""
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        place = f"{error.filename2 or error.filename}: " if error.filename else ""
        return f"{place}{_SYSTEM_ERRORS[error.errno]}"
    if _DISK_FULL in str(error):  # as safetensors says it
        return _SYSTEM_ERRORS[errno.ENOSPC]
    if isinstance(error, ImportError) and error.name in REQUIRED_LIBRARIES:
        return f"{error.name} is not installed or damaged ({error}); pip install {PROGRAM}"
    if isinstance(error, ImportError) and (line := how_to_install(error)):
        return line
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, _SELF_EXPLAINING) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def report_error(error: Exception, *, debug: bool) -> None:
    """Prints `error` to stderr: one line, or one for each of a group, after the traceback if `debug`."""
    if debug:
        traceback.print_exception(error)
    for one in error.exceptions if isinstance(error, ExceptionGroup) else [error]:
        print(f"{PROGRAM}: error: {first_line(one)}", file=sys.stderr)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences warnings, log lines and the bar of weight loading, so that an error is the only line on stderr.

    Bars of downloads stay.
    """
    from huggingface_hub.utils import enable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    hub_verbosity, verbosity = hub_logging.get_verbosity(), transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    enable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(hub_verbosity)
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def show_progress(title: str, is_shown: bool = True) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """What shows a bar on a terminal's stderr while a sequence is read."""
    from rich.console import Console
    from rich.progress import track

    disable = not (is_shown and sys.stderr.isatty())
    return lambda parts: track(parts, title, console=Console(stderr=True), transient=True, disable=disable)


@contextmanager
def show_stage() -> Iterator[Callable[[str], None]]:
    """What says on a terminal's stderr which stage of a long task runs."""
    from rich.console import Console

    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("") as status:
        yield status.update


def discard_stdout() -> None:
    """Points stdout to nowhere once its reader is gone, so that the interpreter's last flush does not complain."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, sys.stdout.fileno())
    os.close(null_device)


def number(kind: type, is_valid: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    """An argparse type: text to a number of `kind` for which `is_valid` holds.

    Args:
        kind: `int` or `float`.
        is_valid: Whether a number is in range.
        expected: The range in words, for the complaint.
    """

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return parse

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Imports the libraries of the command, which takes seconds; Ctrl-C meanwhile ends it without a traceback.

The package's `__init__` imports this before anything else. It does nothing in a program that is not the command.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import PurePath

from .console import EXIT_INTERRUPTED, PROGRAM, REQUIRED_LIBRARIES


def import_libraries() -> None:
    """Imports what every sub-command needs; from then on Ctrl-C raises `KeyboardInterrupt` as usual.

    An interrupt in the midst of an import could become an `ImportError` of whoever asked for the module.
    """
    for name in REQUIRED_LIBRARIES:
        import_module(name)
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame) -> None:
    os._exit(EXIT_INTERRUPTED)


_started_as = sys.argv[0] if sys.argv else ""  # "-m" while Python looks for the module that it runs
_is_command = _started_as == "-m" or PurePath(_started_as).stem == PROGRAM
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)

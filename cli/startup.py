# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while the command still imports its libraries, which takes seconds: it ends without a traceback.

The package's `__init__` imports this before anything else. It does nothing in a program that is not the command.
"""

import os
import signal
import sys
from pathlib import PurePath

from .console import EXIT_INTERRUPTED, PROGRAM


def raise_again() -> None:
    """Makes Ctrl-C raise `KeyboardInterrupt` as usual, once there is someone to catch it."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame) -> None:
    os._exit(EXIT_INTERRUPTED)


_started_as = sys.argv[0] if sys.argv else ""  # "-m" while Python looks for the module that it runs
_is_command = _started_as == "-m" or PurePath(_started_as).stem == PROGRAM
if _is_command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of the command that are refused."""

from pathlib import Path

import pytest

from rwkv7_world.cli.main import main


def convert_refusal(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Runs `convert` with `argv`, checks that it refuses in exactly one line, and returns that line's message."""
    try:
        status = main(["convert", *map(str, argv)])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("rwkv7-world: error: ").strip()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The releases of transformers that are declared, tested and warned of are the same ones."""

import configparser
import re
from pathlib import Path

import pytest
from transformers.utils import logging

from rwkv7_world import __version__
from rwkv7_world.configuration import tested_versions
from rwkv7_world.configuration.tested_versions import warn_of_untested_transformers


ROOT = Path(__file__).resolve().parents[1]


def release(text: str, before: str) -> tuple[int, ...]:
    """Major and minor number of the version that follows `before` on a line of its own."""
    return tuple(map(int, re.search(rf"^\s*{re.escape(before)}(\d+)\.(\d+)", text, re.MULTILINE).groups()))


def test_the_declared_range_is_the_tested_one():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = config["options"]["install_requires"]
    assert release(declared, "transformers>=") == tested_versions.OLDEST_TESTED
    assert release((ROOT / "Makefile").read_text(), "OLDEST-transformers := ") == tested_versions.OLDEST_TESTED
    assert release((ROOT / "constraints.txt").read_text(), "transformers==") == tested_versions.NEWEST_TESTED


def test_the_package_has_the_version_that_its_command_prints():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: rwkv7_world.__version__"
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "warns"),
    [("5.23.0", False), ("5.24.9", False), ("5.25.0.dev0", True), ("5.100.0", True), ("6.0.0rc1", True)],
)
def test_a_newer_release_is_warned_of_with_the_tested_range(version, warns, monkeypatch):
    said = []
    monkeypatch.setattr(logging.logging.Logger, "warning_once", lambda self, message: said.append(message))
    warn_of_untested_transformers(version)
    assert [message for message in said if "transformers 5.23 to 5.24" in message and version in message] == said
    assert bool(said) == warns

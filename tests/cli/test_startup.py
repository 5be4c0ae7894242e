# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while the command is still being imported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.training import PACKAGE_PARENT


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SCRIPT = "import sys\nfrom rwkv7_world.cli.main import main\nsys.exit(main())\n"  # as pip writes it


def start(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def script(tmp_path) -> str:
    path = tmp_path / "rwkv7-world"
    path.write_text(SCRIPT)
    return str(path)


@pytest.mark.parametrize("library", ["numpy", "libtorch_cpu"])
@pytest.mark.parametrize("way", ["script", "package", "module"])
def test_it_ends_without_a_word(way, library, script):
    """Once the first of the libraries, and once the largest is in memory."""
    arguments = {"script": [script], "package": ["-m", "rwkv7_world"], "module": ["-m", "rwkv7_world.cli.main"]}
    process = start([sys.executable, *arguments[way], "info", "nothing"])
    while library not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "")


def test_a_program_that_imports_the_package_is_interrupted_as_any(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("import rwkv7_world, signal\nassert signal.getsignal(2) is signal.default_int_handler\n")
    process = start([sys.executable, str(path)])
    assert process.wait() == 0, process.stderr.read()


def test_the_command_itself_catches_it_later(script):
    """The handler of the start is gone when a sub-command runs."""
    code = SCRIPT.replace(
        "sys.exit(main())",
        """import signal
import rwkv7_world.cli.info as info
def run(args):
    print(signal.getsignal(2) is signal.default_int_handler)
    raise KeyboardInterrupt
info.run = run
sys.exit(main(["info", "x"]))""",
    )
    Path(script).write_text(code)
    process = start([sys.executable, script])
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "True\n", "")

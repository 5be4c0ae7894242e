# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`transformers serve` in a process of its own, on a port that was free."""

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .clean_environment import strangers_variables


TRANSFORMERS_COMMAND = "from transformers.cli.transformers import main; main()"
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 120, 10, 0.2


@contextmanager
def serving(interpreter: Path, folder: Path, cache: Path) -> Iterator[str]:
    """The address of a server of a saved folder, which answers while the block runs.

    Args:
        interpreter: Of the environment that it runs in.
        folder: Of the model.
        cache: A folder for what the Hub's client and the server store.
    """
    port = _free_port()
    options = [
        "serve",
        str(folder),
        "--trust-remote-code",
        "--device",
        "cpu",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = cache / "server.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [interpreter, "-I", "-c", TRANSFORMERS_COMMAND, *options],
            env=strangers_variables(cache),
            cwd=cache,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=POLL_SECONDS).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A virtual environment that holds some of the installed libraries, what they need, and nothing else.

The libraries are links to those of the running environment, so nothing is downloaded or copied.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement


APART = Path(sys.prefix) / "apart"  # see Makefile
# What README asks for where a saved folder is to be loaded
STRANGERS_LIBRARIES = ("torch", "transformers", "pillow", "soundfile", "soxr")


def make_clean_environment(folder: Path, libraries: Iterable[str] = STRANGERS_LIBRARIES) -> Path:
    """Makes the environment in `folder` and returns its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    variables = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", scheme="venv", vars=variables))
    for library in _with_requirements(libraries):
        for name in {file.parts[0] for file in library.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(library.locate_file(name))
            if source.exists() and not (packages / name).exists():
                (packages / name).symlink_to(source)
    return folder / "bin" / "python"


def run_python(interpreter: Path, script: str, *arguments: str | Path, cache: Path, **variables: str) -> str:
    """Output of a script, run where neither this checkout nor any variable can lead to our package.

    Args:
        interpreter: Of the environment.
        script: Its text.
        arguments: For `sys.argv`.
        cache: A folder for what the Hub's client and the loader of remote code store.
        variables: More environment variables.
    """
    command = [interpreter, "-I", "-c", script, *arguments]
    environment = strangers_variables(cache) | variables
    process = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cache, stdin=subprocess.DEVNULL
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def strangers_variables(cache: Path) -> dict[str, str]:
    """Environment variables of a process that knows nothing of this one but where its programs are."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
    return variables | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def find_library(name: str) -> Distribution | None:
    """An installed library, or one that lies apart."""
    return next(iter(Distribution.discover(name=name, path=[*sys.path, str(APART)])), None)


def _with_requirements(names: Iterable[str]) -> list[Distribution]:
    """The installed libraries of these names and all that they require, with the extras that they ask for."""
    found, seen, waiting = {}, set(), [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if (name, *wanted.extras) in seen:
            continue
        seen.add((name, *wanted.extras))
        library = find_library(name)
        if library is None:
            continue
        found[name] = library
        extras = ("", *wanted.extras)
        waiting += [
            needed
            for needed in map(Requirement, library.requires or [])
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return list(found.values())

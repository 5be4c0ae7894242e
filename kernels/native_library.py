# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds a C++ or CUDA file into a shared library on first use, into torch's extension cache.

A wheel may carry the library built (`prebuild.py`). C++ is built by torch's extension builder, CUDA by nvcc itself.
The library is found again under a name made from its source and headers, the compiler's options, torch's version and
the processor, so that neither an update nor a home directory shared by unlike machines ever loads the wrong one. The
compiler runs in a process of its own, which a time-out can end. Whatever goes wrong becomes a `NativeLibraryError`
with one line of reason, which callers remember and show.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import torch


# C++ and CUDA sources by file name, where they cannot be files beside the modules: in the code that a saved model
# carries, because transformers' loader copies only Python files into its cache.
SOURCES: dict[str, str] = {}

BUILD_VARIABLE = "RWKV7_BUILD"
# Beside the sources, in a wheel: libraries that were built before, each named by what it fits
PREBUILT_FOLDER = "prebuilt"
BUILD_SECONDS = 300  # for waiting and building together; a build takes some seconds on an idle machine

# Tried in this order. Fast-math must stay off: the sources round by adding and subtracting large numbers.
_COMMON_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
_X86_FLAGS = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
FLAG_SETS = [
    [*_COMMON_FLAGS, "-march=native", *_X86_FLAGS, "-fopenmp"],
    [*_COMMON_FLAGS, "-fopenmp"],
    _COMMON_FLAGS,
]

# Host code calls CUDA's runtime, which nvcc links into the library: it need not be the version that torch has.
CUDA_FLAGS = ["-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC"]
CUDA_FOLDER = "/usr/local/cuda"  # where CUDA is installed unless it is told otherwise

# Run as `python -c` with the arguments as JSON.
_BUILD_SCRIPT = """
import json, os, sys
from torch.utils.cpp_extension import load
arguments = json.loads(sys.argv[1])
for number, flags in enumerate(arguments["flag_sets"]):
    name = f"{arguments['name']}_{number}"
    try:
        load(name, [arguments["source"]], extra_cflags=flags, extra_ldflags=[f for f in flags if f == "-fopenmp"],
             build_directory=arguments["folder"], is_python_module=False)
    except Exception as error:
        print(error, file=sys.stderr)
    else:
        os.replace(os.path.join(arguments["folder"], name + ".so"), arguments["target"])
        sys.exit(0)
sys.exit(1)
"""


class NativeLibraryError(RuntimeError):
    """The library is not here; the message says why and what would help, in one line."""


class Toolchain(NamedTuple):
    """How a source file becomes a library."""

    options: list  # all that the result depends on besides the source, torch and the machine
    check: Callable[[], None]  # raises a NativeLibraryError if a tool is missing
    command: Callable[[str, Path, Path], list[str]]  # from name, source and target, in an existing folder


def load_library(name: str, source: Path, toolchain: Toolchain | None = None) -> ctypes.CDLL:
    """The shared library of a source file, built unless it was before.

    Args:
        name: Of the library, for its folder in the cache.
        source: The file, which may include the headers beside it and, in C++, torch's.
        toolchain: What builds it: C++ unless given, for CUDA [`cuda_toolchain`].

    Raises:
        NativeLibraryError: If there is none and none can be built.
    """
    if sys.platform not in ("linux", "darwin"):
        raise NativeLibraryError(f"builds on Linux and macOS only, not on {sys.platform}")
    toolchain = toolchain or CPP
    try:
        _restore_sources(source.parent)
        stamp = f"{name}_{_fingerprint(source, toolchain)}"
        prebuilt = source.parent / PREBUILT_FOLDER / f"{stamp}.so"
        library = prebuilt if prebuilt.is_file() else _cache_folder() / stamp / f"{name}.so"
    except (OSError, ImportError) as error:
        raise NativeLibraryError(f"cannot look for the library: {error}") from error
    if not library.exists():
        _build(name, source, library, toolchain)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NativeLibraryError(f"cannot load {library}: {error}") from error


def built_on_first_use(name: str, source: Path) -> Callable[[Callable[[ctypes.CDLL], None]], Callable]:
    """Decorates what declares the functions of a C++ library; it becomes a function that gives the library.

    That tries once in a process, and returns a line of reason (`str`) if there is none.

    Args:
        name: Of the library.
        source: Its file.
    """

    def decorate(declare: Callable[[ctypes.CDLL], None]) -> Callable[[], ctypes.CDLL | str]:
        @functools.cache
        def library() -> ctypes.CDLL | str:
            try:
                loaded = load_library(name, source)
                declare(loaded)
            except NativeLibraryError as error:
                return str(error)
            return loaded

        return library

    return decorate


def source_text(source: Path) -> str:
    """What stands in a C++ or CUDA file, wherever it is kept."""
    return SOURCES.get(source.name) or source.read_text(encoding="utf-8")


def raise_errors(*functions) -> None:
    """Declares functions of C++ that return null or what went wrong: `MemoryError` or `RuntimeError` in Python."""
    for function in functions:
        function.restype = ctypes.c_char_p
        function.errcheck = _raise_error


def _raise_error(message: bytes | None, function, arguments) -> None:
    if message is not None:
        error = MemoryError if message == b"std::bad_alloc" else RuntimeError
        raise error(message.decode(errors="replace"))


def why_missing(library: ctypes.CDLL | str) -> str | None:
    """The reason where there is no library, else `None`."""
    return library if isinstance(library, str) else None


def cuda_toolchain(capabilities: Iterable[tuple[int, int]]) -> Toolchain:
    """nvcc, building for GPUs of these compute capabilities, as (9, 0)."""
    flags = list(CUDA_FLAGS)
    for major, minor in sorted(capabilities):
        flags += ["-gencode", f"arch=compute_{major}{minor},code=sm_{major}{minor}"]
    nvcc = find_nvcc()

    def check():
        if nvcc is None:
            raise NativeLibraryError(f"no nvcc: not on PATH nor in CUDA_HOME nor in {CUDA_FOLDER}; install CUDA")

    def command(name, source, target):
        return [nvcc, *flags, "-o", str(target), str(source)]

    return Toolchain([nvcc and os.path.realpath(nvcc), *flags], check, command)  # the path often names the version


def find_nvcc() -> str | None:
    """The CUDA compiler: of `CUDA_HOME`, else on the path, else where CUDA is usually installed."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    folders = [os.path.join(home, "bin")] if home else [os.environ.get("PATH", os.defpath), f"{CUDA_FOLDER}/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def build_is_switched_off() -> bool:
    """Whether `RWKV7_BUILD=0` forbids building. A library built earlier is still used."""
    return os.environ.get(BUILD_VARIABLE, "").lower() in ("0", "false", "off", "no")


def processor_field(*names: str) -> str:
    """The first field of `/proc/cpuinfo` that has one of these names; empty if there is none or no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in fields if name.strip() in names), "")


def _restore_sources(folder: Path) -> None:
    """Writes those of `SOURCES` that are missing into a folder, each atomically."""
    for name, text in SOURCES.items():
        if (folder / name).is_file():
            continue
        # An ordinary file, for those of `tempfile` can be read by one user only
        unfinished = folder / f"{name}.{uuid4().hex}"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def _cache_folder() -> Path:
    if root := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(root)
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root())


def _fingerprint(source: Path, toolchain: Toolchain) -> str:
    sources = [source, *sorted(source.parent.glob("*.h"))]  # the headers it may include
    parts = [path.read_text(encoding="utf-8") for path in sources]
    parts += [json.dumps(toolchain.options), torch.__version__, platform.machine(), _processor_features()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor_features() -> str:
    """What `-march=native` depends on."""
    return processor_field("flags", "Features") or platform.processor()


def _build(name: str, source: Path, library: Path, toolchain: Toolchain) -> None:
    if build_is_switched_off():
        raise NativeLibraryError(f"not built yet, and {BUILD_VARIABLE}=0 switches building off")
    toolchain.check()
    deadline = time.monotonic() + BUILD_SECONDS
    folder = library.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "building", deadline):
            if library.exists():  # another process built it meanwhile
                return
            # The lock of torch's own builder outlives a builder that was killed, and nobody else can be building now.
            (folder / "lock").unlink(missing_ok=True)
            # Put in place whole, so that no process ever loads half a file.
            complete = folder / "complete"
            _run_builder(toolchain.command(name, source, complete), deadline)
            os.replace(complete, library)
    except OSError as error:
        raise NativeLibraryError(f"cannot write to {folder} ({error.strerror}); set TORCH_EXTENSIONS_DIR") from error


def _check_cpp_tools() -> None:
    path = _environment()["PATH"]
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler, path=path) is None:
        raise NativeLibraryError(f"no C++ compiler: {compiler!r} not found; install g++ or clang, or set CXX")
    if shutil.which("ninja", path=path) is None:
        raise NativeLibraryError("ninja not found; install it with `pip install ninja`")


def _cpp_command(name: str, source: Path, target: Path) -> list[str]:
    arguments = {"name": name, "source": str(source), "folder": str(target.parent), "target": str(target)}
    return [sys.executable, "-c", _BUILD_SCRIPT, json.dumps(arguments | {"flag_sets": FLAG_SETS})]


CPP = Toolchain(FLAG_SETS, _check_cpp_tools, _cpp_command)


def _environment() -> dict[str, str]:
    """Ours, with the folder of a pip-installed ninja on the path even where its environment is not activated."""
    folders = [os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable or "")]
    spec = importlib.util.find_spec("ninja")
    if spec and spec.submodule_search_locations:
        folders.append(os.path.join(spec.submodule_search_locations[0], "data", "bin"))
    return os.environ | {"PATH": os.pathsep.join(filter(None, folders))}


@contextlib.contextmanager
def _locked(path: Path, deadline: float):
    """Holds an exclusive lock on a file, which the system releases even when its holder is killed."""
    import fcntl

    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NativeLibraryError(
                        f"another process has been building {path.parent} for {BUILD_SECONDS} s"
                    ) from None
                time.sleep(0.1)
        yield


def _run_builder(command: list[str], deadline: float) -> None:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,  # so that the compiler can be ended with it
    )
    try:
        _, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise NativeLibraryError(f"building took longer than {BUILD_SECONDS} s") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise NativeLibraryError(f"building failed: {_first_error(errors)}")


def _first_error(errors: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line.lower()] or lines[-1:] or ["no message"]
    return telling[0][:200]

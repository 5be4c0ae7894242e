# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Libraries that are not always installed, and the extra of this package that brings each."""

from collections.abc import Iterator
from contextlib import contextmanager


EXTRAS = {
    "accelerate": "train",
    "av": "video",
    "bitsandbytes": "qlora",
    "datasets": "train",
    "deepspeed": "deepspeed",
    "espeakng_loader": "train",
    "evaluate": "eval",
    "jiwer": "eval",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "peft": "train",
    "shtab": "completion",
    "tensorboard": "train",
    "whisper_normalizer": "eval",
}


def how_to_install(error: ImportError) -> str | None:
    """The line that says which library is missing and what installs it; `None` for a module of no extra."""
    extra = EXTRAS.get((error.name or "").split(".")[0].replace("-", "_"))
    return f'{error.name} is not installed; pip install "rwkv7-world[{extra}]"' if extra else None


@contextmanager
def optional_imports() -> Iterator[None]:
    """Around imports of optional libraries: one that is missing is named with the command that installs it.

    Raises:
        ModuleNotFoundError: With that line as its message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        line = how_to_install(error)
        if line is None or str(error) == line:
            raise
        raise ModuleNotFoundError(line, name=error.name) from error


def missing(library: str) -> ModuleNotFoundError:
    """The error to raise where `library`, a key of `EXTRAS`, was looked for and not found."""
    error = ModuleNotFoundError(name=library)
    return ModuleNotFoundError(how_to_install(error), name=library)

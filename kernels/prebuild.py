# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds every C++ library of the CPU kernels where a wheel carries it: `python -m rwkv7_world.kernels.prebuild`.

`make wheel` runs it in a copy of the sources. The libraries fit the torch and the processor features that they are
built with, which their names hold a hash of; anywhere else the package builds its own, as without them.
"""

import shutil
import sys
from pathlib import Path

from .cpu import decode, fused, linear, prefill, wkv7
from .native_library import PREBUILT_FOLDER, NativeLibraryError, load_library


LIBRARIES = {
    "rwkv7_decode_cpu": decode.SOURCE,
    "rwkv7_fused_cpu": fused.SOURCE,
    "rwkv7_linear_cpu": linear.SOURCE,
    "rwkv7_prefill_cpu": prefill.SOURCE,
    "rwkv7_wkv7_cpu": wkv7.SOURCE,
}


def prebuild() -> list[Path]:
    """Builds the libraries and copies them beside their sources.

    Returns:
        The copies.

    Raises:
        NativeLibraryError: If one cannot be built.
    """
    copies = []
    for name, source in LIBRARIES.items():
        built = Path(load_library(name, source)._name)
        copy = source.parent / PREBUILT_FOLDER / f"{built.parent.name}.so"
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(built, copy)
        copies.append(copy)
    return copies


if __name__ == "__main__":
    try:
        print(*prebuild(), sep="\n")
    except NativeLibraryError as error:
        sys.exit(str(error))

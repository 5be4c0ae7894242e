# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""C++ and CUDA sources as text, where they cannot be files beside the modules.

Here they are files. In the code that a saved model carries `SOURCES` holds them, by file name, because transformers'
loader copies only Python files into its cache.
"""

import os
import tempfile
from pathlib import Path


SOURCES: dict[str, str] = {}


def restore_sources(folder: Path) -> None:
    """Writes the sources of `SOURCES` that are missing into a folder, each whole or not at all.

    Raises:
        OSError: If one cannot be written.
    """
    for name, text in SOURCES.items():
        if (folder / name).is_file():
            continue
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=folder, delete=False) as file:
            file.write(text)
        os.replace(file.name, folder / name)

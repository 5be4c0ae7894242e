# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Hooks of mkdocs.

The API reference reads a copy of the sources in `build/api`, where `kernels/` has an `__init__.py`: the reader of
docstrings enters no namespace folder. Links from a page to source files, which the site does not hold, become code.
"""

import re
import shutil
import subprocess
from pathlib import Path

from mkdocs.plugins import event_priority


@event_priority(100)  # before mkdocstrings looks at the folder
def on_config(config):
    """Copies the tracked sources of the package to `build/api/rwkv7_world`."""
    root = Path(config["config_file_path"]).parent
    package = root / "build" / "api" / "rwkv7_world"
    shutil.rmtree(package.parent, ignore_errors=True)
    listing = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in listing.splitlines():
        if not name.startswith(("tests/", "docs/", "examples/")) and (root / name).exists():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, package / name)
    (package / "kernels" / "__init__.py").touch()
    return config


def on_page_markdown(markdown: str, page, config, files) -> str:
    """The page without links that leave docs/.

    Raises:
        FileNotFoundError: A link names a file that the repository does not hold.
    """
    root = Path(config["config_file_path"]).parent

    def as_code(link: re.Match) -> str:
        label, path = link.groups()
        if not (root / path).exists():
            raise FileNotFoundError(f"{page.file.src_path}: link to ../{path}, which does not exist")
        return f"{label} (`{path}`)" if path not in label else f"`{path}`"

    return re.sub(r"\[([^\]]*)\]\(\.\./([^)#]+)\)", as_code, markdown)

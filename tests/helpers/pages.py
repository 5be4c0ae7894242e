# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands in pages of Markdown."""

import re


def code_blocks(page: str, language: str) -> list[str]:
    """The contents of a page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)

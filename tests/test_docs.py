# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: their Python runs, their commands parse, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from helpers.pages import code_blocks
from rwkv7_world.cli.main import build_parser


ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
EVERY_PAGE = [*PAGES, ROOT / "README.md", ROOT / "README.zh.md"]
# Examples on files that this repository does not hold; a test of the conversion runs the first
NEEDS_OTHER_FILES = ("rwkv7-0.1b.onnx", '"rwkv7-vl"')


def blocks(page: Path, language: str) -> list[str]:
    return code_blocks(page.read_text(encoding="utf-8"), language)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs_in_order(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = {}
    for example in blocks(page, "python"):
        code = compile(example, page.name, "exec")
        if not any(file in example for file in NEEDS_OTHER_FILES):
            exec(code, namespace)


@pytest.mark.parametrize("page", [page for page in EVERY_PAGE if blocks(page, "bash")], ids=lambda page: page.name)
def test_commands_parse(page):
    lines = "".join(blocks(page, "bash")).splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["rwkv7-world"] and "--list" not in words:
            build_parser().parse_args(words[1:])


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            assert heading in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_sites_navigation_and_on_the_first_page():
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    named = {file for entry in site["nav"] for file in entry.values()}
    assert named >= {page.name for page in PAGES}
    first = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert all(f"({page.name})" in first for page in PAGES if page.name not in ("index.md", "api.md"))

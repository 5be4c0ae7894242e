# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The README's Python examples run as they stand, in order, and print what the text around them promises."""

import json
import re
from pathlib import Path

from rwkv7_world.training.recipe import load_recipe


ROOT = Path(__file__).resolve().parents[1]


def python_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_python_examples_run_in_order(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    namespace = {}
    for example in python_examples():
        exec(compile(example, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    samples = json.loads((ROOT / "examples/tiny_world/samples/samples.json").read_text(encoding="utf-8"))
    answers = {sample.get("image") or sample["audio"]: sample["answer"] for sample in samples}
    assert printed[:2] == [answers["count.png"], answers["clip1.wav"]]
    assert namespace["read"].past_key_values.get_seq_length() > 0
    assert namespace["y"].shape == (1, 100, 2, 64)


def test_the_recipe_is_one(tmp_path):
    (recipe,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "recipe.yaml")[0].train == ["projector", "text"]


def test_it_leads_with_the_two_commands():
    commands = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [line.split("#")[0].strip() for line in commands[1].splitlines()] == ["make demo", "make test"]

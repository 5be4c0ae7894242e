# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The README's examples run as they stand and print what its text promises; its Chinese twin has the same examples."""

import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from helpers.clean_environment import (
    STRANGERS_LIBRARIES,
    make_clean_environment,
    run_python,
    strangers_variables,
)
from helpers.pages import code_blocks
from rwkv7_world.training.recipe.recipe import load_recipe


ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")


def python_examples() -> list[str]:
    return code_blocks(PAGE, "python")


def answers_of_samples() -> dict[str, str]:
    samples = json.loads((ROOT / "examples/tiny_world/samples/samples.json").read_text(encoding="utf-8"))
    return {sample.get("image") or sample["audio"]: sample["answer"] for sample in samples}


def test_python_examples_run_in_order(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    namespace = {}
    for example in python_examples():
        exec(compile(example, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    answers = answers_of_samples()
    assert printed[:2] == [answers["count.png"], answers["clip1.wav"]]
    assert namespace["read"].cache.get_seq_length() > 0
    assert printed[2] == "torch.Size([2, 9])"


def libraries_of_the_install_line() -> list[str]:
    """What the page's own line for one's own environment installs, by setup.cfg."""
    (package,) = re.findall(r'pip install -c constraints.txt -e "?\.(\S*?)"?\n', PAGE)
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    libraries, waiting = setup["options"]["install_requires"].split(), package.strip("[]").split(",")
    while waiting:
        for name in setup["options.extras_require"][waiting.pop()].split():
            own = re.fullmatch(r"rwkv7-world\[(.*)\]", name)
            waiting += own[1].split(",") if own else []
            libraries += [] if own else [name]
    return libraries


def test_python_examples_run_where_only_the_install_line_was_run(tmp_path):
    interpreter = make_clean_environment(tmp_path / "environment", libraries_of_the_install_line())
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    if not (packages / "rwkv7_world").exists():
        (packages / "rwkv7_world").symlink_to(ROOT)
    (tmp_path / "cache").mkdir()
    script = "import os, sys; os.chdir(sys.argv[1])\n" + "\n".join(python_examples())
    printed = run_python(interpreter, script, ROOT, cache=tmp_path / "cache").splitlines()
    assert printed[:2] == [answers_of_samples()[name] for name in ("count.png", "clip1.wav")]


def test_a_missing_extra_is_answered_with_what_installs_it(tmp_path):
    interpreter = make_clean_environment(tmp_path / "environment", STRANGERS_LIBRARIES + ("rich",))
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    (packages / "rwkv7_world").symlink_to(ROOT)
    (tmp_path / "cache").mkdir()
    folder = str(ROOT / "examples/tiny_world/checkpoint")
    shutil.copy(ROOT / "examples/tiny_world/samples/clip1.wav", tmp_path)
    (tmp_path / "clip1.txt").write_text("three")
    commands = {
        "onnx": ["export", folder, "model.onnx"],
        "train": ["train", "lora_sft"],
        "eval": ["evaluate", folder, "asr", "--data", str(tmp_path), "--output", str(tmp_path / "run")],
    }
    script = """
import json, sys
from rwkv7_world.cli.main import main
print(json.dumps([main(argv) for argv in json.loads(sys.argv[1])]))
"""
    process = subprocess.run(
        [interpreter, "-I", "-c", script, json.dumps(list(commands.values()))],
        capture_output=True,
        text=True,
        env=strangers_variables(tmp_path / "cache"),
        cwd=tmp_path,
    )
    assert process.stdout.splitlines()[-1] == "[2, 2, 2]", process.stderr
    assert len(process.stderr.splitlines()) == 3, process.stderr
    for extra, line in zip(commands, process.stderr.splitlines(), strict=True):
        assert f'is not installed; pip install "rwkv7-world[{extra}]"' in line


def test_the_recipe_is_one(tmp_path):
    (recipe,) = code_blocks(PAGE, "yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert load_recipe(tmp_path / "recipe.yaml")[0].train == ["projector", "text"]


def test_it_leads_with_the_two_commands():
    commands = re.search(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    assert [line.split("#")[0].strip() for line in commands[1].splitlines()] == ["make demo", "make test"]


def fenced_blocks(name: str) -> list[str]:
    return re.findall(r"```\w*\n.*?```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_chinese_page_has_the_same_examples():
    assert fenced_blocks("README.zh.md") == fenced_blocks("README.md")


def test_it_is_short():
    assert len(PAGE.splitlines()) <= 150


def test_the_picture_shows_the_models_answers():
    """Its text chunk holds what was drawn."""
    with Image.open(ROOT / "docs/demo.png") as picture:
        shown = json.loads(picture.text["answers"])
    samples = json.loads((ROOT / "examples/tiny_world/samples/samples.json").read_text(encoding="utf-8"))
    questions = {sample.get("image") or sample["audio"]: sample["question"] for sample in samples}
    assert {entry["file"]: entry["question"] for entry in shown}.items() <= questions.items()
    folder = ROOT / "examples/tiny_world/checkpoint"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    for entry in shown:
        path = {"path": str(ROOT / "examples/tiny_world/samples" / entry["file"])}
        kind = "audio" if entry["file"].endswith(".wav") else "image"
        content = [{"type": kind} | path, {"type": "text", "text": entry["question"]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = model.generate(**inputs, max_new_tokens=20)
        words = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert words.strip() == entry["answer"]

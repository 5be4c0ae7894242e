# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Every sub-command with every kind of bad input: one line on stderr that names what was wrong, and exit code 2."""

import errno
import json
import os
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import composites
from helpers.training import save_composite, save_text_model
from rwkv7_world.cli.console import first_line
from rwkv7_world.cli.main import main
from rwkv7_world.configuration.optional_libraries import EXTRAS


COMMANDS = "convert evaluate export generate info merge quantize tokenize train transcribe upload".split()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model of each kind, broken models, and files that are not what their names say."""
    folder = tmp_path_factory.mktemp("place")
    save_text_model(folder / "text")
    save_composite(folder / "world")
    composites.random_image().save(folder / "a.png")
    (folder / "empty").mkdir()
    (folder / "empty.jsonl").touch()
    (folder / "broken.jsonl").write_text('{"text": "the"}\n{"text": \n')
    (folder / "latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "junk.wav").write_bytes(b"junk")
    (folder / "junk.pth").write_bytes(b"junk")
    (folder / "one.jsonl").write_text('{"text": "the red circle", "question": "what?"}\n')
    (folder / "broken.yaml").write_text("model: [\n")
    (folder / "taken.onnx").touch()
    (folder / "beside.onnx.data").touch()
    assert main(["quantize", str(folder / "text"), str(folder / "int8"), "--bits", "8"]) == 0
    for name in ("truncated", "no_weights", "no_tokenizer"):
        save_text_model(folder / name)
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (folder / "no_weights" / "model.safetensors").unlink()
    for file in (*(folder / "no_tokenizer").glob("tokenizer*"), *(folder / "no_tokenizer").glob("*vocab*")):
        file.unlink()
    save_composite(folder / "no_processor")
    (folder / "no_processor" / "processor_config.json").unlink()
    return folder


MODEL_COMMANDS = {
    "generate": ("generate", "MODEL", "what?"),
    "evaluate": ("evaluate", "MODEL", "bpc", "--data", "one.jsonl", "--output", "run"),
    "export": ("export", "MODEL", "out.onnx"),
    "quantize": ("quantize", "MODEL", "out", "--bits", "8"),
    "merge": ("merge", "MODEL", "empty", "out"),
    "info": ("info", "MODEL"),
}
NO_MODEL = [(name, "./nowhere", "nowhere: no such model folder") for name in MODEL_COMMANDS]
NO_MODEL += [(name, "empty", "empty: not a model folder, it holds no config.json") for name in MODEL_COMMANDS]
NO_MODEL += [(name, "truncated", "truncated/model.safetensors: truncated") for name in MODEL_COMMANDS]
NO_MODEL += [(name, "no_weights", "no_weights") for name in MODEL_COMMANDS]
NO_MODEL += [
    (name, "no_tokenizer", "no_tokenizer: its tokenizer cannot be loaded") for name in ("generate", "quantize")
]
NO_MODEL += [("generate", "no_processor", "no_processor: its processor has no image_processor")]

OTHER = [
    (("generate", "text"), "a QUESTION is needed, or --input"),
    (("generate", "text", "what?", "--frames", "3"), "--frames is for videos"),
    (("generate", "text", "what?", "--out", "a.jsonl"), "--out goes with --input"),
    (("generate", "text", "--input", "one.jsonl"), "--input needs --out"),
    (("generate", "world", "what?", "--thinking"), "the chat template of world has no place for thoughts"),
    (("generate", "text", "what?", "--input", "one.jsonl", "--out", "a.jsonl"), "a question does not go with --input"),
    (("generate", "text", "--input", "nowhere.jsonl", "--out", "a.jsonl"), "nowhere.jsonl: no such file"),
    (("generate", "text", "--input", "broken.jsonl", "--out", "a.jsonl"), "broken.jsonl:2: no JSON"),
    (("generate", "text", "--input", "one.jsonl", "--out", "one.jsonl"), "one.jsonl: exists already"),
    (("generate", "text", "--input", "one.jsonl", "--out", "nowhere/a.jsonl"), "nowhere: no such folder"),
    (("generate", "text", "what?", "--seed", "-1"), "'-1' is not a whole number from 0"),
    (("generate", "text", "what?", "--image", "http://127.0.0.1:9/a.png"), "a.png: cannot be downloaded"),
    (("generate", "text", "what?", "--adapter", "empty"), "empty: no adapter of PEFT"),
    (("transcribe", "text", "junk.wav", "--out", "a.csv"), "text: the model has no audio encoder"),
    (("transcribe", "world", "empty", "--out", "a.csv"), "empty: no clip in it"),
    (("transcribe", "world", "nowhere", "--out", "a.csv"), "nowhere: no such folder or file"),
    (("transcribe", "world", "junk.wav", "--out", "a.doc"), "a.doc: --out ends in .csv, .jsonl, .srt"),
    (("transcribe", "./nowhere", "junk.wav", "--out", "a.csv"), "nowhere: no such model folder"),
    (("evaluate", "text", "bpc", "--data", "broken.jsonl"), "broken.jsonl:2: no JSON"),
    (("evaluate", "text", "bpc", "--data", "latin.txt"), "latin.txt: neither UTF-8 nor UTF-16"),
    (("evaluate", "text", "bpc", "--data", "empty.jsonl"), "empty.jsonl: no text"),
    (("evaluate", "text", "bpc", "--data", "one.jsonl", "--split", "test"), "bpc has no split 'test'"),
    (("evaluate", "text", "bpc", "--data", "one.jsonl", "--output", "one.jsonl"), "one.jsonl"),
    (("evaluate", "text", "bpc", "--data", "one.jsonl", "--adapter", "./nowhere"), "./nowhere: neither a folder"),
    (("evaluate", "text", "bpc", "--data", "one.jsonl", "--adapter", "a/b"), "a/b: neither a folder"),
    (("generate", "a/b", "what?"), "a/b: neither a folder"),
    (("quantize", "a/b", "out", "--bits", "8"), "a/b: neither a folder"),
    (("tokenize", "one.jsonl", "corpus", "--tokenizer", "a/b"), "a/b: its tokenizer cannot be loaded"),
    (("tokenize", "nowhere.jsonl", "corpus", "--tokenizer", "text"), "nowhere.jsonl"),
    (("tokenize", "one.jsonl", "corpus", "--tokenizer", "empty"), "empty: its tokenizer cannot be loaded"),
    (("tokenize", "latin.txt", "corpus", "--tokenizer", "text"), "latin.txt: "),
    (("tokenize", "empty.jsonl", "corpus", "--tokenizer", "text"), "empty.jsonl: "),
    (("tokenize", "broken.jsonl", "corpus", "--tokenizer", "text"), "broken.jsonl:2: "),
    (("quantize", "text", "empty/../text", "--bits", "8"), "text: exists already"),
    (("quantize", "text", "nowhere/out", "--bits", "8"), "nowhere: no such folder"),
    (("quantize", "text", "out", "--bits", "3"), "invalid choice: 3"),
    (("export", "world", "out.onnx"), "world: holds a rwkv_world model, expected a text model"),
    (("export", "int8", "out.onnx"), "int8: is quantised (8 bits"),
    (("export", "text", "out.pt"), "out.pt: the name of an ONNX file ends in .onnx"),
    (("export", "text", "taken.onnx"), "taken.onnx: exists already"),
    (("export", "text", "beside.onnx"), "beside.onnx.data: exists already"),
    (("export", "text", "nowhere/out.onnx"), "nowhere: no such folder"),
    (("export", "junk.pth", "out.onnx"), "junk.pth"),
    (("export", "a/b", "out.onnx"), "a/b: neither a folder"),
    (("merge", "text", "./nowhere", "out"), "nowhere: no adapter of PEFT"),
    (("merge", "text", "empty", "out"), "empty: no adapter of PEFT"),
    (("merge", "text", "empty", "world"), "world: exists already"),
    (("convert", "nowhere.pth", "out"), "nowhere.pth"),
    (("convert", "junk.pth", "out"), "junk.pth"),
    (
        ("convert", "text", "out", "--template", "g2"),
        "unknown template 'g2' of a text model",
    ),
    (("upload", "junk.pth", "me/it", "--dry-run"), "junk.pth: not a .pth file"),
    (("train", "nowhere.yaml"), "nowhere.yaml"),
    (("train", "broken.yaml"), "broken.yaml"),
    (("upload", "nowhere", "me/it", "--dry-run"), "nowhere"),
    (("upload", "empty", "me/it", "--dry-run"), "empty"),
]


def refusal(capsys, *argv) -> str:
    try:
        status = main([*argv])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    assert (status, err.count("\n"), out) == (2, 1, ""), err
    assert err.startswith("rwkv7-world: error: ")
    return err


@pytest.mark.parametrize(("command", "model", "complaint"), NO_MODEL)
def test_models_that_cannot_be_used_are_named(place, monkeypatch, capsys, command, model, complaint):
    monkeypatch.chdir(place)
    assert complaint in refusal(capsys, *(model if word == "MODEL" else word for word in MODEL_COMMANDS[command]))
    assert not list(place.glob("out*"))


@pytest.mark.parametrize(("argv", "complaint"), OTHER, ids=lambda value: " ".join(value)[:40])
def test_other_input_is_refused_by_name(place, monkeypatch, capsys, argv, complaint):
    monkeypatch.chdir(place)
    assert complaint in refusal(capsys, *argv)
    assert not any(list(place.glob(pattern)) for pattern in ("corpus*", "out*", ".*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_option_points_to_the_help_of_its_command(capsys, command):
    arguments = {"info": [], "train": ["a.yaml"], "tokenize": ["a", "b", "--tokenizer", "c"], "evaluate": []}
    arguments |= {"transcribe": ["a", "b", "--out", "c.csv"], "quantize": ["a", "b", "--bits", "8"]}
    arguments |= {"merge": ["a", "b", "c"]}
    said = refusal(capsys, command, *arguments.get(command, ["a", "b"]), "--debgu")
    assert "--debgu" in said and f"(see rwkv7-world {command} --help)" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0 and f"examples:\n  rwkv7-world {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full; make room"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full; make room"),
        (FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), "runs"), "runs: exists already"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/a"), "runs/a: permission denied"),
        (ModuleNotFoundError("No module named 'jiwer'", name="jiwer"), 'jiwer is not installed; pip install "rwkv7'),
        (PackageNotFoundError("bitsandbytes"), 'bitsandbytes is not installed; pip install "rwkv7-world[qlora]"'),
    ],
)
def test_what_the_system_says_in_code_is_put_in_words(error, line):
    assert first_line(error).startswith(line)


def test_every_extra_that_is_named_exists():
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    for library, extra in EXTRAS.items():
        listed = setup["options.extras_require"][extra].replace("-", "_").split()
        assert any(library in name for name in listed), (library, extra)


def test_a_missing_shard_is_named(place, monkeypatch, capsys, tmp_path):
    model = save_text_model(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00002-of-00002.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    capsys.readouterr()
    assert "model-00002-of-00002.safetensors: no such file" in refusal(capsys, "info", str(model))
    save_file({"a": torch.zeros(1)}, model / "model-00002-of-00002.safetensors")
    assert main(["info", str(model)]) == 0

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world export`, from a folder to what ONNX Runtime says of it."""

import re
from pathlib import Path

import pytest
import torch

from helpers.text_models import tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVWorldTokenizer
from rwkv7_world.cli.main import main
from rwkv7_world.conversion import onnx_file
from rwkv7_world.conversion.onnx_file import OnnxFile


def example() -> str:
    """The Python of docs/conversion.md that runs an ONNX file."""
    page = (Path(__file__).parents[2] / "docs" / "conversion.md").read_text(encoding="utf-8")
    return re.search(r"### In ONNX Runtime\n.*?```python\n(.*?)```", page, flags=re.DOTALL)[1]


def test_a_folder_in_bfloat16_becomes_a_file_in_float32_and_the_documents_example_runs_it(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    tokenizer = RWKVWorldTokenizer()
    tiny_model(dtype=torch.bfloat16, vocab_size=len(tokenizer)).save_pretrained("rwkv7-0.1b")
    tokenizer.save_pretrained("rwkv7-0.1b")
    capsys.readouterr()
    assert main(["export", "rwkv7-0.1b", "rwkv7-0.1b.onnx"]) == 0
    printed, complaints = capsys.readouterr()
    file = Path("rwkv7-0.1b.onnx")
    assert re.match(rf"{file}: [\d,]+ parameters in float32, {file.stat().st_size:,} bytes\n", printed), printed
    assert float(re.search(r"differ from PyTorch's by at most (\S+) of the largest\n", printed)[1]) < 1e-5
    assert complaints == ""

    namespace = {}
    exec(compile(example(), "conversion.md", "exec"), namespace)
    model = RWKV7ForCausalLM.from_pretrained("rwkv7-0.1b", dtype=torch.float32)
    prompt = torch.tensor([[0, *tokenizer("User: Name three colors.\n\nAssistant:").input_ids]])
    expected = model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert namespace["answer"] == expected
    assert capsys.readouterr().out == namespace["tokenizer"].decode(expected) + "\n"


def test_options_reach_the_file_and_all_files_are_named(tmp_path, monkeypatch, capsys):
    given = {}

    def export_onnx(model, destination, on_stage, **options):
        given.update(options, dtype=model.dtype)
        return OnnxFile((destination, destination.with_name("a.start.npz")), 1234, 99, 1.5e-6)

    monkeypatch.setattr(onnx_file, "export_onnx", export_onnx)
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: object())
    monkeypatch.chdir(tmp_path)
    tiny_model(dtype=torch.float16).save_pretrained("model")
    capsys.readouterr()
    assert main(["export", "model", "a.onnx", "--attention-mask"]) == 0
    assert given == {"attention_mask": True, "last_logits": False, "dtype": torch.float32}
    lines = ["a.onnx: 99 parameters in float32, 1,234 bytes", "a.start.npz: beside it"]
    assert capsys.readouterr().out.splitlines()[:2] == lines
    assert main(["export", "model", "b.onnx", "--last-logits"]) == 0
    assert given == {"attention_mask": False, "last_logits": True, "dtype": torch.float32}


@pytest.mark.parametrize("library", onnx_file.LIBRARIES)
def test_a_missing_library_is_answered_with_what_installs_it(tmp_path, monkeypatch, capsys, library):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == library else object())
    tiny_model().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "model.onnx")]) == 2
    said = f'rwkv7-world: error: {library} is not installed; pip install "rwkv7-world[onnx]"\n'
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "model.onnx").exists()

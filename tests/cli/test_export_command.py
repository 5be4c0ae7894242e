# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world export`, from a folder to what ONNX Runtime says of it."""

import re

import numpy as np
import pytest
import torch

from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.cli.main import main
from rwkv7_world.conversion import onnx_file


@torch.no_grad()
def test_a_folder_in_bfloat16_becomes_a_file_in_float32(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, file = tmp_path / "model", tmp_path / "model.onnx"
    tiny_model(dtype=torch.bfloat16).save_pretrained(folder)
    capsys.readouterr()
    assert main(["export", str(folder), str(file), "--last-logits"]) == 0
    printed, complaints = capsys.readouterr()
    assert f"{file}: 21,024 parameters in float32, {file.stat().st_size:,} bytes\n" in printed and complaints == ""
    assert float(re.search(r"differ from PyTorch's by at most (\S+)\n", printed)[1]) < 1e-5

    session = onnxruntime.InferenceSession(file)
    ids, states = session.get_inputs()[0], session.get_inputs()[1:]
    feed = {value.name: np.zeros((3, *value.shape[1:]), np.float32) for value in states}
    logits = session.run(["logits"], {ids.name: random_ids(3, 7).numpy(), **feed})[0]
    expected = RWKV7ForCausalLM.from_pretrained(folder, dtype=torch.float32)(random_ids(3, 7)).logits[:, -1:]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", onnx_file.LIBRARIES)
def test_a_missing_library_is_answered_with_what_installs_it(tmp_path, monkeypatch, capsys, library):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == library else object())
    tiny_model().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "model.onnx")]) == 2
    said = f'rwkv7-world: error: {library} is not installed; pip install "rwkv7-world[onnx]"\n'
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "model.onnx").exists()

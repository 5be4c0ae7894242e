# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world info`: its figures are those of the model, and what it cannot describe it refuses in one line."""

import json
import re

import pytest
import torch

from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVQuantizationConfig
from rwkv7_world.cli.loading import load_config, load_model
from rwkv7_world.cli.main import main
from rwkv7_world.kernels.cpu import linear as linear_cpu
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend
from rwkv7_world.state.states import state_size


def info(capsys, *argv) -> dict[str, str]:
    """The lines that `info` prints, by name."""
    assert main(["info", *map(str, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return {name.strip(): value.strip() for name, value in (line.split("  ", 1) for line in out.splitlines())}


def refusal(capsys, *argv) -> str:
    """The one line of an error."""
    assert main(["info", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sizes_are_those_of_the_model(dtype, tmp_path, capsys):
    model = tiny_model(dtype=dtype)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        cache = model(random_ids(1, 3), use_cache=True).past_key_values
    layers = [x for y in cache.layers for x in (*y.conv_states.values(), y.recurrent_states[0])]
    capsys.readouterr()  # the bar of saving
    lines = info(capsys, tmp_path)
    assert lines["parameters"] == f"{model.num_parameters():,}"
    assert lines["state"].startswith(f"{sum(x.nbytes for x in layers):,} bytes")
    assert lines["saved as"] == str(dtype).removeprefix("torch.")
    assert lines["weight files"] == f"{(tmp_path / 'model.safetensors').stat().st_size:,} bytes"


def test_relatives_are_told_and_how_their_state_grows(tmp_path, capsys):
    tiny_model(deep_embed_dim=4).save_pretrained(tmp_path / "7a")
    model = tiny_model(deep_embed_dim=4, deep_embed_attn_dim=12)
    model.save_pretrained(tmp_path / "7b")
    with torch.no_grad():
        cache = model(torch.tensor([[3, 4, 3, 5, 3]]), use_cache=True).past_key_values
    capsys.readouterr()  # the bars of saving
    assert info(capsys, tmp_path / "7a")["model"] == "rwkv7 (RWKV-7a, with DeepEmbed), 2 layers, width 32"
    lines = info(capsys, tmp_path / "7b")
    assert lines["model"].startswith("rwkv7 (RWKV-7b, with DeepEmbed and DEA), ")
    constant, token, different = (int(x.replace(",", "")) for x in re.findall(r"[\d,]*\d", lines["state"]))
    assert state_size(cache) == constant + 5 * token + 3 * different


def test_a_quantised_model_is_told_and_not_quantised_again(tmp_path, capsys):
    model = tiny_model(hidden_size=64)
    model.save_pretrained(tmp_path / "float")
    config = RWKVQuantizationConfig(bits=4)
    RWKV7ForCausalLM.from_pretrained(tmp_path / "float", quantization_config=config).save_pretrained(tmp_path / "int4")
    capsys.readouterr()
    assert "quantised" not in info(capsys, tmp_path / "float")
    lines = info(capsys, tmp_path / "int4")
    assert lines["quantised"] == "4 bits, a scale for every 32 weights"
    assert lines["parameters"] == f"{model.num_parameters():,}"
    with pytest.raises(ValueError, match="is saved quantised .4 bits"):
        load_model(load_config(str(tmp_path / "int4")), "auto", torch.device("cpu"), "int8")


def test_without_a_model_it_tells_what_runs(capsys):
    lines = info(capsys)
    assert "parameters" not in lines
    assert {name: lines[f"wkv7 {name}"] for name in explain_backends()} == explain_backends()
    assert lines["wkv7 runs"].split()[0] == select_backend()
    assert linear_cpu.way_of_linear(torch.float32, 512) in lines["linear float32"]


def test_a_missing_library_is_told_with_the_reason(capsys, monkeypatch):
    monkeypatch.setattr(linear_cpu, "library", lambda: "no C++ compiler")
    lines = info(capsys)
    assert lines["linear C++"] == "no C++ compiler"
    assert "C++" not in lines["linear float32"]


def test_the_backend_asked_for_is_told(capsys, monkeypatch):
    monkeypatch.setenv("RWKV7_BACKEND", "reference")
    assert info(capsys)["wkv7 runs"].startswith("reference")


def test_what_it_cannot_describe_is_refused(capsys, tmp_path, monkeypatch):
    assert "no such model folder" in refusal(capsys, tmp_path / "missing")
    assert "no config.json" in refusal(capsys, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "gpt2" in refusal(capsys, tmp_path)
    monkeypatch.setenv("RWKV7_BACKEND", "warp")
    assert "'warp'" in refusal(capsys)


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["info", "--help"])
    assert exit_.value.code == 0
    assert "rwkv7-world info examples/tiny_world/checkpoint" in capsys.readouterr().out

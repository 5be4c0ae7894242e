# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert` for RWKV-PEFT's files, and `generate --adapter`: what they say, and refusals of one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapters import randomize_adapter
from helpers.commands import convert_refusal as refusal
from helpers.composites import tiny_composite, tiny_processor
from helpers.text_models import tiny_model
from rwkv7_world.adapters import attach_adapter
from rwkv7_world.cli.main import main


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    tensors = {"blocks.0.att.key.lora_A": torch.randn(4, 32), "blocks.0.att.key.lora_B": torch.randn(32, 4)}
    torch.save(tensors, tmp_path / "lora.pth")
    return tmp_path / "lora.pth"


def test_there_and_back(base: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, back = tmp_path / "adapter", tmp_path / "back.pth"
    assert main(["convert", str(lora), str(out), "--base", str(base), "--alpha", "6"]) == 0
    assert capsys.readouterr() == (f"{out}: an adapter of PEFT, from LoRA of rank 4, 2 tensors\n", "")
    assert main(["convert", str(out), str(back), "--to", "rwkv-peft", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr() == (f"{back}: LoRA, 2 tensors; the file does not tell alpha, which is 6\n", "")
    tensors = torch.load(back)
    assert all(torch.equal(tensors[name], tensor.bfloat16()) for name, tensor in torch.load(lora).items())


def test_merged_into_the_whole_model(
    base: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--base", str(base), "--alpha", "6", "--merge"]
    assert main(["convert", str(lora), str(tmp_path / "out"), *arguments]) == 0
    assert "the whole model, with merged weights, from LoRA of rank 4" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in base.iterdir()}


def test_refusals(base: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    kind = "an adapter of RWKV-PEFT or a trained state"
    assert refusal(capsys, lora, out) == f"{lora}: {kind}; give the folder of its model with --base"
    assert "does not tell LoRA's alpha: give the --alpha" in refusal(capsys, lora, out, "--base", base)
    message = f"--alpha is for converting RWKV-PEFT's adapters, not {base}"
    assert refusal(capsys, base, out, "--alpha", "2") == message
    assert "'0' is not a number above 0" in refusal(capsys, lora, out, "--base", base, "--alpha", "0")
    assert "not an adapter folder of PEFT" in refusal(capsys, base, out, "--to", "rwkv-peft")
    assert not out.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("merge", [(), ("--merge",)])
def test_numbers_that_are_not_finite_are_refused(base, lora, tmp_path, capsys, value, merge):
    sound, out = tmp_path / "sound", tmp_path / "out"
    arguments = ["--base", base, "--alpha", "6"]
    assert main(["convert", *map(str, [lora, sound, *arguments])]) == 0
    capsys.readouterr()
    tensors = torch.load(lora)
    tensors["blocks.0.att.key.lora_B"][2, 1] = value
    torch.save(tensors, tmp_path / "bad.pth")
    said = refusal(capsys, tmp_path / "bad.pth", out, *arguments, *merge)
    assert said.startswith(f"{tmp_path / 'bad.pth'}: blocks.0.att.key.lora_B: holds numbers that are not finite")

    weights = load_file(base / "model.safetensors")  # the base model's own, merged into, or saved beside the adapter
    weights["model.layers.0.attn.k_proj.weight"][0, 0] = weights["model.layers.0.attn_norm.bias"][0] = value
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    torch.save(torch.load(lora) | {"blocks.0.ln1.weight": torch.ones(32)}, lora)
    said = refusal(capsys, lora, out, *arguments, *merge)
    assert said.startswith(f"{base}: model.layers.0.attn") and "holds numbers that are not finite" in said

    file = sound / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "k_proj.lora_A" in name)
    weights[name][0, 0] = value
    save_file(weights, file, {"format": "pt"})
    said = refusal(capsys, sound, tmp_path / "back.pth", "--to", "rwkv-peft")
    assert said.startswith(f"{file}: blocks.0.att.key.lora_A: holds numbers that are not finite")
    assert not out.exists() and not (tmp_path / "back.pth").exists()


def test_generate_answers_with_the_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state, which changes the answer; and one of another model, which is refused in one line."""
    tiny_composite("siglip").save_pretrained(tmp_path / "model")
    tiny_processor("siglip").save_pretrained(tmp_path / "model")
    for name, model in (("state", tiny_composite("siglip")), ("foreign", tiny_model())):
        randomize_adapter(attach_adapter(model, {"method": "state"}), scale=3.0).save_pretrained(tmp_path / name)
    command = ["generate", str(tmp_path / "model"), "what", "--max-new-tokens", "6", "--device", "cpu"]
    assert main(command) == 0
    without = capsys.readouterr().out
    assert main([*command, "--adapter", str(tmp_path / "state")]) == 0
    assert capsys.readouterr().out != without
    assert main([*command, "--adapter", str(tmp_path / "foreign")]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "an adapter of another model" in error

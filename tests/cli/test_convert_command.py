# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert`: what it writes and says, and refusals of one line that leave nothing behind."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.blinkdl import Sizes, random_checkpoint
from helpers.commands import convert_refusal as refusal
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.cli.main import build_parser, main


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    torch.save(random_checkpoint(Sizes(layer_0_has_v=True)), tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_there_and_back(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub, back = tmp_path / "hub", tmp_path / "back.pth"
    assert main(["convert", str(pth), str(hub), "--max-shard-size", "500KB"]) == 0
    checkpoint = torch.load(pth)
    assert capsys.readouterr().out.splitlines() == [
        f"{hub}: {sum(tensor.numel() for tensor in checkpoint.values()):,} numbers in float32, 2 layers of 128",
        "no tokenizer: a vocabulary of 90 is not that of the World models",
        "kept aside for the way back: blocks.0.att.v0, blocks.0.att.v1, blocks.0.att.v2",
    ]
    assert len(list(hub.glob("model-*.safetensors"))) > 2
    assert main(["convert", str(hub), str(back), "--to", "blinkdl"]) == 0
    assert capsys.readouterr().err == ""
    tensors = torch.load(back)
    assert tensors.keys() == checkpoint.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in checkpoint.items())


def test_dtype_of_the_weights(pth: Path, tmp_path: Path) -> None:
    assert main(["convert", str(pth), str(tmp_path / "hub"), "--dtype", "bfloat16"]) == 0
    assert RWKV7ForCausalLM.from_pretrained(tmp_path / "hub").dtype == torch.bfloat16


def test_a_taken_destination_is_left_alone(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "diary").write_text("dear diary")
    message = refusal(capsys, pth, tmp_path / "taken")
    assert message == f"{tmp_path / 'taken'}: exists already, expected a new or an empty folder"
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["diary"]
    hub = tmp_path / "hub"
    hub.mkdir()
    assert main(["convert", str(pth), str(hub)]) == 0, "an empty folder may be filled"
    capsys.readouterr()
    before = pth.read_bytes()
    assert refusal(capsys, hub, pth, "--to", "blinkdl") == f"{pth}: exists already"
    assert pth.read_bytes() == before


def test_a_destination_that_cannot_be_written(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, pth, tmp_path / "none" / "hub") == f"{tmp_path / 'none'}: no such folder"
    if Path("/proc/self").exists():  # not even root may write there
        assert refusal(capsys, pth, "/proc/hub").startswith("/proc: cannot be written to (")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_a_damaged_file_is_refused(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pth.write_bytes(pth.read_bytes()[:-1000])
    message = refusal(capsys, pth, tmp_path / "hub")
    assert message == f"{pth}: not a .pth file, or not a whole one (torch.load cannot read it)"
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("size", ["5", "0GB", "-1MB", "much", "5GiB"])
def test_a_shard_size_that_is_none(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "a.pth", "b", f"--max-shard-size={size}")
    assert f"{size!r} is not a size such as 500MB or 5GB" in message


def test_shard_sizes_are_decimal() -> None:
    for text, size in (("500MB", 500_000_000), ("1.5 gb", 1_500_000_000)):
        assert build_parser().parse_args(["convert", "a", "b", "--max-shard-size", text]).max_shard_size == size
    assert build_parser().parse_args(["convert", "a", "b"]).max_shard_size == 5_000_000_000


def test_help_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith("  rwkv7-world convert ")


@pytest.mark.parametrize(("value", "options"), [("nan", ()), ("-inf", ()), ("1e6", ("--dtype", "float16"))])
def test_weights_that_are_not_finite_are_refused(pth: Path, tmp_path: Path, capsys, value, options) -> None:
    main(["convert", str(pth), str(tmp_path / "sound")])
    checkpoint = torch.load(pth)
    checkpoint["blocks.1.ffn.key.weight"][0, 0] = float(value)
    torch.save(checkpoint, pth)
    capsys.readouterr()
    message = refusal(capsys, pth, tmp_path / "hub", *options)
    assert message.startswith(f"{pth}: blocks.1.ffn.key.weight: holds numbers that are not finite")
    weights = load_file(tmp_path / "sound" / "model.safetensors")
    weights["model.layers.1.ffn.key.weight"][0, 0] = float(value)
    save_file(weights, tmp_path / "sound" / "model.safetensors", {"format": "pt"})
    message = refusal(capsys, tmp_path / "sound", tmp_path / "back.pth", "--to", "blinkdl", *options)
    assert message.startswith(f"{tmp_path / 'sound'}: blocks.1.ffn.key.weight: holds numbers that are not finite")
    assert not (tmp_path / "hub").exists() and not (tmp_path / "back.pth").exists()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert` on VisualRWKV's checkpoints: what it says, and refusals of one line that leave nothing."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.blinkdl import Sizes, random_checkpoint
from helpers.commands import convert_refusal
from helpers.composites import random_image
from helpers.visualrwkv import FEATURES, random_projector, random_towers
from helpers.worldrwkv import HIDDEN, random_text, save_encoder
from rwkv7_world.cli.main import main


DINO_KEY = "vit.dino_featurizer.blocks.1.attn.qkv.weight"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    text = {f"rwkv.{name}": tensor for name, tensor in random_text().items()}
    return text | random_towers() | random_projector()


@pytest.fixture(scope="module")
def hub(tensors, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("visual")
    torch.save(tensors, folder / "a.pth")
    assert main(["convert", str(folder / "a.pth"), str(folder / "hub")]) == 0
    return folder / "hub"


def test_there_and_back(tensors, tmp_path, capsys):
    source, hub, back = tmp_path / "a.pth", tmp_path / "hub", tmp_path / "back.pth"
    torch.save(tensors, source)
    assert main(["convert", str(source), str(hub)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        "VisualRWKV 7.00, 16 tokens a picture, towers: its own",
        "kept aside for the way back: 42 tensors that are never used",
    ]
    assert err == ""
    assert main(["convert", str(hub), str(back), "--to", "visualrwkv"]) == 0
    found = torch.load(back)
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_converted_model_answers(hub, tmp_path, capsys):
    random_image().save(tmp_path / "a.png")
    arguments = ["generate", str(hub), "what is it?", "--image", str(tmp_path / "a.png"), "--max-new-tokens", "3"]
    assert main(arguments) == 0
    assert main([*arguments, "--no-stream"]) == 0
    streamed, whole = capsys.readouterr().out.rstrip("\n").split("\n")
    assert streamed == whole


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rwkv.blocks.0.att.time_maa_x", "a VisualRWKV 6 checkpoint (RWKV-6)"),
        ("rwkv.blocks.0.att.time_decay", "a VisualRWKV 5 checkpoint or older"),
        ("vtc.blocks.0.ln0.weight", "a VisualRWKV 7.03 or 7.04 checkpoint (it compresses visual tokens)"),
        ("vrwkv.ln_out.weight", "a VisualRWKV 7.10 checkpoint (without a vision encoder)"),
        ("proj.proj.weight", "a VisualRWKV 6 checkpoint (HD or UHD)"),
        ("vit.vision_model.embeddings.x", "a VisualRWKV checkpoint with one vision encoder (as 6 or 7.01)"),
    ],
)
def test_other_versions_are_told_by_their_names(name, message, tensors, tmp_path, capsys):
    source = tmp_path / "other.pth"
    torch.save({"rwkv.emb.weight": torch.zeros(2, 2), name: torch.zeros(2)}, source)
    refused = convert_refusal(capsys, source, tmp_path / "hub")
    assert refused == f"{source}: {message}, which is not supported: expected 7.00 (it holds the tensor {name})"
    assert not (tmp_path / "hub").exists()


WITHOUT = {
    "rwkv.blocks.1.att.w1": "the tensor blocks.1.att.w1 is missing",
    "proj.gate.weight": "the tensor proj.gate.weight is missing",
    "proj.o_proj.weight": "the tensor proj.o_proj.weight is missing",
    DINO_KEY: f"the tensor {DINO_KEY} is missing",
    "vit.dino_featurizer.pos_embed": "vit.dino_featurizer.*: the tensor pos_embed is missing",
    "vit.sam_featurizer.neck.2.weight": "the tensor vit.sam_featurizer.neck.2.weight is missing",
}


@pytest.mark.parametrize(("name", "message"), WITHOUT.items())
def test_a_missing_tensor_is_named(name, message, tensors, tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save({key: tensor for key, tensor in tensors.items() if key != name}, source)
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"


def test_a_missing_tower_is_named(tensors, tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save({key: tensor for key, tensor in tensors.items() if not key.startswith("vit.sam_")}, source)
    message = "the tower SAM is missing: no tensor is called vit.sam_featurizer.*"
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"


WITH = {
    DINO_KEY: (torch.zeros(3, 3), f"{DINO_KEY} has the shape (3, 3), expected (384, 128)"),
    "vit.siglip_featurizer.pos_embed": (
        torch.zeros(1, 15, 144),
        "vit.siglip_featurizer.*: pos_embed has 15 positions, expected a square number",
    ),
    "vit.sam_featurizer.odd": (torch.zeros(1), "unexpected tensor vit.sam_featurizer.odd in the tower SAM"),
    "head.weight": (torch.zeros(1), "unexpected tensor head.weight in VisualRWKV 7.00"),
    "vit.dino_featurizer.blocks.99999.norm1.weight": (
        torch.zeros(1),
        "vit.dino_featurizer.*: 50 tensors cannot make the 100000 layers that their names tell of",
    ),
}


@pytest.mark.parametrize(("name", "tensor", "message"), [(name, *rest) for name, rest in WITH.items()])
def test_a_wrong_tensor_is_named(name, tensor, message, tensors, tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save(tensors | {name: tensor}, source)
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"


def test_a_projector_of_another_width_is_told_from_its_towers(tensors, tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save(tensors | random_projector(features=FEATURES + 1), source)
    assert convert_refusal(capsys, source, tmp_path / "hub") == (
        f"{source}: its projector takes features of 305, but the towers give 128 + 144 + 32 = 304"
    )


def test_encoders_that_do_not_fit_are_told(tensors, tmp_path, capsys):
    source, siglip = tmp_path / "a.pth", tmp_path / "siglip"
    save_encoder(siglip, "siglip")
    capsys.readouterr()
    torch.save({key: tensor for key, tensor in tensors.items() if not key.startswith("vit.")}, source)
    assert convert_refusal(capsys, source, tmp_path / "hub", "--encoder", siglip) == (
        f"{source}: 1 encoders were given, expected 3: DINOv2, SigLIP, SAM, in this order"
    )
    three = [argument for _ in range(3) for argument in ("--encoder", siglip)]
    assert convert_refusal(capsys, source, tmp_path / "hub", *three) == (
        f"{source}: {siglip}: its model type is siglip_vision_model, but the vision projector was trained on one of "
        "dinov2_with_registers"
    )


@pytest.mark.parametrize(("value", "options"), [("nan", ()), ("inf", ()), ("1e6", ("--dtype", "float16"))])
def test_numbers_that_are_not_finite_are_refused(hub, tmp_path, capsys, value, options):
    folder = shutil.copytree(hub, tmp_path / "hub")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.ffn.key.weight") and "language_model" in name)
    weights[name] = weights[name].float()
    weights[name][0, 0] = float(value)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    said = convert_refusal(capsys, folder, tmp_path / "back.pth", "--to", "visualrwkv", *options)
    assert said.startswith(f"{folder}: rwkv.blocks.1.ffn.key.weight: holds numbers that are not finite")
    assert not (tmp_path / "back.pth").exists()


def test_options_that_make_no_sense_are_refused(tensors, hub, tmp_path, capsys):
    source = tmp_path / "a.pth"
    torch.save(tensors, source)
    assert convert_refusal(capsys, source, tmp_path / "out", "--encoder", "x") == (
        f"{source}: holds its own towers, so it takes no encoders"
    )
    assert convert_refusal(capsys, source, tmp_path / "out", "--era", "E1") == (
        f"--era is for converting WorldRWKV's checkpoints, not {source}"
    )
    assert convert_refusal(capsys, source, tmp_path / "out", "--tokens-per-image", "5") == (
        f"{source}: num_token_per_image is 5, expected a square number."
    )
    assert convert_refusal(capsys, hub, tmp_path / "out", "--to", "visualrwkv", "--encoder", "x") == (
        f"--encoder is for converting WorldRWKV's, E7's and VisualRWKV's checkpoints, not {hub}"
    )
    assert "no RWKV-7 checkpoint: it holds no tensor blocks.0.*" in convert_refusal(
        capsys, hub, tmp_path / "out", "--to", "blinkdl"
    )


def test_half_a_checkpoint_is_refused(tensors, tmp_path, capsys):
    source = tmp_path / "a_visual.pth"
    torch.save({key: tensor for key, tensor in tensors.items() if not key.startswith("rwkv.")}, source)
    assert convert_refusal(capsys, source, tmp_path / "hub") == (
        f"{source}: the text model is missing: no tensor is called rwkv.*, and there are no files NAME_rwkv.pth and "
        "NAME_visual.pth side by side"
    )


def test_a_text_model_that_is_no_world_model_is_refused(tmp_path, capsys):
    source = tmp_path / "a.pth"
    text = {f"rwkv.{name}": tensor for name, tensor in random_checkpoint(Sizes(hidden=HIDDEN, head_size=32)).items()}
    torch.save(text | random_projector(), source)
    assert convert_refusal(capsys, source, tmp_path / "hub") == (
        f"{source}: a vocabulary of 90 is not that of World models, expected 65536"
    )


def test_other_folders_are_no_visualrwkv(tmp_path, capsys):
    folder = Path(__file__).parents[2] / "examples" / "tiny_world" / "checkpoint"
    assert convert_refusal(capsys, folder, tmp_path / "a.pth", "--to", "visualrwkv") == (
        f"{folder}: holds a rwkv_world model, expected one that was made of VisualRWKV 7.00"
    )
    assert convert_refusal(capsys, tmp_path, tmp_path / "a.pth", "--to", "visualrwkv") == (
        f"{tmp_path}: not a model folder, it holds no config.json"
    )

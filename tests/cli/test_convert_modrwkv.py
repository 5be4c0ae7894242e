# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert` on checkpoints of era E7: what it says, and refusals of one line that leave nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.commands import convert_refusal
from helpers.composites import random_image
from helpers.modrwkv import (
    HIDDEN,
    KINDS,
    Kind,
    assemble,
    random_encoder,
    random_projectors,
    random_text,
    raw_config,
    write_source,
)
from rwkv7_world.cli.main import main


text = random_text()
FILE = KINDS["mod-rwkv, file"]
UNTOLD = replace(FILE, features=HIDDEN)
DEEPSTACK = KINDS["torchtitan"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """A folder of encoders, by the width of their features."""
    folder = tmp_path_factory.mktemp("encoders")
    for kind in (FILE, UNTOLD):
        random_encoder(kind).save_pretrained(folder / str(kind.features))
    return folder


def write(folder: Path, kind: Kind = FILE, without: tuple[str, ...] = (), **extra) -> Path:
    """A checkpoint of `kind`, without some of its tensors, with more of them."""
    encoder = random_encoder(kind)
    tensors = assemble(kind, text, random_projectors(kind), encoder.state_dict()) | extra
    return write_source(folder, kind, {name: t for name, t in tensors.items() if name not in without}, encoder)


def test_it_says_what_it_took_the_file_for(encoders, tmp_path, capsys):
    source, hub = write(tmp_path, UNTOLD), tmp_path / "hub"
    assert main(["convert", str(source), str(hub), "--encoder", str(encoders / str(HIDDEN))]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "era E7, dialect mod-rwkv (it could be torchtitan-first: --dialect tells), chat template mod-rwkv, encoder "
        "its own",
        "left out, never used: llm.blocks.0.att.v0, llm.blocks.0.att.v1, llm.blocks.0.att.v2",
    ]


def test_an_exported_folder_is_converted_and_asked_about_pictures(tmp_path, capsys):
    source, hub = write(tmp_path, DEEPSTACK), tmp_path / "hub"
    assert main(["convert", str(source), str(hub)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "era E7, dialect torchtitan, chat template torchtitan, encoder its own"
    ]
    pictures = []
    for width, height in ((40, 30), (20, 50)):
        path = tmp_path / f"{width}.png"
        random_image(0, width, height).save(path)
        pictures += ["--image", str(path)]
    assert main(["generate", str(hub), "what?", *pictures, "--max-new-tokens", "2"]) == 0
    out, err = capsys.readouterr()
    assert out and err == ""


def test_a_file_without_an_encoder_is_taken_for_e7_by_its_dialect(encoders, tmp_path, capsys):
    source, hub = write(tmp_path, replace(FILE, has_encoder=False)), tmp_path / "hub"
    encoder = encoders / "48"
    given = ["convert", str(source), str(hub), "--encoder", str(encoder), "--template", "mod-rwkv-order"]
    assert main([*given, "--dialect", "mod-rwkv"]) == 0
    said = capsys.readouterr().out.splitlines()[1]
    assert said == f"era E7, dialect mod-rwkv, chat template mod-rwkv-order, encoder {encoder}"


BAD_FILES = {
    "a projector tensor missing": ({"without": ("proj.mlp.2.bias",)}, "the tensor proj.mlp.2.bias is missing"),
    "no projector": (
        {"without": tuple(f"proj.{name}" for name in random_projectors(FILE))},
        "the projector is missing: no tensor is called proj.*",
    ),
    "an encoder tensor missing": (
        {"without": ("encoder.encoder.blocks.1.norm1.bias",)},
        "the tensor encoder.encoder.blocks.1.norm1.bias is missing",
    ),
    "a text tensor missing": ({"without": ("llm.blocks.1.att.w1",)}, "the tensor blocks.1.att.w1 is missing"),
    "an unknown projector tensor": (
        {"proj.conv.weight": torch.zeros(1)},
        "unexpected tensor proj.conv.weight in a projector",
    ),
    "an unknown encoder tensor": (
        {"encoder.encoder.head.weight": torch.zeros(1)},
        "encoder.encoder.head.weight of shape (1,) does not go with the encoder: it has none such",
    ),
    "an unknown tensor": (
        {"optimizer.step": torch.zeros(1)},
        "the tensor optimizer.step belongs neither to llm.* and proj.* nor to an encoder",
    ),
    "a projector of another shape": (
        {"proj.pre_norm.bias": torch.zeros(3)},
        "proj.pre_norm.bias has the shape (3,), expected (64,)",
    ),
    "a projector without a matrix": (
        {"proj.mlp.0.weight": torch.zeros(3)},
        "proj.mlp.0.weight has the shape (3,), expected 2 dimensions",
    ),
    "an encoder tensor of another shape": (
        {"encoder.encoder.merger.norm.bias": torch.zeros(3)},
        "encoder.encoder.merger.norm.bias of shape (3,) does not go with the encoder: there it is (32,)",
    ),
    "TokenPacker": (
        {"proj.seed_q_proj.weight": torch.zeros(1)},
        "its projector attends to patches (kind cross_attn): which, only an exported folder tells",
    ),
    "tokens that are merged": (
        {"proj.main.in_norm.weight": torch.zeros(1)},
        "its projector is an earlier one that attends to patches (kind cross_attn), which is not supported: it holds "
        "the tensor proj.main.in_norm.weight",
    ),
    "numbers that are not finite": (
        {"proj.mlp.2.bias": torch.full((64,), torch.nan)},
        "proj.mlp.2.bias: holds numbers that are not finite; take an earlier checkpoint if the training diverged, "
        "fetch the file again if it is damaged, or write a wider dtype if they are too large for torch.float32",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_refused(what, encoders, tmp_path, capsys):
    options, message = BAD_FILES[what]
    source = write(tmp_path, **options)
    refused = convert_refusal(capsys, source, tmp_path / "hub", "--encoder", encoders / "48")
    assert refused.removeprefix(f"{source}: ") == message
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


BAD_FOLDERS = {
    "a projector of the DeepStack missing": (
        {"without": tuple(f"model.proj.{n}" for n in random_projectors(DEEPSTACK) if n.startswith("deepstack.1."))},
        "it has projectors for features of 1 earlier layers (proj.deepstack.*), but the encoder gives those of 2",
    ),
    "one between missing": (
        {"without": ("model.proj.deepstack.0.mlp.0.weight",)},
        "the tensor model.proj.deepstack.0.mlp.0.weight is missing",
    ),
    "one too many, far away": (
        {"model.proj.deepstack.999999999.mlp.0.weight": torch.zeros(1)},
        "the tensor model.proj.deepstack.2.mlp.0.weight is missing",
    ),
    "no head": ({"without": ("lm_head.weight",)}, "the tensor head.weight is missing"),
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_a_bad_folder_is_refused(what, tmp_path, capsys):
    options, message = BAD_FOLDERS[what]
    source = write(tmp_path, DEEPSTACK, **options)
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"
    assert not (tmp_path / "hub").exists()


BAD_SETTINGS = {
    "kind": ("resampler", "kind of its projector is 'resampler', expected mlp or cross_attn"),
    "norm": ("batchnorm", "norm of its projector is 'batchnorm', expected layernorm or rmsnorm"),
    "num_query_heads": (8, "model.proj.query_gate_projs.0.weight has the shape (4, 64), expected (8, 64)"),
    "num_key_value_heads": (
        "two",
        "heads, layers and extra_merge_size of its projector_config must be whole numbers, all but layers positive",
    ),
    "tie_qkvo": (False, "the tensor model.proj.rwkv_q_projs.0.weight is missing"),
    "language_layer_indices": (
        [0],
        "unexpected tensor model.proj.memory_norms.2.bias in a projector that attends to patches",
    ),
    "visual_layer_indices": (
        [0, 9],
        "cross_attention_vision_layers is [0, 9], expected increasing layers below 3.",
    ),
}


@pytest.mark.parametrize("option", BAD_SETTINGS)
def test_settings_of_a_projector_that_do_not_go_with_its_tensors_are_refused(option, tmp_path, capsys):
    value, message = BAD_SETTINGS[option]
    kind = KINDS["torchtitan, attention"]
    source = write(tmp_path, kind)
    config = raw_config(kind, random_encoder(kind))
    config["projector_config"][option] = value
    (source / "config.json").write_text(json.dumps(config))
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"


BAD_ENCODERS = {
    "a list": ([3], "vision_config of config.json holds a list, expected an object"),
    "heads": ({"num_heads": 3}, "3 heads do not divide the encoder's width of 32"),
    "layers": ({"depth": 4}, "the tensor model.encoder.blocks.3.norm1.weight is missing"),
    "a type": (
        {"depth": "three"},
        "config.json: Validation error for field 'depth': TypeError: Field 'depth' expected int, got str (value: "
        "'three')",
    ),
}


@pytest.mark.parametrize("what", BAD_ENCODERS)
def test_settings_of_an_encoder_that_cannot_be_are_refused(what, tmp_path, capsys):
    given, message = BAD_ENCODERS[what]
    source = write(tmp_path, DEEPSTACK)
    config = raw_config(DEEPSTACK, random_encoder(DEEPSTACK))
    config["vision_config"] = config["vision_config"] | given if isinstance(given, dict) else given
    (source / "config.json").write_text(json.dumps(config))
    assert convert_refusal(capsys, source, tmp_path / "hub") == f"{source}: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--dialect", "E7"],
            "{source}: unknown dialect 'E7', expected one of mod-rwkv, torchtitan-first, torchtitan",
        ),
        (
            ["--dialect", "torchtitan"],
            "{source}: names and shapes of its projector are of the dialect mod-rwkv, so it is not of torchtitan",
        ),
        (
            ["--template", "E6"],
            "{source}: unknown template 'E6', expected one of mod-rwkv, mod-rwkv-order, torchtitan, "
            "torchtitan-unspoken",
        ),
        (["--era", "E5"], "--era is for converting WorldRWKV's checkpoints, not {source}"),
        (["--encoder", "again"], "{source}: a checkpoint of WorldRWKV has one encoder, not 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, encoders, tmp_path, capsys):
    source = write(tmp_path)
    refused = convert_refusal(capsys, source, tmp_path / "hub", "--encoder", encoders / "48", *options)
    assert refused == message.format(source=source)


def test_an_encoder_that_is_not_known_or_of_another_width_is_told(encoders, tmp_path, capsys):
    source, hub = write(tmp_path), tmp_path / "hub"
    assert convert_refusal(capsys, source, hub) == (
        f"{source}: its encoder of 3 layers of 32 is not one whose heads and DeepStack are known: tell the encoder's "
        "configuration with --encoder"
    )
    assert convert_refusal(capsys, source, hub, "--encoder", encoders / str(HIDDEN)) == (
        f"{source}: its projector takes features of 48, but the encoder gives features of 64"
    )


def test_a_missing_encoder_must_be_told(tmp_path, capsys):
    source = write(tmp_path, replace(FILE, has_encoder=False))
    assert convert_refusal(capsys, source, tmp_path / "hub", "--dialect", "mod-rwkv") == (
        f"{source}: the encoder is missing: no tensor is called encoder.encoder.*: tell it with --encoder"
    )

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world convert` on WorldRWKV's checkpoints: what it says, and refusals of one line that leave nothing."""

from pathlib import Path

import pytest
import soundfile
import torch

from helpers.commands import convert_refusal
from helpers.composites import SAMPLING_RATE, random_clip, random_image
from helpers.worldrwkv import Kind, assemble, random_projector, random_text, save_encoder
from rwkv7_world.cli.main import main
from rwkv7_world.conversion.worldrwkv_published import SIGLIP2, WAVLM_LARGE, find_published


VISION = Kind("modality", "mlp", "siglip")
ADAPTER = "modality.world_encoder.adapter."


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> Path:
    """A folder of encoders."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("siglip", "wavlm"):
        save_encoder(folder / name, name)
    return folder


def write(path: Path, kind: Kind = VISION, without: tuple[str, ...] = (), **extra) -> Path:
    """A checkpoint of `kind`, without some of its tensors, with more of them."""
    tensors = assemble(kind, random_text(), random_projector(kind), {})
    torch.save({name: tensor for name, tensor in tensors.items() if name not in without} | extra, path)
    return path


def test_it_says_what_it_took_the_file_for(encoders, tmp_path, capsys):
    source = write(tmp_path / "rwkv-0.pth")
    assert main(["convert", str(source), str(tmp_path / "hub"), "--encoder", str(encoders / "siglip")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [
        f"era E1 (it could be E2: --era tells), chat template E1, encoder {encoders / 'siglip'}",
        "left out, never used: blocks.0.att.v0, blocks.0.att.v1, blocks.0.att.v2",
    ]
    assert err == ""
    assert {path.name for path in (tmp_path / "hub").iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "rwkv7_world_code",
        "rwkv_vocab_v20230424.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_a_speech_model_is_converted_and_asked_nothing(encoders, tmp_path, capsys):
    source, hub, clip = tmp_path / "speech.pth", tmp_path / "hub", tmp_path / "clip.wav"
    write(source, Kind("modality", "speech", "wavlm"))
    soundfile.write(clip, random_clip(), SAMPLING_RATE)
    assert main(["convert", str(source), str(hub), "--encoder", str(encoders / "wavlm"), "--era", "E2"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("era E2, chat template speech, ")
    assert main(["generate", str(hub), "", "--audio", str(clip), "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_a_model_that_takes_tiles_is_converted_and_asked_about_pictures(encoders, tmp_path, capsys):
    source, hub = tmp_path / "tiles.pth", tmp_path / "hub"
    write(source, Kind("split", "vl_proj", "siglip", 4, kernel=6))
    assert main(["convert", str(source), str(hub), "--encoder", str(encoders / "siglip")]) == 0
    _, era, left_out = capsys.readouterr().out.splitlines()
    assert era == f"era E6, chat template E6, encoder {encoders / 'siglip'}"
    assert left_out.endswith(", llm.blocks.0.att.v2, proj.pre_norm.bias, proj.pre_norm.weight")
    pictures = []
    for width, height in ((40, 30), (20, 50)):
        path = tmp_path / f"{width}.png"
        random_image(0, width, height).save(path)
        pictures += ["--image", str(path)]
    assert main(["generate", str(hub), "what?", *pictures, "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err == ""


def test_era_and_template_can_be_told(encoders, tmp_path, capsys):
    source = write(tmp_path / "rwkv-0.pth")
    told = ["--encoder", str(encoders / "siglip"), "--era", "E2", "--template", "E6"]
    assert main(["convert", str(source), str(tmp_path / "hub"), *told]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("era E2, chat template E6, encoder ")


NOT_FINITE = (
    "holds numbers that are not finite; take an earlier checkpoint if the training diverged, fetch the file again if "
    "it is damaged, or write a wider dtype if they are too large for torch.float32"
)
BAD_CHECKPOINTS = {
    "a projector tensor missing": (
        {"without": (f"{ADAPTER}proj.2.bias",)},
        f"the tensor {ADAPTER}proj.2.bias is missing",
    ),
    "a text tensor missing": ({"without": ("blocks.1.att.w1",)}, "the tensor blocks.1.att.w1 is missing"),
    "an unknown projector tensor": (
        {f"{ADAPTER}extra": torch.zeros(1)},
        f"unexpected tensor {ADAPTER}extra in a projector",
    ),
    "another shape": (
        {f"{ADAPTER}proj.2.bias": torch.zeros(3)},
        f"{ADAPTER}proj.2.bias has the shape (3,), expected (64,)",
    ),
    "both modalities": (
        {f"{ADAPTER}conv.bias": torch.zeros(3)},
        f"holds projectors of both modalities, expected one: {ADAPTER}pre_norm.weight is of vision, "
        f"{ADAPTER}conv.bias of speech",
    ),
    "no part known": (
        {"kind": Kind("split", "mlp", "siglip"), "optimizer.step": torch.zeros(1)},
        "the tensor optimizer.step belongs neither to llm.* and proj.* nor to an encoder",
    ),
    "a tensor of a VlProj missing": (
        {"kind": Kind("split", "vl_proj", "siglip", 4, kernel=6), "without": ("proj.mlp.0.bias",)},
        "the tensor proj.mlp.0.bias is missing",
    ),
    "era E0": (
        {"modality.adapter.0.weight": torch.zeros(1)},
        "a WorldRWKV checkpoint of era E0, which is not supported (it holds the tensor modality.adapter.0.weight)",
    ),
    "a tensor that the encoder has not": (
        {"modality.world_encoder.model.mask": torch.zeros(1)},
        "modality.world_encoder.model.mask of shape (1,) does not go with the encoder: it has none such",
    ),
    "an encoder tensor of another shape": (
        {"modality.world_encoder.model.post_layernorm.bias": torch.zeros(1)},
        "modality.world_encoder.model.post_layernorm.bias of shape (1,) does not go with the encoder: there it is "
        "(16,)",
    ),
    "NaN in a projector": (
        {f"{ADAPTER}proj.2.bias": torch.full((64,), torch.nan)},
        f"{ADAPTER}proj.2.bias: {NOT_FINITE}",
    ),
    "infinity in a text model": (
        {"blocks.1.ffn.key.weight": torch.full((96, 64), torch.inf)},
        f"blocks.1.ffn.key.weight: {NOT_FINITE}",
    ),
}


@pytest.mark.parametrize("what", BAD_CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(what, encoders, tmp_path, capsys):
    options, message = BAD_CHECKPOINTS[what]
    source = write(tmp_path / "bad.pth", **options)
    refused = convert_refusal(capsys, source, tmp_path / "hub", "--encoder", encoders / "siglip")
    assert refused == f"{source}: {message}"
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_a_projector_alone_is_missing(encoders, tmp_path, capsys):
    source = tmp_path / "llm.pth"
    torch.save({f"llm.{name}": tensor for name, tensor in random_text().items()}, source)
    refused = convert_refusal(capsys, source, tmp_path / "hub", "--encoder", encoders / "siglip")
    assert refused == f"{source}: the projector is missing: no tensor is called proj.*"


def test_an_encoder_of_another_width_or_kind_is_refused(encoders, tmp_path, capsys):
    projector = {"proj.0.weight": torch.zeros(128, 24)}
    wide = {f"{ADAPTER}{name}": tensor for name, tensor in projector.items()}
    source, hub, siglip = write(tmp_path / "wide.pth", **wide), tmp_path / "hub", encoders / "siglip"
    assert convert_refusal(capsys, source, hub, "--encoder", siglip) == (
        f"{source}: its projector takes features of 24, but the encoder {siglip} gives features of 16"
    )
    assert convert_refusal(capsys, source, hub, "--encoder", encoders / "wavlm") == (
        f"{encoders / 'wavlm'}: its model type is wavlm, but the vision projector was trained on one of "
        "siglip_vision_model, clip_vision_model"
    )
    assert not hub.exists()


def test_an_encoder_that_cannot_be_had_is_named(tmp_path, capsys, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more lines")

    source, hub = write(tmp_path / "a.pth"), tmp_path / "hub"
    assert convert_refusal(capsys, source, hub, "--encoder", tmp_path / "none") == (
        f"{tmp_path / 'none'}: no such folder of an encoder"
    )
    monkeypatch.setattr("rwkv7_world.conversion.encoders.AutoConfig.from_pretrained", offline)
    assert convert_refusal(capsys, source, hub, "--encoder", SIGLIP2) == (
        f"{SIGLIP2}: the encoder is not a folder here, and the Hub does not give it (We couldn't connect to "
        "'https://huggingface.co'); --encoder takes a local folder"
    )


def test_an_encoder_that_many_fit_must_be_told(tmp_path, capsys):
    speech = write(tmp_path / "speech.pth", Kind("modality", "speech", "wavlm"))
    message = convert_refusal(capsys, speech, tmp_path / "hub")
    assert message == (
        f"{speech}: its audio projector takes features of 16, which none of WorldRWKV's encoders gives: tell the "
        "encoder with --encoder"
    )
    wide = {f"{ADAPTER}conv.weight": torch.zeros(128, 1024, 3)}
    write(speech, Kind("modality", "speech", "wavlm"), **wide)
    assert convert_refusal(capsys, speech, tmp_path / "hub") == (
        f"{speech}: its audio projector takes features of 1024, which fits {WAVLM_LARGE}, openai/whisper-medium, "
        "facebook/hubert-large-ls960-ft: tell the encoder with --encoder"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--era", "E5"], "{source}: its names are modality.*, as of E1, E2, E3, so it is not of era E5"),
        (["--era", "E9"], "{source}: unknown era 'E9', expected one of E1, E2, E3, E4, E5, E6"),
        (["--template", "none"], "unknown template 'none', expected one of E1, E2, E3, E4, E5, E6, speech"),
    ],
)
def test_unknown_eras_and_templates_are_refused(options, message, encoders, tmp_path, capsys):
    source = write(tmp_path / "a.pth")
    refused = convert_refusal(capsys, source, tmp_path / "hub", "--encoder", encoders / "siglip", *options)
    assert refused == message.format(source=source)


def test_options_of_worldrwkv_are_refused_for_a_text_model(tmp_path, capsys):
    source = tmp_path / "text.pth"
    torch.save(random_text(), source)
    assert convert_refusal(capsys, source, tmp_path / "hub", "--speech-padding", "0") == (
        f"--speech-padding is for converting WorldRWKV's checkpoints, not {source}"
    )


def test_a_published_file_is_known_by_its_name_or_its_folders():
    cached = "/cache/hub/models--WorldRWKV--RWKV7-3B-siglip2/snapshots/0123/rwkv-0.pth"
    assert find_published(Path(cached))[0] == "RWKV7-3B-siglip2"
    name, published = find_published(Path("/models/rwkv7-0.4b-wavlmlarge-cnasr-demo.pth"))
    assert (name, published.era, published.encoder) == ("RWKV7-0.4B-wavlmLarge-CNASR-demo", "E1", WAVLM_LARGE)
    assert find_published(Path("/models/ZoomFly/rwkvsee0.4B/nonencoder.pth"))[1].era == "E6"
    assert find_published(Path("/models/mine/rwkv-0.pth")) is None


def test_the_name_of_a_published_file_tells_era_and_encoder(encoders, tmp_path, capsys, monkeypatch):
    """The published ModRWKV files have names from which E5 is as likely as E4 and E6."""
    (tmp_path / "ModRWKV-0.4B-V1").mkdir()
    source = write(tmp_path / "ModRWKV-0.4B-V1" / "a.pth", Kind("split", "mlp", "siglip", 4))
    monkeypatch.chdir(encoders)
    assert convert_refusal(capsys, source, tmp_path / "hub", "--era", "E1").endswith("so it is not of era E1")
    assert main(["convert", str(source), str(tmp_path / "hub"), "--encoder", "./siglip"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "era E5, chat template E5, encoder ./siglip"

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WorldRWKV's checkpoints, era by era: the same tokens and logits as a plain reading of the originals."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

from helpers.composites import random_clip, random_image
from helpers.converted import ids_of, load_whole, tokenize
from helpers.worldrwkv import (
    NUM_PATCHES,
    Kind,
    assemble,
    encode_clip,
    encode_image,
    project,
    random_projector,
    random_text,
    save_encoder,
    see,
    text_logits,
)
from rwkv7_world.conversion import convert_worldrwkv
from rwkv7_world.conversion.worldrwkv import WorldConversion


TOLERANCE = 1e-4  # absolute, on float32 logits of order 1 to 10
VISION_START, VISION_END, IMAGE_PAD, AUDIO_PAD = 65530, 65531, 65532, 65535

# Kind, its era, and whether the era must be told since the tensors allow others that are likelier
KINDS = {
    "E1 siglip": (Kind("modality", "mlp", "siglip"), "E1", False),
    "E1 clip": (Kind("modality", "mlp", "clip"), "E1", False),
    "E1 wavlm": (Kind("modality", "speech", "wavlm"), "E1", False),
    "E2 hubert": (Kind("modality", "speech", "hubert"), "E2", True),
    "E2 whisper": (Kind("modality", "speech", "whisper"), "E2", True),
    "E2 siglip": (Kind("modality", "mlp", "siglip"), "E2", True),
    "E3": (Kind("modality", "mlp", "siglip", ratio=4), "E3", False),
    "E4 with convolution": (Kind("split", "mlp", "siglip", ratio=4, kernel=3), "E4", True),
    "E5": (Kind("split", "mlp", "siglip", ratio=4), "E5", False),
    "E6 with encoder": (Kind("split", "mlp", "siglip", ratio=4, has_encoder=True), "E6", False),
    "E6 pixel shuffle": (Kind("split", "pixel_shuffle", "siglip"), "E6", False),
    "E6 tiles": (Kind("split", "vl_proj", "siglip", ratio=4, kernel=6, has_encoder=True), "E6", False),
    "HF": (Kind("hf", "mlp", "siglip", ratio=4, has_encoder=True), "E5", False),
    "HF, later names": (Kind("hf", "mlp", "siglip", 4, has_encoder=True, hf_tower="vision_model."), "E5", False),
}
VISION_KINDS = [name for name, (kind, *_) in KINDS.items() if kind.projector != "speech"]
SPEECH_KINDS = [name for name in KINDS if name not in VISION_KINDS]


@dataclass(frozen=True)
class Example:
    """A checkpoint, where it was converted to, and what its plain reading needs."""

    kind: Kind
    era: str
    folder: Path
    source: Path
    encoder_folder: Path
    done: WorldConversion
    text: dict[str, torch.Tensor]
    projector: dict[str, torch.Tensor]
    encoder: torch.nn.Module


def write_source(folder: Path, tensors: dict[str, torch.Tensor], is_folder: bool) -> Path:
    """A `.pth` file, or the folder of the HF attempt, whose configuration nobody can use."""
    if not is_folder:
        torch.save(tensors, folder / "rwkv-0.pth")
        return folder / "rwkv-0.pth"
    (folder / "attempt").mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "attempt" / "model.safetensors", {"format": "pt"})
    broken = {"text_config": {"num_heads": 32}, "vision_config": {"encoder_path": "/home/rwkv/models/siglip"}}
    (folder / "attempt" / "config.json").write_text(json.dumps(broken))
    return folder / "attempt"


def make_example(folder: Path, name: str, **options) -> Example:
    kind, era, must_be_told = KINDS[name]
    encoder = save_encoder(folder / "encoder", kind.encoder)
    if kind.has_encoder:  # trained with the rest, so not that of the folder
        with torch.no_grad():
            encoder.vision_model.post_layernorm.weight.mul_(1.5)
            encoder.vision_model.encoder.layers[0].mlp.fc1.weight.add_(0.1)
    text, projector = random_text(), random_projector(kind)
    tower = encoder.vision_model.state_dict() if kind.has_encoder else {}
    source = write_source(folder, assemble(kind, text, projector, tower), kind.family == "hf")
    if must_be_told:
        options["era"] = era
    done = convert_worldrwkv(source, folder / "hub", encoder=folder / "encoder", **options)
    return Example(kind, era, folder / "hub", source, folder / "encoder", done, text, projector, encoder)


@pytest.fixture(scope="module")
def example_of(tmp_path_factory):
    made = {}

    def get(name: str) -> Example:
        if name not in made:
            made[name] = make_example(tmp_path_factory.mktemp("era"), name)
        return made[name]

    return get


def load(example: Example):
    return load_whole(AutoModelForMultimodalLM, example.folder)


def num_image_tokens(kind: Kind, image: Image.Image) -> int:
    if kind.projector == "pixel_shuffle":
        return NUM_PATCHES // 16
    features = NUM_PATCHES + (kind.encoder == "clip")  # its class token
    tokens = features if kind.kernel is None else (features - kind.kernel) // (kind.kernel - 1) + 1
    return len(see(kind, image)) * tokens


def expected_vision_ids(example: Example, images: list[Image.Image], turns: list[str]) -> list[int]:
    """Ids of a conversation, user and assistant by turns, whose first turn brings all the images."""
    pads = [(IMAGE_PAD, num_image_tokens(example.kind, image)) for image in images]
    era = example.era
    space = "" if era in ("E5", "E6") else " "
    roles = ("User", "Assistant")
    texts = [f"{roles[index % 2]}:{space}{turn}\x17" for index, turn in enumerate(turns)] + ["Assistant:"]
    if era == "E1":
        return ids_of(*pads, "\x16" + "".join(texts))
    if era == "E2":
        return ids_of(*pads, "".join("\x16" + text for text in texts))
    if era in ("E3", "E4"):
        ended = [part for pad in pads for part in (pad, VISION_END)]
        return ids_of(*ended, "".join("\x16" + text for text in texts))
    blocks = [part for pad in pads for part in (VISION_START, pad, VISION_END)] if era == "E5" else pads
    first, *rest = texts
    return ids_of("\x16User:", *blocks, first.removeprefix("User:") + "".join("\x16" + t for t in rest))


def image_chat(images: list[Image.Image], *turns: str) -> list[dict]:
    content = [{"type": "image", "image": image} for image in images] + [{"type": "text", "text": turns[0]}]
    roles = ("user", "assistant")
    rest = [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns[1:], start=1)]
    return [{"role": "user", "content": content}, *rest]


def plain_logits(example: Example, ids: list[int], features: list[torch.Tensor]) -> torch.Tensor:
    x = example.text["emb.weight"][ids].clone()
    places = [position for position, token in enumerate(ids) if token in (IMAGE_PAD, AUDIO_PAD)]
    x[places] = torch.cat(features)
    return text_logits(example.text, x)


# --- Tokens and logits -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", VISION_KINDS)
def test_a_conversation_about_pictures_has_the_tokens_and_logits_of_the_original(name, example_of):
    example = example_of(name)
    model, processor = load(example)
    question, answer, next_question = "what color is it?", "Red.", "and <image> the other <b>?"
    pictures = [random_image(0, 90, 70), random_image(1, 89, 30)]  # 2 by 2 tiles, and 1 by 2
    for images, turns in (
        (pictures[:1], (question,)),
        (pictures[:1], (question, answer, next_question)),
        (pictures, (question, answer, next_question)),
    ):
        inputs = tokenize(processor, image_chat(images, *turns))
        assert inputs["input_ids"][0].tolist() == expected_vision_ids(example, images, list(turns))
    pixels = torch.stack([pixels for image in pictures for pixels in see(example.kind, image)])
    torch.testing.assert_close(inputs["pixel_values"], pixels, atol=1e-6, rtol=0)
    features = [
        project(example.kind, example.projector, encode_image(example.encoder, example.kind.encoder, image))
        for image in pixels
    ]
    expected = plain_logits(example, inputs["input_ids"][0].tolist(), features)
    torch.testing.assert_close(model(**inputs).logits[0], expected, atol=TOLERANCE, rtol=0)


def speech_chat(clip: np.ndarray) -> list[dict]:
    return [{"role": "user", "content": [{"type": "audio", "audio": clip}]}]


@torch.no_grad()
@pytest.mark.parametrize("name", SPEECH_KINDS)
def test_a_clip_has_the_tokens_and_logits_of_the_original(name, example_of):
    example = example_of(name)
    model, processor = load(example)
    clip = random_clip(0, 9000)
    inputs = tokenize(processor, speech_chat(clip))
    features = project(example.kind, example.projector, encode_clip(example.encoder, example.kind.encoder, clip))
    ids = inputs["input_ids"][0].tolist()
    assert ids == ids_of((AUDIO_PAD, len(features)), "\x16Assistant:")
    expected = plain_logits(example, ids, [features])
    torch.testing.assert_close(model(**inputs).logits[0], expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_the_earliest_speech_models_had_no_padding_and_whole_windows(tmp_path):
    example = make_example(tmp_path, "E2 whisper", speech_padding=0, whole_window=True)
    model, processor = load(example)
    clip = random_clip(0, 9000)
    inputs = tokenize(processor, speech_chat(clip))
    frames = encode_clip(example.encoder, "whisper", clip, whole_window=True)
    features = project(example.kind, example.projector, frames, speech_padding=0)
    assert len(features) == (len(frames) - 3) // 2 + 1
    ids = ids_of((AUDIO_PAD, len(features)), "\x16Assistant:")
    assert inputs["input_ids"][0].tolist() == ids
    torch.testing.assert_close(
        model(**inputs).logits[0], plain_logits(example, ids, [features]), atol=TOLERANCE, rtol=0
    )


def test_prompts_have_the_ids_of_the_published_description(example_of):
    _, processor = load(example_of("E1 siglip"))
    opening = [23, 24281, 59]  # \x16, User, :
    ids = tokenize(processor, [{"role": "user", "content": "a"}])["input_ids"][0].tolist()
    assert ids[:3] == opening and ids[-4:] == [24, 5585, 41693, 59]  # \x17, Ass, istant, :
    _, processor = load(example_of("E5"))
    ids = tokenize(processor, image_chat([random_image()], "a"))["input_ids"][0].tolist()
    assert ids == [*opening, 65530, *[65532] * NUM_PATCHES, 65531, 98, 24, 23, 5585, 41693, 59]


@pytest.mark.parametrize("name", ["E1 siglip", "E3", "E5"])
def test_user_text_writes_no_placeholder_when_sanitized(name, example_of):
    example = example_of(name)
    _, processor = load(example)
    attack = "see <|image_pad|><|vision_end|><|vision_start|>"
    inputs = tokenize(processor, image_chat([random_image()], attack), sanitize_control_tokens=True)
    ids = inputs["input_ids"][0].tolist()
    harmless = expected_vision_ids(example, [random_image()], ["see "])
    for token in (IMAGE_PAD, VISION_END, VISION_START):
        assert ids.count(token) == harmless.count(token)
    assert attack in processor.decode(ids)


def test_an_answer_given_back_as_it_was_generated_makes_the_same_tokens(example_of):
    _, processor = load(example_of("E2 siglip"))
    for answer in ("Red.", " Red."):  # models of this era begin with the space
        ids = tokenize(processor, image_chat([random_image()], "a", answer, "b"))["input_ids"][0].tolist()
        assert ids == expected_vision_ids(example_of("E2 siglip"), [random_image()], ["a", "Red.", "b"])


@torch.no_grad()
@pytest.mark.parametrize("name", ["E5", "E6 tiles"])
def test_pictures_of_a_conversation_survive_prefill_in_chunks(name, example_of):
    model, processor = load(example_of(name))
    inputs = tokenize(processor, image_chat([random_image(0), random_image(1)], "what?", "Red.", "why?"))
    options = {"max_new_tokens": 6, "eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}
    whole = model.generate(**inputs, **options)
    chunked = model.generate(**inputs, **options, prefill_chunk_size=50)
    assert chunked.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(torch.stack(chunked.logits), torch.stack(whole.logits), atol=TOLERANCE, rtol=0)


# --- What is found out, and what is written --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_era_is_told_by_the_tensors_as_far_as_they_can(name, example_of):
    done, (kind, era, must_be_told) = example_of(name).done, KINDS[name]
    assert done.era == era
    assert done.template == ("speech" if kind.projector == "speech" else era)
    others = {
        ("modality", "speech", 2): ("E2", "E3"),
        ("modality", "mlp", 2): ("E2",),
        ("modality", "mlp", 4): ("E2",),
        ("hf", "mlp", 4): ("E6",),
        ("split", "pixel_shuffle", 2): (),
        ("split", "vl_proj", 4): (),
    }
    split = ("E5", "E4") if kind.has_encoder else ("E4", "E6")
    expected = others.get((kind.family, kind.projector, kind.ratio), split)
    assert done.other_eras == (() if must_be_told else expected)


def test_defaults_of_generation_are_the_originals(example_of):
    model, _ = load(example_of("E1 siglip"))
    config = model.generation_config
    assert (config.eos_token_id, config.pad_token_id, config.suppress_tokens) == (24, 0, [0])
    assert not config.do_sample


def test_weights_keep_their_dtypes_and_may_be_sharded(tmp_path):
    kind = KINDS["E1 siglip"][0]
    save_encoder(tmp_path / "encoder", "siglip")
    tensors = assemble(kind, random_text(), random_projector(kind), {})
    source = write_source(tmp_path, {name: tensor.bfloat16() for name, tensor in tensors.items()}, False)
    done = convert_worldrwkv(source, tmp_path / "hub", encoder=tmp_path / "encoder", max_shard_size="9MB")
    assert done.dtypes == (torch.bfloat16, torch.float32)
    assert len(list((tmp_path / "hub").glob("model-*.safetensors"))) > 1
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "hub")
    assert model.dtype == torch.bfloat16
    expected = tensors["modality.world_encoder.adapter.proj.0.weight"].bfloat16()
    assert torch.equal(model.model.vision_projector.linear_1.weight, expected)


def test_a_saved_processor_resizes_with_pillow_whatever_else_is_installed(example_of, monkeypatch):
    backends = []

    def record(*args, backend=None, **kwargs):
        backends.append(backend)

    monkeypatch.setattr("rwkv7_world.processing.processing_rwkv_world.AutoImageProcessor.from_pretrained", record)
    AutoProcessor.from_pretrained(example_of("E1 siglip").folder)
    AutoProcessor.from_pretrained(example_of("E1 siglip").folder, backend="torchvision")
    assert backends == ["pil", "torchvision"]

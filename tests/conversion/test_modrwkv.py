# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of era E7, dialect by dialect: the same tokens and logits as a plain reading of the originals."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from helpers.composites import random_image
from helpers.converted import ids_of, load_whole, tokenize
from helpers.modrwkv import (
    IMAGE_PAD,
    KINDS,
    VISION_END,
    VISION_START,
    Kind,
    assemble,
    plain_logits,
    random_encoder,
    random_projectors,
    random_text,
    read_patches,
    write_source,
)
from rwkv7_world.conversion import convert_modrwkv, convert_worldrwkv
from rwkv7_world.conversion.modrwkv import ModRWKVConversion
from rwkv7_world.conversion.modrwkv_names import encoder_config_from_shapes


TOLERANCE = 1e-4  # absolute, on float32 logits of order 1 to 10
QUESTION, ANSWER, NEXT_QUESTION = "what color is it?", "Red.", "and the other <b>?"

text = random_text()


@dataclass(frozen=True)
class Example:
    """A checkpoint, where it was converted to, and what its plain reading needs."""

    kind: Kind
    source: Path
    folder: Path
    done: ModRWKVConversion
    projectors: dict[str, torch.Tensor]
    encoder: torch.nn.Module

    def see(self, pictures: list[Image.Image]) -> list[tuple[torch.Tensor, list[int]]]:
        return [read_patches(picture, self.kind.size, bool(self.kind.attends)) for picture in pictures]

    def logits(self, ids: list[int], pictures: list[Image.Image]) -> torch.Tensor:
        return plain_logits(self.kind, text, self.projectors, self.encoder, ids, self.see(pictures))


def make_example(folder: Path, kind: Kind, **options) -> Example:
    encoder, projectors = random_encoder(kind), random_projectors(kind)
    source = write_source(folder, kind, assemble(kind, text, projectors, encoder.state_dict()), encoder)
    if not kind.is_folder:  # a training file does not tell its encoder's heads
        encoder.save_pretrained(folder / "encoder")
        options["encoder"] = folder / "encoder"
    done = convert_modrwkv(source, folder / "hub", **options)
    return Example(kind, source, folder / "hub", done, projectors, encoder)


@pytest.fixture(scope="module")
def example_of(tmp_path_factory):
    made = {}

    def get(name: str) -> Example:
        if name not in made:
            made[name] = make_example(tmp_path_factory.mktemp("e7"), KINDS[name])
        return made[name]

    return get


def load(example: Example):
    return load_whole(AutoModelForImageTextToText, example.folder)


def image_chat(pictures: list[Image.Image], question: str = QUESTION, *turns: str) -> list[dict]:
    content = [{"type": "image", "image": image} for image in pictures] + [{"type": "text", "text": question}]
    roles = ("assistant", "user")
    rest = [{"role": roles[index % 2], "content": turn} for index, turn in enumerate(turns)]
    return [{"role": "user", "content": content}, *rest]


def marked(example: Example, pictures: list[Image.Image]) -> list[int | tuple[int, int]]:
    """Start, placeholders and end of every picture: one for 2 by 2 patches, or 4 by 4."""
    grids, patches = [grid for _, grid in example.see(pictures)], 16 if example.kind.attends else 4
    return [part for _, h, w in grids for part in (VISION_START, (IMAGE_PAD, h * w // patches), VISION_END)]


PICTURES = [random_image(0, 90, 70), random_image(1, 89, 30)]


# --- Tokens and logits -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_a_conversation_about_pictures_has_the_tokens_and_logits_of_the_original(name, example_of):
    example = example_of(name)
    model, processor = load(example)
    inputs = tokenize(processor, image_chat(PICTURES, QUESTION, ANSWER, NEXT_QUESTION))
    ids, images = inputs["input_ids"][0].tolist(), marked(example, PICTURES)
    if example.kind.dialect == "mod-rwkv":
        rest = f"\x17\x16Assistant: {ANSWER}\x17\x16User: {NEXT_QUESTION}\x17\x16Assistant: <think></think>"
        assert ids == ids_of(f"\x16User: {QUESTION}", *images, rest)
    else:
        rest = f"{QUESTION}\x17\x16Assistant:{ANSWER}\x17\x16User:{NEXT_QUESTION}\x17\x16Assistant:"
        assert ids == ids_of("\x16User:", *images, rest)
    seen = example.see(PICTURES)
    torch.testing.assert_close(inputs["pixel_values"], torch.cat([patches for patches, _ in seen]), atol=1e-6, rtol=0)
    assert inputs["image_grid_thw"].tolist() == [grid for _, grid in seen]
    torch.testing.assert_close(model(**inputs).logits[0], example.logits(ids, PICTURES), atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
def test_twenty_greedy_tokens_are_those_of_the_original(name, example_of):
    example = example_of(name)
    model, processor = load(example)
    inputs = tokenize(processor, image_chat(PICTURES[1:]))
    whole = model.generate(**inputs, max_new_tokens=20)[0].tolist()
    logits = example.logits(whole[:-1], PICTURES[1:])
    start = inputs["input_ids"].shape[1]
    assert whole[start:] == logits[start - 1 :].argmax(-1).tolist()
    assert len(whole) == start + 20 and len(set(whole[start:])) > 5


@torch.no_grad()
def test_text_alone_has_the_logits_of_the_original(example_of):
    example = example_of("torchtitan")
    model, processor = load(example)
    inputs = tokenize(processor, [{"role": "user", "content": QUESTION}])
    ids = inputs["input_ids"][0].tolist()
    assert ids == ids_of(f"\x16User:{QUESTION}\x17\x16Assistant:")
    torch.testing.assert_close(model(**inputs).logits[0], example.logits(ids, []), atol=TOLERANCE, rtol=0)


# --- What is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written_is_that_of_the_dialect(name, example_of):
    example = example_of(name)
    config = json.loads((example.folder / "config.json").read_text())
    generation = GenerationConfig.from_pretrained(example.folder)
    for ids in (config["text_config"], generation.to_dict()):
        assert (ids["bos_token_id"], ids["eos_token_id"], ids["pad_token_id"]) == (23, 24, 24)
    assert not generation.do_sample
    processor = AutoProcessor.from_pretrained(example.folder)
    size = processor.image_processor.size
    assert {name: size[name] for name in ("shortest_edge", "longest_edge")} == example.kind.size
    assert (example.done.dialect, example.done.other_dialects) == (example.kind.dialect, ())


def template_text(processor, content, **kwargs) -> str:
    chat = [{"role": "user", "content": content}]
    return processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **kwargs)


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PICTURE = {"type": "image", "image": PICTURES[0]}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def test_images_stand_where_the_template_puts_them(tmp_path):
    kind = KINDS["mod-rwkv, folder"]
    processor = AutoProcessor.from_pretrained(make_example(tmp_path, kind, template="mod-rwkv-order").folder)
    content = [words("a "), PICTURE, words(" b "), PICTURE]
    assert template_text(processor, content).startswith(f"\x16User: a {IMAGE} b {IMAGE}\x17")


def test_of_torchtitan_images_stand_at_their_tags_and_before_the_text(example_of):
    processor = AutoProcessor.from_pretrained(example_of("torchtitan").folder)
    end = "\x17\x16Assistant:"
    for content, expected in (
        ([words("a <image> b"), PICTURE], f"a {IMAGE} b"),
        ([words("a <image> b"), PICTURE, PICTURE], f"{IMAGE}a {IMAGE} b"),
        ([words("a <image> b <image>"), PICTURE], f"a {IMAGE} b "),
        ("a <image> b", "a  b"),
    ):
        assert template_text(processor, content) == f"\x16User:{expected}{end}"
    assert template_text(processor, "a", enable_thinking=True) == f"\x16User:a{end} <think>"


def test_a_model_that_was_trained_not_to_think_answers_so(tmp_path):
    kind = KINDS["torchtitan, GELU"]
    encoder, projectors = random_encoder(kind), random_projectors(kind)
    source = write_source(tmp_path, kind, assemble(kind, text, projectors, encoder.state_dict()), encoder)
    (source / "chat_template.jinja").write_text("{{ ' <think>\\n</think>\\n' }}{{ '<image>' }}")
    assert convert_modrwkv(source, tmp_path / "hub").template == "torchtitan-unspoken"
    processor = AutoProcessor.from_pretrained(tmp_path / "hub")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    written = processor.apply_chat_template(chat, tokenize=False)
    assert written == "\x16User:a\x17\x16Assistant: <think>\n</think>\nb\x17"


def test_pictures_share_the_limit_of_pixels_where_an_exported_folder_says_so(tmp_path):
    kind = KINDS["torchtitan, GELU"]
    encoder, projectors = random_encoder(kind), random_projectors(kind)
    source = write_source(tmp_path, kind, assemble(kind, text, projectors, encoder.state_dict()), encoder)
    (source / "preprocessor_config.json").unlink()
    stored = {"processor_class": "ModRWKVProcessor", "image_processor": {"size": kind.size}}
    for budget in (True, False):
        (source / "processor_config.json").write_text(json.dumps(stored | {"total_pixels_budget": budget}))
        convert_modrwkv(source, tmp_path / str(budget))
        processor = AutoProcessor.from_pretrained(tmp_path / str(budget))
        assert {name: processor.image_processor.size[name] for name in kind.size} == kind.size
        tokens = tokenize(processor, image_chat(PICTURES))["input_ids"][0].tolist().count(IMAGE_PAD)
        assert (tokens <= kind.size["longest_edge"] // 32**2) == budget


# --- Dialect and encoder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", [None, "mod-rwkv", "torchtitan-first"])
def test_where_nothing_tells_the_dialect_it_is_asked_for(dialect, tmp_path):
    kind = replace(KINDS["torchtitan-first"], dialect=dialect or "mod-rwkv", is_folder=False)
    example = make_example(tmp_path, kind, dialect=dialect)
    others = ("torchtitan-first",) if dialect is None else ()
    assert (example.done.dialect, example.done.other_dialects) == (kind.dialect, others)
    with torch.no_grad():
        model, processor = load(example)
        inputs = tokenize(processor, image_chat(PICTURES[1:]))
        expected = example.logits(inputs["input_ids"][0].tolist(), PICTURES[1:])
        torch.testing.assert_close(model(**inputs).logits[0], expected, atol=TOLERANCE, rtol=0)


def test_the_converter_of_earlier_eras_names_that_of_this_one(example_of, tmp_path):
    for name, tensor in (("mod-rwkv, file", "encoder.encoder."), ("torchtitan", "model.encoder.")):
        with pytest.raises(ValueError, match=rf"era E7, which convert_modrwkv converts .*tensor {tensor}"):
            convert_worldrwkv(example_of(name).source, tmp_path / "hub")


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True])
def test_a_file_without_its_encoder_takes_that_of_a_folder(whole, tmp_path):
    kind = replace(KINDS["torchtitan"], is_folder=False, has_encoder=False)
    encoder, projectors = random_encoder(kind), random_projectors(kind)
    if whole:  # as Qwen's repositories
        text_config = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 90}
        text_config |= {"intermediate_size": 32, "num_key_value_heads": 2}
        config = Qwen3VLConfig(text_config=text_config, vision_config=encoder.config.to_dict())
        model = Qwen3VLForConditionalGeneration(config)
        model.model.visual.load_state_dict(encoder.state_dict())
        model.save_pretrained(tmp_path / "encoder")
    else:
        encoder.save_pretrained(tmp_path / "encoder")
    source = write_source(tmp_path, kind, assemble(kind, text, projectors, {}), encoder)
    done = convert_modrwkv(source, tmp_path / "hub", dialect="torchtitan", encoder=tmp_path / "encoder")
    assert done.encoder == str(tmp_path / "encoder")
    example = Example(kind, source, tmp_path / "hub", done, projectors, encoder)
    model, _ = load(example)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(model.model.vision_tower.state_dict()[name], tensor), name


def test_an_encoder_that_was_used_is_known_by_its_shapes():
    """Those of Qwen3.5-0.8B, and of torchtitan's largest flavor."""

    def shapes(width: int, depth: int, inner: int, out: int, deepstack: int) -> dict[str, tuple[int, ...]]:
        found = {"patch_embed.proj.weight": (width, 3, 2, 16, 16), "pos_embed.weight": (2304, width)}
        found |= {f"blocks.{index}.mlp.linear_fc1.weight": (inner, width) for index in range(depth)}
        found |= {"merger.linear_fc1.weight": (4 * width, 4 * width), "merger.linear_fc2.weight": (out, 4 * width)}
        return found | {f"deepstack_merger_list.{index}.norm.weight": (4 * width,) for index in range(deepstack)}

    small = encoder_config_from_shapes(shapes(768, 12, 3072, 1024, 0), "encoder.encoder.")
    assert (small.model_type, small.num_heads, small.depth) == ("qwen3_5_vision", 12, 12)
    assert (small.intermediate_size, small.out_hidden_size, small.spatial_merge_size) == (3072, 1024, 2)
    large = encoder_config_from_shapes(shapes(1024, 24, 4096, 2048, 3), "encoder.encoder.")
    assert (large.model_type, large.num_heads, large.deepstack_visual_indexes) == ("qwen3_vl_vision", 16, [5, 11, 17])
    with pytest.raises(ValueError, match="encoder of 12 layers of 640 .*--encoder"):
        encoder_config_from_shapes(shapes(640, 12, 3072, 1024, 0), "encoder.encoder.")

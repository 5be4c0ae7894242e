# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A composite whose pictures come in tiles, as many as each needs: batches, chunks, states, beams, files, training."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForMultimodalLM, AutoProcessor

from helpers.composites import random_clip, random_image, tiny_composite, tiny_processor
from rwkv7_world.modeling_rwkv7_world import encoders
from rwkv7_world.training.trainer.chunked_time import encode_media
from rwkv7_world.training.trainer.collator import ConversationCollator


TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
# Of 9 patches of a tile the convolution makes 2 tokens
PROJECTOR = {"vision_projector_type": "gelu_mlp", "vision_projector_kernel_size": 5, "vision_projector_stride": 4}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@cache
def composite():
    return tiny_composite("siglip", "wavlm", **PROJECTOR)


@cache
def processor():
    return tiny_processor("siglip", "wavlm", sees="tiles", **PROJECTOR)


# 2 by 2 tiles, 1 by 2 and 2 by 1, with the whole picture 5, 3 and 3
SQUARE, WIDE, HIGH = random_image(0, 30, 26), random_image(1, 50, 20), random_image(2, 9, 40)


@pytest.fixture(autouse=True)
def no_gradients_unless_asked_for():
    with torch.no_grad():
        yield


def ask(*blocks, question: str = "what?") -> list[dict]:
    """A conversation of one question, with pictures and clips in front of it."""
    kinds = ["image" if isinstance(block, Image.Image) else "audio" for block in blocks]
    media = [{"type": kind, kind: block} for kind, block in zip(kinds, blocks, strict=True)]
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


def tokenize(chat, **options):
    options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt", **options}
    return processor().apply_chat_template(chat, tokenize=True, **options)


def plain_features(model, tiles: torch.Tensor) -> torch.Tensor:
    """(tiles, tokens, hidden): `Linear(GELU(Linear(Conv1d(x))))`, specs/worldrwkv.md 1.2, tile by tile."""
    weights = model.model.vision_projector.state_dict()
    features = []
    for tile in tiles:
        x = model.model.vision_tower(tile[None]).last_hidden_state[0]
        x = F.conv1d(x.T, weights["conv.weight"], stride=4).T
        x = x @ weights["linear_1.weight"].T + weights["linear_1.bias"]
        x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
        features.append(x @ weights["linear_2.weight"].T + weights["linear_2.bias"])
    return torch.stack(features)


def test_features_are_those_of_each_tile_in_the_order_of_the_pictures():
    model, inputs = composite(), tokenize(ask(WIDE, SQUARE))
    tiles = torch.cat([tokenize(ask(picture))["pixel_values"] for picture in (WIDE, SQUARE)])
    assert torch.equal(inputs["pixel_values"], tiles) and len(tiles) == 3 + 5
    expected = plain_features(model, tiles).flatten(0, 1)
    torch.testing.assert_close(model(**inputs).image_hidden_states, expected, **TOLERANCE)


def test_many_tiles_are_encoded_a_few_at_a_time(monkeypatch):
    model, inputs, sizes = tiny_composite("siglip", "wavlm", **PROJECTOR), tokenize(ask(WIDE, SQUARE)), []
    model.model.vision_tower.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(encoders, "PICTURES_AT_A_TIME", 3)
    torch.testing.assert_close(model(**inputs).logits, composite()(**inputs).logits, **TOLERANCE)
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_batch_of_unlike_rows_equals_each_row_alone(padding_side):
    clip = random_clip(0, 2000)
    chats = [ask(WIDE, clip), ask(), ask(HIGH, SQUARE, question="the red"), ask(clip), ask(SQUARE)]
    batch = tokenize(chats, processor_kwargs={"padding": True, "padding_side": padding_side})
    logits = composite()(**batch).logits
    for row, chat in enumerate(chats):
        alone = composite()(**tokenize(chat)).logits[0]
        torch.testing.assert_close(logits[row][batch["attention_mask"][row].bool()], alone, **TOLERANCE)


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_prefill_in_chunks_generates_the_same(chunk_size):
    inputs = tokenize(ask(SQUARE, WIDE, random_clip(0, 2000)))
    whole = composite().generate(**inputs, **GREEDY)
    chunked = composite().generate(**inputs, **GREEDY, prefill_chunk_size=chunk_size)
    assert chunked.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(chunked.logits, whole.logits, **TOLERANCE)


def test_one_picture_serves_several_questions_through_copies_of_its_state():
    picture = tokenize(ask(SQUARE, WIDE, question=""), add_generation_prompt=False)
    picture["input_ids"] = picture["input_ids"][:, :-1]  # the end of the turn
    picture["attention_mask"] = picture["attention_mask"][:, :-1]
    seen = composite()(**picture, use_cache=True).past_key_values
    for question in ("what", "the red circle"):
        whole = tokenize(ask(SQUARE, WIDE, question=question))
        assert torch.equal(whole["input_ids"][:, : picture["input_ids"].shape[1]], picture["input_ids"])
        state = copy.deepcopy(seen)
        forked = composite().generate(whole["input_ids"], past_key_values=state, **GREEDY)
        assert forked.sequences.tolist() == composite().generate(**whole, **GREEDY).sequences.tolist()


def test_a_later_turn_may_bring_a_picture_of_another_shape():
    model, first, second = composite(), tokenize(ask(SQUARE)), tokenize(ask(HIGH))
    state = model(**first, use_cache=True).past_key_values
    continued = model(second["input_ids"], pixel_values=second["pixel_values"], past_key_values=state).logits
    both = {name: torch.cat([first[name], second[name]], dim=int(name != "pixel_values")) for name in first}
    torch.testing.assert_close(continued, model(**both).logits[:, first["input_ids"].shape[1] :], **TOLERANCE)


@pytest.mark.parametrize("encode_first", [False, True])
def test_every_beam_gets_the_tiles_of_its_row(encode_first):
    chats, model = [ask(WIDE), ask(SQUARE, HIGH), ask()], composite()
    batch = tokenize(chats, processor_kwargs={"padding": True})
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    alone = []
    for chat in chats:
        inputs = tokenize(chat)
        alone.append(model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist())
    if encode_first:
        batch["mm_encoder_outputs"] = {"image": model.get_image_features(batch.pop("pixel_values"))}
    together = model.generate(**batch, **options)
    assert together[:, batch["input_ids"].shape[1] :].tolist() == alone


def test_frames_of_a_video_come_in_tiles():
    frames = [np.asarray(random_image(seed, 40, 20)) for seed in range(4)]
    text = {"type": "text", "text": "what?"}
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}, text]}]
    given, expected = tokenize(chat, num_frames=2), tokenize(ask(*(Image.fromarray(frames[i]) for i in (0, 2))))
    assert torch.equal(given["input_ids"], expected["input_ids"])
    assert torch.equal(given["pixel_values"], expected["pixel_values"]) and len(given["pixel_values"]) == 2 * 3


def test_model_and_processor_loaded_by_auto_classes_give_the_same_logits(tmp_path):
    composite().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    chat = ask(SQUARE, WIDE)
    inputs = AutoProcessor.from_pretrained(tmp_path).apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    torch.testing.assert_close(model(**inputs).logits, composite()(**tokenize(chat)).logits, **TOLERANCE)


# --- Training --------------------------------------------------------------------------------------------------------


def rows() -> list[dict]:
    answers = ("red", "a red circle", "the circle", "what")
    chats = (ask(SQUARE), ask(), ask(WIDE, HIGH), ask(HIGH, random_clip(0, 2000)))
    return [
        {"messages": [*chat, {"role": "assistant", "content": answer}]}
        for chat, answer in zip(chats, answers, strict=True)
    ]


@pytest.mark.parametrize("packing", [False, True])
def test_a_training_batch_learns_as_its_rows_one_by_one(packing):
    collator = ConversationCollator(processor(), max_length=120, packing=packing, strict=True)
    batch = collator(rows())
    assert batch.keys() >= {"pixel_values", "input_features"} and "num_patches" not in batch
    assert len(batch["pixel_values"]) == 5 + 3 + 3 + 3
    assert len(batch["input_ids"]) == (1 if packing else 4)
    single = [collator([row]) for row in rows()]
    counts = [int((one["labels"][:, 1:] != -100).sum()) for one in single]
    losses = [composite()(**one).loss * count for one, count in zip(single, counts, strict=True)]
    torch.testing.assert_close(composite()(**batch).loss, sum(losses) / sum(counts), **TOLERANCE)


def test_gradients_reach_the_projector_and_the_tower():
    model = copy.deepcopy(composite())
    with torch.enable_grad():
        model(**ConversationCollator(processor())(rows())).loss.backward()
    for part in (model.model.vision_projector, model.model.vision_tower.encoder):
        assert all(parameter.grad.abs().max() > 0 for parameter in part.parameters() if parameter.ndim > 1)


def test_a_limit_that_would_cut_a_tile_leaves_the_row_out():
    collator = ConversationCollator(processor(), max_length=9, strict=True)
    with pytest.raises(ValueError, match="max_length 9 would cut a picture"):
        collator(rows()[:1])


def test_training_in_chunks_of_time_encodes_all_tiles_first():
    batch = ConversationCollator(processor())(rows())
    inputs, features, placeholders = encode_media(composite(), batch)
    assert "pixel_values" not in inputs
    assert len(features["image"]) == 2 * (5 + 3 + 3 + 3) == int(placeholders["image"].sum())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Vision encoders that see pictures of any size, and their DeepStack: batches, splits, beams, training, saving.

What they compute is compared with a plain reading in `tests/conversion/test_modrwkv.py`.
"""

import copy
from functools import cache

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3VLVisionModel
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5VisionModel

from helpers.composites import (
    random_image,
    tiny_composite,
    tiny_config,
    tiny_image_processor,
    tiny_processor,
    tiny_tokenizer,
)
from rwkv7_world import RWKVWorldProcessor
from rwkv7_world.modeling_rwkv7_world import encoders
from rwkv7_world.training.trainer.chunked_time import encode_media


TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
# By name an encoder, the type of its projector, and the projectors of its DeepStack
KINDS = {
    "qwen3_5": ("qwen3_5", {}),
    "pre-norm": ("qwen3_5", {"vision_projector_type": "pre_norm_mlp"}),
    "one layer": ("qwen3_vl", {"num_deepstack_projectors": 1}),
    "deepstack": ("qwen3_vl", {"num_deepstack_projectors": 2}),
    "gated": (
        "qwen3_vl",
        {"num_deepstack_projectors": 2, "vision_projector_activation": "swiglu", "vision_projector_norm": "rmsnorm"},
    ),
}
PACKER = {
    "vision_projector_type": "token_packer",
    "vision_projector_scale_factor": 2,
    "cross_attention_vision_layers": [0, 1],
    "cross_attention_text_layers": [0, 1],
    "cross_attention_heads": 4,
    "cross_attention_key_value_heads": 2,
}
KINDS |= {"token_packer": ("qwen3_vl", PACKER), "untied": ("qwen3_vl", PACKER | {"cross_attention_tied": False})}
kinds = pytest.mark.parametrize("kind", KINDS)
PICTURES = [random_image(0, 60, 50), random_image(1, 20, 20), random_image(2, 90, 20)]
TURN = "<|vision_start|><|image_pad|><|vision_end|>"
GREEDY = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@cache
def composite(kind: str = "deepstack"):
    vision, options = KINDS[kind]
    return tiny_composite(vision, **options)


@cache
def processor(kind: str = "deepstack") -> RWKVWorldProcessor:
    vision, options = KINDS[kind]
    made = tiny_processor(vision, **options)
    if options.get("vision_projector_type") == "token_packer":  # 1 to 4 tokens of 32 by 32 pixels
        made.image_processor.size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
    return made


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def prompt(pictures=PICTURES, text: str = f"{TURN}what{TURN}the red circle {TURN} is", kind: str = "deepstack"):
    return processor(kind)(text=text, images=pictures, return_tensors="pt")


# --- Counts, batches, splits -----------------------------------------------------------------------------------------


@kinds
def test_every_picture_has_its_own_number_of_tokens(kind):
    inputs = prompt(kind=kind)
    patches = 16 if "vision_projector_scale_factor" in KINDS[kind][1] else 4
    counts = [int(grid.prod()) // patches for grid in inputs["image_grid_thw"]]
    assert len(set(counts)) > 1
    output = composite(kind).get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    assert [len(features) for features in output.pooler_output] == counts
    layers = output.deepstack_features or []
    assert len(layers) == composite(kind).config.num_deepstack_projectors
    assert all([len(features) for features in layer] == counts for layer in layers)
    sizes = [(picture.height, picture.width) for picture in PICTURES]
    assert processor(kind)._get_num_multimodal_tokens(sizes).num_image_tokens == counts


@kinds
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_batch_of_unlike_rows_equals_each_row_alone(kind, padding_side):
    model, texts = composite(kind), [f"{TURN}what is {TURN}", "text alone", f"the{TURN}"]
    images = [PICTURES[:2], [], PICTURES[2:]]
    batch = processor(kind)(text=texts, images=images, padding=True, padding_side=padding_side, return_tensors="pt")
    logits = model(**batch).logits
    for row, (text, pictures) in enumerate(zip(texts, images, strict=True)):
        alone = processor(kind)(text=text, images=pictures or None, return_tensors="pt")
        there = batch["attention_mask"][row].bool()
        torch.testing.assert_close(logits[row, there], model(**alone).logits[0], **TOLERANCE)


@kinds
@pytest.mark.parametrize("chunk_size", [1, 3, 5, 1000])
def test_prefill_in_chunks_generates_the_same(kind, chunk_size):
    whole = composite(kind).generate(**prompt(kind=kind), **GREEDY)
    chunked = composite(kind).generate(**prompt(kind=kind), prefill_chunk_size=chunk_size, **GREEDY)
    assert chunked.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(chunked.logits, whole.logits, **TOLERANCE)


def tokens_of(encoded: encoders.EncoderOutput, start: int, stop: int) -> encoders.EncoderOutput:
    """What `encoded` has of some of the tokens of all images."""
    ends = torch.tensor([0, *map(len, encoded.pooler_output)]).cumsum(0).tolist()
    parts = [slice(max(0, start - end), max(0, stop - end)) for end in ends[:-1]]
    cut = lambda images: [image[part] for image, part in zip(images, parts, strict=True)]  # noqa: E731
    deepstack = encoded.deepstack_features and [cut(layer) for layer in encoded.deepstack_features]
    return encoders.EncoderOutput(
        pooler_output=cut(encoded.pooler_output), deepstack_features=deepstack, memories=encoded.memories
    )


@pytest.mark.parametrize("kind", ["deepstack", "token_packer"])
def test_a_prompt_split_anywhere_gives_the_same_logits(kind):
    model, inputs = composite(kind), prompt(kind=kind)
    ids, expected = inputs["input_ids"], model(**inputs).logits
    encoded = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    places = ids[0] == model.config.image_token_id
    for split in range(1, ids.shape[1]):
        seen = int(places[:split].sum())
        first = {"image": tokens_of(encoded, 0, seen)}
        second = {"image": tokens_of(encoded, seen, int(places.sum()))}
        start = model(ids[:, :split], mm_encoder_outputs=first, use_cache=True)
        rest = model(ids[:, split:], mm_encoder_outputs=second, cache=start.cache)
        torch.testing.assert_close(torch.cat([start.logits, rest.logits], dim=1), expected, **TOLERANCE)


@kinds
def test_greedy_generation_equals_generation_without_cache(kind):
    cached = composite(kind).generate(**prompt(kind=kind), **GREEDY)
    again = composite(kind).generate(**prompt(kind=kind), use_cache=False, **GREEDY)
    assert cached.sequences.tolist() == again.sequences.tolist()
    assert len(set(cached.sequences[0, -8:].tolist())) > 2


@pytest.mark.parametrize("kind", ["deepstack", "token_packer"])
def test_every_beam_gets_all_features(kind):
    model, options = composite(kind), {"max_new_tokens": 6, "do_sample": False, "num_beams": 3}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    texts, images = [f"{TURN}what is {TURN}", f"the{TURN}"], [PICTURES[:2], PICTURES[2:]]
    batch = processor(kind)(text=texts, images=images, padding=True, return_tensors="pt")
    beams = model.generate(**batch, **options)
    for row, (text, pictures) in enumerate(zip(texts, images, strict=True)):
        alone = model.generate(**processor(kind)(text=text, images=pictures, return_tensors="pt"), **options)
        assert beams.sequences[row, -6:].tolist() == alone.sequences[0, -6:].tolist()
        torch.testing.assert_close(beams.sequences_scores[row], alone.sequences_scores[0], **TOLERANCE)


def test_guesses_are_taken_back_and_images_stay():
    plain = composite().generate(**prompt(), max_new_tokens=10, do_sample=False)
    guessed = composite().generate(**prompt(), max_new_tokens=10, do_sample=False, prompt_lookup_num_tokens=3)
    assert guessed.tolist() == plain.tolist()


def test_a_second_turn_may_bring_another_image():
    model, texts = composite(), (f"{TURN}what", f"the {TURN} is")
    first, second = (prompt(PICTURES[i : i + 1], text) for i, text in enumerate(texts))
    state = model(**first, use_cache=True).cache
    continued = model(**{name: second[name] for name in second if name != "attention_mask"}, cache=state).logits
    whole = model(**prompt(PICTURES[:2], "".join(texts))).logits
    torch.testing.assert_close(continued, whole[:, -continued.shape[1] :], **TOLERANCE)


def test_pictures_are_encoded_some_at_a_time(monkeypatch):
    inputs, calls = prompt(), []
    expected = composite().get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    hook = composite().model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(args[0])), with_kwargs=True
    )
    counts = inputs["image_grid_thw"].prod(-1).tolist()
    monkeypatch.setattr(encoders, "PATCHES_AT_A_TIME", counts[0] + counts[1])
    given = composite().get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    hook.remove()
    assert calls == [counts[0] + counts[1], counts[2]]
    tower = composite().model.vision_tower
    assert encoders.calls_for_pictures(tower, inputs["pixel_values"], inputs["image_grid_thw"]) == len(calls)
    torch.testing.assert_close(given.pooler_output, expected.pooler_output, **TOLERANCE)
    torch.testing.assert_close(given.deepstack_features, expected.deepstack_features, **TOLERANCE)


# --- Pictures that share a limit of pixels ---------------------------------------------------------------------------


def sharing() -> RWKVWorldProcessor:
    """At most 4 tokens of 16 by 16 pixels together."""
    made = tiny_processor("qwen3_vl")
    made.shares_max_pixels = True
    return made


def grids_of(images, text: str | list[str]) -> list[list[int]]:
    return sharing()(text=text, images=images, padding=True, return_tensors="pt")["image_grid_thw"].tolist()


def test_pictures_of_a_text_share_the_limit_of_pixels():
    square, wide = random_image(0, 64, 64), random_image(1, 64, 16)
    assert grids_of([square], TURN) == [[1, 4, 4]]
    # 32 by 32 pixels each are twice too many, and 32 / sqrt(2) is less than two squares
    assert grids_of([square, square], TURN * 2) == [[1, 2, 2], [1, 2, 2]]
    # 32 by 32 and 64 by 16 likewise
    assert grids_of([square, wide], TURN * 2) == [[1, 2, 2], [1, 2, 4]]
    # Five of one square each are more than the limit, and none can be smaller
    assert grids_of([square] * 5, TURN * 5) == [[1, 2, 2]] * 5
    assert grids_of([[square], [square, square]], [TURN, TURN * 2]) == [[1, 4, 4], [1, 2, 2], [1, 2, 2]]


def test_a_picture_alone_is_seen_as_where_nothing_is_shared():
    for picture in PICTURES:
        alone, shared = (made(text=TURN, images=picture, return_tensors="pt") for made in (processor(), sharing()))
        assert torch.equal(shared["pixel_values"], alone["pixel_values"])
        assert torch.equal(shared["input_ids"], alone["input_ids"])


def test_sharing_is_saved_and_a_smaller_picture_is_enlarged_first(tmp_path):
    made = sharing()
    made.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    inputs = loaded(text=TURN, images=random_image(0, 60, 6), return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[1, 2, 8]]  # 160 by 16 would be too many
    assert composite()(**inputs).logits.isfinite().all()


# --- Training --------------------------------------------------------------------------------------------------------


def gradients(model, inputs) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    with torch.enable_grad():
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


# Mergers whose features have no projector
MERGERS = "model.vision_tower.deepstack_merger_list."
UNUSED = {"one layer": f"{MERGERS}1.", "token_packer": MERGERS, "untied": MERGERS}


@kinds
def test_gradients_reach_every_part(kind):
    for name, gradient in gradients(copy.deepcopy(composite(kind)), prompt(kind=kind)).items():
        if name.startswith(UNUSED.get(kind, "none")):
            continue
        assert gradient is not None, name
        assert gradient.ndim < 2 or gradient.abs().max() > 0, name


def test_gradient_checkpointing_changes_no_gradient():
    model = copy.deepcopy(composite()).train()
    expected = gradients(model, prompt())
    model.gradient_checkpointing_enable()
    for name, gradient in gradients(model, prompt()).items():
        torch.testing.assert_close(
            gradient, expected[name], **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- Saving, refusals ------------------------------------------------------------------------------------------------


@kinds
def test_a_saved_model_is_the_same_again(kind, tmp_path):
    composite(kind).save_pretrained(tmp_path)
    processor(kind).save_pretrained(tmp_path)
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = AutoProcessor.from_pretrained(tmp_path)(text=TURN, images=PICTURES[0], return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], prompt(PICTURES[:1], TURN, kind)["pixel_values"])
    assert torch.equal(model.eval()(**inputs).logits, composite(kind)(**inputs).logits)
    own = {"qwen3_vl": Qwen3VLVisionModel, "qwen3_5": Qwen3_5VisionModel}[KINDS[kind][0]]
    assert type(model.model.vision_tower) is own


def test_pixels_that_do_not_go_with_grids_are_refused():
    inputs = prompt()
    with pytest.raises(ValueError, match="qwen3_vl_vision takes pixel_values with image_grid_thw"):
        composite()(inputs["input_ids"], pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match=r"pixel_values has 4 patches, but image_grid_thw tells of \d+"):
        composite()(**inputs | {"pixel_values": inputs["pixel_values"][:4]})
    with pytest.raises(ValueError, match="siglip_vision_model takes pixel_values without image_grid_thw"):
        tiny_composite("siglip").get_image_features(torch.zeros(1, 3, 24, 24), inputs["image_grid_thw"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision_projector_type": "pixel_shuffle"}, "vision_projector_type is 'pixel_shuffle': qwen3_vl_vision"),
        ({"vision_projector_kernel_size": 3}, "vision_projector_kernel_size is 3"),
        ({"vision_feature_layer": -2}, "vision_feature_layer is -2"),
        ({"num_token_per_image": 4}, "num_token_per_image is 4"),
        ({"num_deepstack_projectors": 3}, "num_deepstack_projectors is 3, but .* 2 earlier layers"),
        ({"num_deepstack_projectors": -1}, "num_deepstack_projectors is -1"),
        (PACKER | {"num_deepstack_projectors": 1}, "token_packer .* no DeepStack"),
        (PACKER | {"cross_attention_text_layers": [1, 0]}, r"cross_attention_text_layers is \[1, 0\]"),
        (PACKER | {"cross_attention_vision_layers": [0, 3]}, r"vision_layers is \[0, 3\], .* below 3"),
        (PACKER | {"cross_attention_vision_layers": [0]}, "expected as many of each"),
        (PACKER | {"cross_attention_heads": 3}, "3 heads and 2 of keys and values do not divide patches of 16"),
    ],
)
def test_options_that_the_encoder_has_nothing_for_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_config("qwen3_vl", **options)


def test_attention_to_whole_images_is_not_trained_in_chunks_of_time():
    with pytest.raises(ValueError, match="attend to whole images cannot be trained in chunks"):
        encode_media(composite("token_packer"), prompt(kind="token_packer"))


def test_features_of_another_width_than_tokens_cannot_be_added_to_them():
    with pytest.raises(ValueError, match="pre_norm_mlp adds features of 16 to tokens of 32"):
        tiny_config("siglip", vision_projector_type="pre_norm_mlp")


def test_an_image_processor_with_other_patches_is_refused():
    images = tiny_image_processor("qwen3_vl")
    images.merge_size = 3
    with pytest.raises(ValueError, match="image processor's merge_size is 3, but the vision encoder takes 2"):
        RWKVWorldProcessor.from_model_config(tiny_config("qwen3_vl"), tiny_tokenizer(), images)

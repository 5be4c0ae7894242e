# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The composite against a plain reading of the specification: transformers' own encoders, projectors written out as
functional operations, and `RWKV7ForCausalLM` over embeddings put together by hand, all on the same weights.
"""

import copy
from functools import cache

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BeitConfig,
    CLIPConfig,
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    HubertModel,
    SiglipConfig,
    SiglipVisionModel,
    Wav2Vec2Model,
    WavLMModel,
    WhisperModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.whisper.modeling_whisper import sinusoids

from helpers.composites import (
    AUDIO_ENCODERS,
    IMAGE_SIZE,
    NUM_PATCHES,
    PREFIX_TOKENS,
    SAMPLING_RATE,
    VISION_ENCODERS,
    random_clip,
    random_image,
    tiny_composite,
    tiny_config,
    tiny_feature_extractor,
    tiny_processor,
    vision_config,
)
from rwkv7_world import RWKV7ForCausalLM, RWKVWorldConfig, RWKVWorldForConditionalGeneration, RWKVWorldModel
from rwkv7_world.modeling_rwkv7_world import encoders


TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
# Batches, pieces and single rows add up in another order
BATCH_TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}

# Every encoder at least once
PAIRS = [
    ("siglip", "whisper"),
    ("clip", "wavlm"),
    ("dinov2", "hubert_layer"),
    ("dinov2_with_registers", "hubert_group"),
    ("siglip", "wav2vec2"),
]
pairs = pytest.mark.parametrize(("vision", "audio"), PAIRS)

VISION_CLASSES = {
    "siglip": SiglipVisionModel,
    "clip": CLIPVisionModel,
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
}
AUDIO_CLASSES = {
    "wavlm": WavLMModel,
    "hubert_layer": HubertModel,
    "hubert_group": HubertModel,
    "wav2vec2": Wav2Vec2Model,
}


@cache
def composite(vision: str | None = None, audio: str | None = None, **kwargs) -> RWKVWorldForConditionalGeneration:
    """A composite shared by tests that do not change it."""
    return tiny_composite(vision, audio, **kwargs)


# --- The plain reading -----------------------------------------------------------------------------------------------


def weights_under(model: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    prefix += "."
    return {key[len(prefix) :]: value for key, value in model.state_dict().items() if key.startswith(prefix)}


def plain_vision_frames(model, name: str, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Last hidden state and all hidden states of transformers' own encoder."""
    encoder = VISION_CLASSES[name](vision_config(name)).eval()
    encoder.load_state_dict(weights_under(model, "model.vision_tower"))
    outputs = encoder(pixel_values, output_hidden_states=True)
    return outputs.last_hidden_state, outputs.hidden_states


def plain_vision_projector(model, features: torch.Tensor) -> torch.Tensor:
    """`y + LayerNorm(y)` of `y = Linear(ReLU(Linear(x)))`, specs/worldrwkv.md 1.2."""
    w = weights_under(model, "model.vision_projector")
    y = F.linear(F.relu(F.linear(features, w["linear_1.weight"], w["linear_1.bias"])), *_linear(w, "linear_2"))
    return y + F.layer_norm(y, y.shape[-1:], w["norm.weight"], w["norm.bias"], eps=1e-5)


def plain_audio_frames(model, name: str, clip: torch.Tensor) -> torch.Tensor:
    """(frames, encoder hidden) of one clip alone: a waveform, or for Whisper a waveform made a spectrogram."""
    config = model.config.audio_config
    if name != "whisper":
        encoder = AUDIO_CLASSES[name](config).eval()
        encoder.load_state_dict(weights_under(model, "model.audio_tower"))
        return encoder(clip[None]).last_hidden_state[0]
    encoder = WhisperModel(config).encoder.eval()
    encoder.load_state_dict(weights_under(model, "model.audio_tower"))
    spectrogram, mask = spectrograms([clip])
    return encoder(spectrogram).last_hidden_state[0, : int(mask.sum()) // 2 + 1]


def plain_audio_projector(model, frames: torch.Tensor) -> torch.Tensor:
    """`Linear(ReLU(Linear(Conv1d(x))))` with kernel 3, stride 2, padding 2, specs/worldrwkv.md 1.2."""
    w = weights_under(model, "model.audio_projector")
    x = F.conv1d(frames.T[None], w["conv.weight"], w["conv.bias"], stride=2, padding=2)[0].T
    assert len(x) == (len(frames) + 1) // 2 + 1
    return F.linear(F.relu(F.linear(x, *_linear(w, "linear_1"))), *_linear(w, "linear_2"))


def _linear(weights: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def plain_image_features(model, name: str, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    return [
        plain_vision_projector(model, plain_vision_frames(model, name, image[None])[0][0]) for image in pixel_values
    ]


def plain_audio_features(model, name: str, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    return [plain_audio_projector(model, plain_audio_frames(model, name, clip)) for clip in clips]


def plain_text_model(model) -> RWKV7ForCausalLM:
    text_model = RWKV7ForCausalLM(model.config.text_config).eval()
    language_model = weights_under(model, "model.language_model")
    text_model.load_state_dict(
        {**{f"model.{key}": value for key, value in language_model.items()}, "lm_head.weight": model.lm_head.weight}
    )
    return text_model


def plain_embeddings(model, input_ids: torch.Tensor, images=(), clips=()) -> torch.Tensor:
    """Token embeddings with features in place of placeholders, one after the other."""
    embeddings = model.model.language_model.embeddings.weight[input_ids].clone()
    for token_id, features in ((model.config.image_token_id, images), (model.config.audio_token_id, clips)):
        rows = iter(torch.cat(list(features))) if len(features) else iter(())
        for position in (input_ids == token_id).nonzero().tolist():
            embeddings[tuple(position)] = next(rows)
        assert next(rows, None) is None
    return embeddings


# --- Inputs ----------------------------------------------------------------------------------------------------------


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)


def waveforms(*lengths: int) -> list[torch.Tensor]:
    return [torch.from_numpy(random_clip(seed, length)) for seed, length in enumerate(lengths)]


def spectrograms(clips: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    extractor = tiny_feature_extractor("whisper")
    features = extractor(
        [clip.numpy() for clip in clips],
        sampling_rate=SAMPLING_RATE,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return features["input_features"], features["attention_mask"]


def audio_inputs(name: str, clips: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """A padded batch of clips; where the encoder takes waveforms, the padding is noise that must not matter."""
    if name == "whisper":
        values, mask = spectrograms(clips)
    else:
        longest = max(map(len, clips))
        values = torch.randn(len(clips), longest, generator=torch.Generator().manual_seed(9))
        mask = torch.zeros(len(clips), longest, dtype=torch.long)
        for row, clip in enumerate(clips):
            values[row, : len(clip)], mask[row, : len(clip)] = clip, 1
    return {"input_features": values, "input_features_mask": mask}


def prompt(config: RWKVWorldConfig, *parts: list[int] | tuple[str, int]) -> torch.Tensor:
    """(1, time) ids; a part is a list of text ids, or ("image" or "audio", number of placeholders)."""
    ids = []
    for part in parts:
        if isinstance(part, tuple):
            modality, count = part
            start, end = ("vision_start", "vision_end") if modality == "image" else ("audio_start", "audio_end")
            pad = getattr(config, f"{modality}_token_id")
            ids += [getattr(config, f"{start}_token_id"), *[pad] * count, getattr(config, f"{end}_token_id")]
        else:
            ids += part
    return torch.tensor([ids])


class Example:
    """A prompt with two pictures and two clips of different lengths among text, and its plain reading."""

    def __init__(self, vision: str = "siglip", audio: str = "whisper", **kwargs):
        self.model = composite(vision, audio, **kwargs)
        self.pixel_values, clips = pictures(2), waveforms(5000, 2300)
        self.images = plain_image_features(self.model, vision, self.pixel_values)
        self.clips = plain_audio_features(self.model, audio, clips)
        first, second = (("image", len(features)) for features in self.images)
        long, short = (("audio", len(features)) for features in self.clips)
        self.input_ids = prompt(self.model.config, [5, 6], first, long, [7], short, second, [40, 41, 42])
        self.media = {"pixel_values": self.pixel_values, **audio_inputs(audio, clips)}
        self.inputs = {"input_ids": self.input_ids, **self.media}
        self.embeddings = plain_embeddings(self.model, self.input_ids, self.images, self.clips)


@pytest.fixture(autouse=True)
def no_gradients_unless_asked_for():
    with torch.no_grad():
        yield


# --- Encoders and projectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VISION_ENCODERS)
def test_logits_with_an_image_equal_a_plain_reading(name):
    model, pixel_values = composite(name), pictures(1)
    features = plain_image_features(model, name, pixel_values)
    assert len(features[0]) == NUM_PATCHES + PREFIX_TOKENS[name]
    input_ids = prompt(model.config, [5, 6], ("image", len(features[0])), [7, 8, 9])
    expected = plain_text_model(model)(inputs_embeds=plain_embeddings(model, input_ids, features)).logits
    torch.testing.assert_close(model(input_ids, pixel_values=pixel_values).logits, expected, **TOLERANCE)


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
@pytest.mark.parametrize("samples", [500, 4000, SAMPLING_RATE])
def test_logits_with_a_clip_equal_a_plain_reading(name, samples):
    model, clips = composite(None, name), waveforms(samples)
    features = plain_audio_features(model, name, clips)
    input_ids = prompt(model.config, [5, 6], ("audio", len(features[0])), [7, 8, 9])
    expected = plain_text_model(model)(inputs_embeds=plain_embeddings(model, input_ids, (), features)).logits
    torch.testing.assert_close(model(input_ids, **audio_inputs(name, clips)).logits, expected, **TOLERANCE)


@pairs
def test_several_images_and_clips_may_stand_anywhere(vision, audio):
    example = Example(vision, audio)
    expected = plain_text_model(example.model)(inputs_embeds=example.embeddings).logits
    output = example.model(**example.inputs)
    torch.testing.assert_close(output.logits, expected, **BATCH_TOLERANCE)
    torch.testing.assert_close(output.image_hidden_states, torch.cat(example.images), **BATCH_TOLERANCE)
    torch.testing.assert_close(output.audio_hidden_states, torch.cat(example.clips), **BATCH_TOLERANCE)


def test_logits_depend_on_which_image_stands_first():
    example = Example()
    swapped = {**example.inputs, "pixel_values": example.pixel_values.flip(0)}
    assert (example.model(**example.inputs).logits[0, -1] - example.model(**swapped).logits[0, -1]).abs().max() > 0.01


@pytest.mark.parametrize("name", VISION_ENCODERS)
def test_strategy_default_drops_what_stands_before_the_patches(name):
    model, pixel_values = composite(name, vision_feature_select_strategy="default"), pictures(2)
    frames, _ = plain_vision_frames(model, name, pixel_values)
    features = model.get_image_features(pixel_values).pooler_output
    assert [len(image) for image in features] == [NUM_PATCHES, NUM_PATCHES]
    expected = plain_vision_projector(model, frames[:, PREFIX_TOKENS[name] :])
    torch.testing.assert_close(torch.stack(features), expected, **TOLERANCE)


@pytest.mark.parametrize("layer", [-2, 0, 1])
@pytest.mark.parametrize("name", VISION_ENCODERS)
def test_features_can_come_from_another_layer_of_the_vision_encoder(name, layer):
    model, pixel_values = composite(name, vision_feature_layer=layer), pictures(2)
    _, hidden_states = plain_vision_frames(model, name, pixel_values)
    features = torch.stack(model.get_image_features(pixel_values).pooler_output)
    torch.testing.assert_close(features, plain_vision_projector(model, hidden_states[layer]), **TOLERANCE)


def test_features_enter_before_the_norm_of_the_embeddings():
    example = Example()
    seen = []
    pre_norm = example.model.model.language_model.layers[0].pre_norm
    assert isinstance(pre_norm, torch.nn.LayerNorm)
    hook = pre_norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    example.model(**example.inputs)
    hook.remove()
    torch.testing.assert_close(seen[0], example.embeddings, **BATCH_TOLERANCE)


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_clips_of_different_lengths_are_encoded_as_each_alone(name):
    model, clips = composite(None, name), waveforms(7000, 500, 3210)
    batch = model.get_audio_features(**audio_inputs(name, clips)).pooler_output
    for features, clip in zip(batch, clips, strict=True):
        alone = model.get_audio_features(**audio_inputs(name, [clip])).pooler_output[0]
        torch.testing.assert_close(features, alone, **BATCH_TOLERANCE)


@pytest.mark.parametrize("layer", [None, -2])
@torch.no_grad()
def test_many_pictures_are_encoded_a_few_at_a_time(layer, monkeypatch):
    model, sizes = tiny_composite("siglip", vision_feature_layer=layer), []
    expected = model.get_image_features(pictures(5))
    model.model.vision_tower.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(encoders, "PICTURES_AT_A_TIME", 2)
    given = model.get_image_features(pictures(5))
    assert sizes == [2, 2, 1]
    torch.testing.assert_close(given.last_hidden_state, expected.last_hidden_state, **BATCH_TOLERANCE)
    for picture, picture_at_once in zip(given.pooler_output, expected.pooler_output, strict=True):
        torch.testing.assert_close(picture, picture_at_once, **BATCH_TOLERANCE)


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
@torch.no_grad()
def test_many_clips_are_encoded_a_few_at_a_time(name, monkeypatch):
    model, sizes = tiny_composite(None, name), []
    inputs = audio_inputs(name, waveforms(9000, 8000, SAMPLING_RATE, 5000, 7000))
    expected = model.get_audio_features(**inputs).pooler_output
    model.model.audio_tower.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(encoders, "STEPS_AT_A_TIME", 2 * SAMPLING_RATE)
    given = model.get_audio_features(**inputs).pooler_output
    assert max(sizes) <= 2 and sum(sizes) == 5
    for clip, clip_at_once in zip(given, expected, strict=True):
        torch.testing.assert_close(clip, clip_at_once, **BATCH_TOLERANCE)


@pytest.mark.parametrize("name", AUDIO_ENCODERS)
def test_without_a_mask_whole_clips_are_real(name):
    model, inputs = composite(None, name), audio_inputs(name, waveforms(SAMPLING_RATE, SAMPLING_RATE))
    masked = model.get_audio_features(**inputs).pooler_output
    unmasked = model.get_audio_features(inputs["input_features"]).pooler_output
    torch.testing.assert_close(torch.stack(unmasked), torch.stack(masked), **TOLERANCE)


# --- Batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pairs
def test_a_batch_of_unlike_rows_equals_each_row_alone(vision, audio, padding_side):
    model = composite(vision, audio)
    pixel_values, clips = pictures(3), waveforms(4000, 700)
    media = audio_inputs(audio, clips)
    num_image = len(model.get_image_features(pixel_values[:1]).pooler_output[0])
    num_long, num_short = (len(clip) for clip in model.get_audio_features(**media).pooler_output)
    rows = [
        (prompt(model.config, [5], ("image", num_image), ("audio", num_long), [6, 7]), slice(0, 1), [0]),
        (prompt(model.config, [8, 9, 10]), slice(0, 0), []),
        (prompt(model.config, ("image", num_image), [11], ("image", num_image)), slice(1, 3), []),
        (prompt(model.config, [12, 13], ("audio", num_short), [14]), slice(0, 0), [1]),
    ]
    length = max(input_ids.shape[1] for input_ids, _, _ in rows)
    batch_ids = torch.zeros(len(rows), length, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    places = []
    for row, (input_ids, _, _) in enumerate(rows):
        size = input_ids.shape[1]
        places.append(slice(length - size, length) if padding_side == "left" else slice(0, size))
        batch_ids[row, places[-1]], attention_mask[row, places[-1]] = input_ids[0], 1

    logits = model(batch_ids, attention_mask=attention_mask, pixel_values=pixel_values, **media).logits
    for row, (input_ids, images, chosen) in enumerate(rows):
        alone = {"pixel_values": pixel_values[images]} if images.stop else {}
        alone |= audio_inputs(audio, [clips[index] for index in chosen]) if chosen else {}
        torch.testing.assert_close(logits[row, places[row]], model(input_ids, **alone).logits[0], **BATCH_TOLERANCE)


# --- Encoded beforehand ----------------------------------------------------------------------------------------------


@pairs
def test_encoded_features_come_as_a_list_and_stand_in_for_raw_inputs(vision, audio):
    example = Example(vision, audio)
    model, media = example.model, dict(example.media)
    image_output = model.get_image_features(media.pop("pixel_values"))
    audio_output = model.get_audio_features(**media)
    for output, expected in ((image_output, example.images), (audio_output, example.clips)):
        assert isinstance(output, BaseModelOutputWithPooling)
        assert isinstance(output.pooler_output, list)
        assert [part.shape for part in output.pooler_output] == [part.shape for part in expected]
    encoded = {"image": image_output, "audio": audio_output}
    from_encoded = model(example.input_ids, mm_encoder_outputs=encoded)
    torch.testing.assert_close(from_encoded.logits, model(**example.inputs).logits, **TOLERANCE)


def test_feature_methods_return_tuples_when_asked():
    example = Example()
    last_hidden_state, features = example.model.get_image_features(example.pixel_values, return_dict=False)
    assert last_hidden_state.shape == (2, NUM_PATCHES, 16)
    torch.testing.assert_close(features, example.images, **BATCH_TOLERANCE)


def test_raw_and_encoded_images_together_are_refused():
    example = Example()
    encoded = {"image": example.model.get_image_features(example.pixel_values)}
    with pytest.raises(ValueError, match="mm_encoder_outputs"):
        example.model(**example.inputs, mm_encoder_outputs=encoded)


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_prefill_in_chunks_generates_the_same(chunk_size):
    example = Example()
    model, media = example.model, dict(example.media)
    encoded = {
        "image": model.get_image_features(media.pop("pixel_values")),
        "audio": model.get_audio_features(**media),
    }
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    whole = model.generate(**example.inputs, **options)
    chunked = model.generate(example.input_ids, mm_encoder_outputs=encoded, prefill_chunk_size=chunk_size, **options)
    assert chunked.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(chunked.logits, whole.logits, **BATCH_TOLERANCE)


def test_prefill_in_chunks_takes_raw_images_and_clips():
    example = Example()
    whole = example.model.generate(**example.inputs, max_new_tokens=8, do_sample=False)
    chunked = example.model.generate(**example.inputs, max_new_tokens=8, do_sample=False, prefill_chunk_size=4)
    assert chunked.tolist() == whole.tolist()


# --- Placeholders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("modality", "missing"), [("image", 1), ("image", -2), ("audio", 1), ("audio", -2)])
def test_a_placeholder_count_that_does_not_fit_names_both_numbers(modality, missing):
    example = Example()
    token_id = getattr(example.model.config, f"{modality}_token_id")
    features = sum(map(len, example.images if modality == "image" else example.clips))
    placeholders = features - missing
    ids = [number for number in example.input_ids[0].tolist() if number != token_id] + [token_id] * placeholders
    with pytest.raises(ValueError, match=rf"(?i){modality}.*tokens: {placeholders}, features: {features}"):
        example.model(**{**example.inputs, "input_ids": torch.tensor([ids])})


def test_the_placeholder_mask_is_true_at_placeholders_alone():
    example = Example()
    model, features = example.model.model, torch.cat(example.clips)
    expected = (example.input_ids == model.config.audio_token_id)[..., None]
    embeddings = model.get_input_embeddings()(example.input_ids)
    assert torch.equal(model.get_placeholder_mask(example.input_ids, embeddings, features, "audio"), expected)
    assert torch.equal(model.get_placeholder_mask(None, embeddings, features, "audio"), expected)


def test_placeholders_are_found_by_their_embeddings():
    example = Example()
    embeddings = example.model.get_input_embeddings()(example.input_ids)
    by_embeddings = example.model(inputs_embeds=embeddings, **example.media).logits
    torch.testing.assert_close(by_embeddings, example.model(**example.inputs).logits, **TOLERANCE)


def test_a_model_without_eyes_refuses_images():
    model = composite(None, "whisper")
    with pytest.raises(ValueError, match="pixel_values.*vision"):
        model(torch.tensor([[5, 6]]), pixel_values=pictures(1))


def test_a_model_without_ears_refuses_clips():
    model = composite("siglip")
    with pytest.raises(ValueError, match="input_features.*audio"):
        model(torch.tensor([[5, 6]]), input_features=torch.zeros(1, 4000))


def test_a_model_with_neither_is_the_text_model():
    model, input_ids = composite(), torch.tensor([[5, 6, 7, 8]])
    expected = plain_text_model(model)(input_ids).logits
    torch.testing.assert_close(model(input_ids).logits, expected, **TOLERANCE)


# --- Training --------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_next_token_where_labels_are_given():
    example = Example()
    labels = torch.full_like(example.input_ids, -100)
    labels[0, -3:] = example.input_ids[0, -3:]
    output = example.model(**example.inputs, labels=labels)
    expected = F.cross_entropy(output.logits[0, -4:-1], labels[0, -3:])
    torch.testing.assert_close(output.loss, expected, **TOLERANCE)


def gradients(model, example: Example) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(0)  # dropout
    model.zero_grad()
    with torch.enable_grad():
        model(**example.inputs, labels=example.input_ids).loss.backward()
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters() if p.requires_grad
    }


# Not on the way from pixels or samples to `last_hidden_state` outside of pre-training
UNUSED = ("vision_tower.head.", "vision_tower.post_layernorm.", "mask_token", "masked_spec_embed")


@pairs
def test_gradients_reach_every_part(vision, audio):
    example = Example(vision, audio)
    for name, gradient in gradients(copy.deepcopy(example.model), example).items():
        if any(part in name for part in UNUSED) and not (vision == "siglip" and "post_layernorm" in name):
            continue
        assert gradient is not None, name
        assert gradient.ndim < 2 or gradient.abs().max() > 0, name


@pairs
def test_gradient_checkpointing_changes_no_gradient(vision, audio):
    example = Example(vision, audio)
    model = copy.deepcopy(example.model).train()
    expected = gradients(model, example)
    model.gradient_checkpointing_enable()
    assert model.model.language_model.layers[0].gradient_checkpointing
    for name, gradient in gradients(model, example).items():
        torch.testing.assert_close(
            gradient, expected[name], **BATCH_TOLERANCE, msg=lambda text, name=name: f"{name}: {text}"
        )


# --- Generation ------------------------------------------------------------------------------------------------------


@pairs
def test_greedy_generation_equals_generation_without_cache(vision, audio):
    example = Example(vision, audio)
    options = {"max_new_tokens": 10, "do_sample": False}
    cached = example.model.generate(**example.inputs, **options)
    assert cached.tolist() == example.model.generate(**example.inputs, use_cache=False, **options).tolist()
    assert len(set(cached[0, example.input_ids.shape[1] :].tolist())) > 2


@pytest.mark.parametrize("guesser", ["prompt", "model"])
def test_guesses_are_taken_back_and_images_and_clips_stay(guesser):
    example = Example("siglip", "wavlm")
    assistant = copy.deepcopy(example.model)
    with torch.no_grad():
        assistant.lm_head.weight += 0.05 * torch.randn(
            assistant.lm_head.weight.shape, generator=torch.Generator().manual_seed(0)
        )
    guesses = {"prompt_lookup_num_tokens": 3} if guesser == "prompt" else {"assistant_model": assistant}
    options = {"max_new_tokens": 10, "do_sample": False}
    assisted = example.model.generate(**example.inputs, **guesses, **options)
    assert assisted.tolist() == example.model.generate(**example.inputs, **options).tolist()


def test_a_new_whisper_tower_has_its_sinusoids():
    tower = RWKVWorldForConditionalGeneration(tiny_config(None, "whisper")).model.audio_tower
    positions = tower.embed_positions.weight
    torch.testing.assert_close(positions, sinusoids(*positions.shape))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_positions_of_a_loaded_whisper_tower_stay_as_they_are_in_training(tmp_path, dtype):
    example = Example("siglip", "whisper")
    example.model.save_pretrained(tmp_path)
    model = RWKVWorldForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype).train()
    tower = model.model.audio_tower
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == [
        "model.audio_tower.embed_positions.weight"
    ]
    before = {name: weight.detach().clone() for name, weight in tower.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in example.inputs.items()}
    with torch.enable_grad():
        model(**inputs, labels=example.input_ids).loss.backward()
    optimizer.step()
    changed = {name for name, weight in tower.named_parameters() if not torch.equal(weight, before[name])}
    assert "conv1.weight" in changed and "embed_positions.weight" not in changed


def test_early_exit_is_refused_and_changes_nothing():
    example = Example("siglip", "wavlm")
    before = example.model.config.to_dict()
    with pytest.raises(ValueError, match="assistant_early_exit=1"):
        example.model.generate(**example.inputs, max_new_tokens=5, assistant_early_exit=1)
    assert example.model.config.to_dict() == before


@pytest.mark.parametrize("encode_first", [False, True])
def test_every_beam_gets_all_images_and_clips_in_order(encode_first):
    example = Example("siglip", "wavlm")
    model, media = example.model, dict(example.media)
    if encode_first:
        image = model.get_image_features(media.pop("pixel_values"))
        media = {"mm_encoder_outputs": {"image": image, "audio": model.get_audio_features(**media)}}
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 3, "num_return_sequences": 3}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    beams = model.generate(example.input_ids, **media, **options)
    expected = plain_text_model(model).generate(
        inputs_embeds=example.embeddings, eos_token_id=None, pad_token_id=0, **options
    )
    assert beams.sequences[:, example.input_ids.shape[1] :].tolist() == expected.sequences.tolist()
    torch.testing.assert_close(beams.sequences_scores, expected.sequences_scores, **BATCH_TOLERANCE)


def test_beams_of_rows_with_different_numbers_of_clips_equal_each_row_alone():
    model, clips = composite(None, "whisper"), waveforms(5000, 2300, 900)
    media = audio_inputs("whisper", clips)
    counts = [("audio", len(clip)) for clip in model.get_audio_features(**media).pooler_output]
    rows = [prompt(model.config, *counts[:2], [5, 6]), prompt(model.config, [7], counts[2], [8])]
    length = rows[0].shape[1]
    batch_ids = torch.cat([F.pad(row, (length - row.shape[1], 0)) for row in rows])
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    batch = model.generate(batch_ids, attention_mask=(batch_ids != 0).long(), **media, **options)
    for row, (input_ids, chosen) in enumerate(zip(rows, (clips[:2], clips[2:]), strict=True)):
        alone = model.generate(input_ids, **audio_inputs("whisper", chosen), **options)
        assert batch.sequences[row, length:].tolist() == alone.sequences[0, input_ids.shape[1] :].tolist()
        torch.testing.assert_close(batch.sequences_scores[row], alone.sequences_scores[0], **BATCH_TOLERANCE)


def test_generation_leaves_what_was_encoded_beforehand_as_it_was():
    example = Example()
    media = dict(example.media)
    del media["pixel_values"]
    encoded = {
        "image": example.model.get_image_features(example.pixel_values),
        "audio": example.model.get_audio_features(**media),
    }
    before = {modality: list(output.pooler_output) for modality, output in encoded.items()}
    example.model.generate(example.input_ids, mm_encoder_outputs=encoded, max_new_tokens=2, num_beams=2)
    for modality, output in encoded.items():
        assert len(output.pooler_output) == len(before[modality])
        assert all(now is then for now, then in zip(output.pooler_output, before[modality], strict=True))


GREEDY = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


def test_a_second_turn_continues_from_the_cache_of_the_first():
    example = Example()
    first = example.model.generate(**example.inputs, **GREEDY)
    conversation = torch.cat([first.sequences, torch.tensor([[24, 23, 50, 51, 52]])], dim=1)
    continued = example.model.generate(conversation, past_key_values=first.past_key_values, **GREEDY)
    whole = example.model.generate(conversation, **example.media, **GREEDY)
    assert continued.sequences.tolist() == whole.sequences.tolist()
    torch.testing.assert_close(continued.logits, whole.logits, **BATCH_TOLERANCE)


def test_a_second_turn_may_bring_another_image():
    example = Example()
    first = example.model.generate(**example.inputs, **GREEDY)
    picture = pictures(1, seed=5)
    turn = prompt(example.model.config, [24, 23], ("image", NUM_PATCHES), [50])
    continued = example.model(turn, pixel_values=picture, past_key_values=first.past_key_values)
    # The last token of an answer was never fed
    conversation = torch.cat([first.sequences[:, :-1], turn], dim=1)
    all_pictures = torch.cat([example.pixel_values, picture])
    whole = example.model(**{**example.inputs, "input_ids": conversation, "pixel_values": all_pictures})
    torch.testing.assert_close(continued.logits, whole.logits[:, -turn.shape[1] :], **BATCH_TOLERANCE)


def test_one_image_serves_several_questions_through_copies_of_its_cache():
    example = Example()
    seen = example.model(**example.inputs, use_cache=True).past_key_values
    for question in ([60, 61], [62, 63, 64]):
        conversation = torch.cat([example.input_ids, torch.tensor([question])], dim=1)
        forked = example.model.generate(conversation, past_key_values=copy.deepcopy(seen), **GREEDY)
        whole = example.model.generate(conversation, **example.media, **GREEDY)
        assert forked.sequences.tolist() == whole.sequences.tolist()


# --- Files -----------------------------------------------------------------------------------------------------------


@pairs
def test_a_saved_model_loads_by_every_auto_class(vision, audio, tmp_path):
    example = Example(vision, audio)
    example.model.save_pretrained(tmp_path)
    expected = example.model(**example.inputs)
    for auto_class in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is RWKVWorldForConditionalGeneration
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        torch.testing.assert_close(loaded(**example.inputs).logits, expected.logits, **TOLERANCE)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is RWKVWorldModel
    features = base(**example.inputs).last_hidden_state
    torch.testing.assert_close(F.linear(features, example.model.lm_head.weight), expected.logits, **BATCH_TOLERANCE)


@pytest.mark.parametrize(("vision", "audio"), [("siglip", None), (None, "wavlm"), (None, None)])
def test_a_saved_model_without_a_modality_loads_without_it(vision, audio, tmp_path):
    model = tiny_composite(vision, audio)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert hasattr(loaded.model, "vision_tower") == (vision is not None)
    assert hasattr(loaded.model, "audio_tower") == (audio is not None)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_model_and_processor_loaded_by_auto_classes_answer_as_before(tmp_path):
    model, processor = composite("siglip", "whisper"), tiny_processor("siglip", "whisper")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    content = [{"type": "image", "image": random_image()}, {"type": "audio", "audio": random_clip()}]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": "what?"}]}]
    answers = []
    for one_model, one_processor in (
        (model, processor),
        (AutoModelForMultimodalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)),
    ):
        inputs = one_processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        answers.append(one_model.generate(**inputs, max_new_tokens=6, do_sample=False).tolist())
    assert answers[0] == answers[1]


# --- Configuration ---------------------------------------------------------------------------------------------------


def settings_of(config: RWKVWorldConfig) -> dict:
    """Everything but how the configuration came to be."""
    return {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "architectures")}


@pytest.mark.parametrize(("vision", "audio"), [*PAIRS, ("clip", None), (None, "hubert_group"), (None, None)])
def test_a_configuration_survives_saving(vision, audio, tmp_path):
    config = tiny_config(vision, audio, vision_feature_layer=-2, audio_projector_stride=3)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is RWKVWorldConfig
    assert settings_of(loaded) == settings_of(config)
    for name in ("text_config", "vision_config", "audio_config"):
        assert type(getattr(loaded, name)) is type(getattr(config, name))
    assert (loaded.vision_config is None, loaded.audio_config is None) == (vision is None, audio is None)


@pytest.mark.parametrize("config_class", [CLIPConfig, SiglipConfig])
@pytest.mark.parametrize("as_dict", [False, True])
def test_of_a_two_tower_configuration_the_vision_part_is_used(config_class, as_dict):
    name = "clip" if config_class is CLIPConfig else "siglip"
    full = config_class(vision_config=vision_config(name).to_dict())
    config = RWKVWorldConfig(vision_config=full.to_dict() if as_dict else full)
    assert config.vision_config.model_type == f"{name}_vision_model"
    assert config.vision_config.patch_size == vision_config(name).patch_size
    assert config.num_additional_image_tokens == PREFIX_TOKENS[name]


@pytest.mark.parametrize("name", VISION_ENCODERS)
def test_tokens_before_the_patches_are_known_for_the_usual_encoders(name):
    assert tiny_config(name).num_additional_image_tokens == PREFIX_TOKENS[name]


BEIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def test_an_unknown_vision_encoder_asks_for_its_number_of_tokens_before_the_patches():
    with pytest.raises(ValueError, match="'beit'.*num_additional_image_tokens"):
        RWKVWorldConfig(vision_config=BeitConfig(**BEIT))


def test_an_unknown_vision_encoder_works_once_its_tokens_are_counted():
    beit = BeitConfig(image_size=IMAGE_SIZE, patch_size=8, **BEIT)
    config = tiny_config(num_additional_image_tokens=1, vision_feature_select_strategy="default")
    config = RWKVWorldConfig(**{**config.to_dict(), "vision_config": beit})
    features = RWKVWorldForConditionalGeneration(config).get_image_features(pictures(1)).pooler_output
    assert features[0].shape == (NUM_PATCHES, config.text_config.hidden_size)


def test_projector_widths_follow_the_text_model_unless_given():
    config = tiny_config("siglip", "whisper")
    assert (config.vision_projector_hidden_size, config.audio_projector_hidden_size) == (4 * 32, 2 * 32)
    config = tiny_config("siglip", "whisper", vision_projector_hidden_size=24, audio_projector_hidden_size=40)
    model = RWKVWorldForConditionalGeneration(config)
    assert model.model.vision_projector.linear_1.weight.shape == (24, 16)
    assert model.model.audio_projector.conv.weight.shape == (40, 16, 3)


def test_pixel_shuffle_makes_one_token_of_a_square_of_patches_and_learns():
    options = {"vision_projector_type": "pixel_shuffle", "vision_projector_scale_factor": 3}
    model, processor = composite("siglip", None, **options), tiny_processor("siglip", None, **options)
    inputs = processor(text="a<|image_pad|>b", images=random_image(), return_tensors="pt")
    assert NUM_PATCHES == 9 and (inputs["input_ids"] == model.config.image_token_id).sum() == 1
    with torch.enable_grad():
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.model.vision_projector.linear.weight.grad.abs().sum() > 0


def test_pixel_shuffle_refuses_a_grid_that_it_cannot_divide():
    model = composite("siglip", None, vision_projector_type="pixel_shuffle", vision_projector_scale_factor=2)
    with pytest.raises(ValueError, match="9 patches make no square grid whose side 2 divides"):
        model.get_image_features(pictures(1))


def test_an_unknown_projector_is_refused():
    with pytest.raises(Exception, match="vision_projector_type"):
        RWKVWorldConfig(vision_projector_type="smell")


def test_an_unknown_select_strategy_is_refused():
    with pytest.raises(Exception, match="vision_feature_select_strategy"):
        tiny_config("clip", vision_feature_select_strategy="all")

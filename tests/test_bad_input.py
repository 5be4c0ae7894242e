# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said to whom gives wrong input: one line that names what was given and what was expected."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from helpers.composites import (
    IMAGE_SIZE,
    SAMPLING_RATE,
    random_clip,
    random_image,
    tiny_composite,
    tiny_processor,
    tiny_tokenizer,
)
from rwkv7_world import RWKVWorldConfig, RWKVWorldProcessor
from rwkv7_world.cli.loading import load_config
from rwkv7_world.kernels.wkv7 import available_backends, wkv7


IMAGE, AUDIO = "<|image_pad|>", "<|audio_pad|>"
VOCAB_SIZE = len(tiny_tokenizer())

model = cache(tiny_composite)
processor = cache(tiny_processor)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths of damaged and missing files."""
    folder: Path = tmp_path_factory.mktemp("files")
    no_picture, cut_picture = folder / "no_picture.png", folder / "cut_picture.png"
    no_picture.write_text("This is no picture.")
    random_image(width=200, height=200).save(cut_picture)
    cut_picture.write_bytes(cut_picture.read_bytes()[:5000])
    no_clip, empty_clip = folder / "no_clip.wav", folder / "empty_clip.wav"
    no_clip.write_text("This is no clip.")
    soundfile.write(empty_clip, np.zeros(0, dtype=np.float32), SAMPLING_RATE)
    return SimpleNamespace(
        folder=folder,
        no_picture=no_picture,
        cut_picture=cut_picture,
        no_clip=no_clip,
        empty_clip=empty_clip,
        missing_picture=folder / "missing.png",
        missing_clip=folder / "missing.wav",
        missing_model=folder / "missing_model",
    )


def see(images, text: str = IMAGE):
    return processor("siglip", "wavlm")(text=text, images=images)


def hear(clip, text: str = AUDIO, encoder: str = "wavlm", **kwargs):
    return processor("siglip", encoder)(text=text, audio=clip, **kwargs)


def hear_array(samples: int, encoder: str = "wavlm"):
    return hear(random_clip(0, samples), encoder=encoder, sampling_rate=SAMPLING_RATE)


def chat(**block):
    conversation = [{"role": "user", "content": [block]}]
    return processor("siglip", "wavlm").apply_chat_template(conversation, tokenize=True, return_dict=True)


def forward(
    input_ids: list[list[int]] | None = None, vision: str | None = "siglip", audio: str | None = None, **kwargs
):
    return model(vision, audio)(input_ids=None if input_ids is None else torch.tensor(input_ids), **kwargs)


def placeholders(count: int) -> list[list[int]]:
    return [[tiny_tokenizer().image_token_id] * count]


def run_backend(name: str):
    inputs = torch.zeros(6, 1, 2, 1, 4)
    return wkv7(*inputs, backend=name)


PIXELS = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)

# What goes wrong: what does it, the exception, and its message with {} for the files above
BAD_INPUTS: dict[str, tuple[Callable, type[Exception], str]] = {
    # Placeholders
    "two placeholders and one image": (
        lambda f: see(random_image(), IMAGE + IMAGE),
        ValueError,
        "The total number of <|image_pad|> tokens in the prompts should be the same as the number of images passed. "
        "Found total 2 <|image_pad|> tokens and 1 images.",
    ),
    "a placeholder and no image": (
        lambda f: see(None, IMAGE),
        ValueError,
        "Found 1 <|image_pad|> tokens in the text but no images were passed.",
    ),
    "two placeholders and one clip": (
        lambda f: hear(random_clip(), AUDIO + AUDIO, sampling_rate=SAMPLING_RATE),
        ValueError,
        "The total number of <|audio_pad|> tokens in the prompts should be the same as the number of audio inputs "
        "passed. Found total 2 <|audio_pad|> tokens and 1 audio inputs.",
    ),
    "placeholders that do not fit the features": (
        lambda f: forward(placeholders(5), pixel_values=PIXELS),
        ValueError,
        "Image features and image tokens do not match, tokens: 5, features: 9",
    ),
    # Modalities that the model does not have
    "an image for a processor without a vision encoder": (
        lambda f: processor(None, "wavlm")(text=IMAGE, images=random_image()),
        ValueError,
        "Images were given to a processor without an image_processor: the model has no vision encoder.",
    ),
    "an image for a model without a vision encoder": (
        lambda f: forward([[5]], vision=None, pixel_values=PIXELS),
        ValueError,
        "pixel_values were given to a model without a vision tower (vision_config is None).",
    ),
    "a clip for a processor without an audio encoder": (
        lambda f: processor("siglip")(text=AUDIO, audio=random_clip(), sampling_rate=SAMPLING_RATE),
        ValueError,
        "Audio was given to a processor without a feature_extractor: the model has no audio encoder.",
    ),
    "a clip for a model without an audio encoder": (
        lambda f: forward([[5]], input_features=torch.zeros(1, 4000)),
        ValueError,
        "input_features were given to a model without an audio tower (audio_config is None).",
    ),
    "a video": (
        lambda f: processor("siglip")(text="a", videos=[[random_image()]]),
        ValueError,
        'A video is given in a conversation, as {"type": "video", "video": ...}, or as images.',
    ),
    "a video block without a video": (
        lambda f: chat(type="video"),
        ValueError,
        "A video block holds no video: expected one of video, url, path.",
    ),
    "a missing video": (
        lambda f: chat(type="video", path=str(f.missing_clip)),
        FileNotFoundError,
        "{missing_clip}: no such file",
    ),
    "a file that is no video": (
        lambda f: chat(type="video", path=str(f.no_clip)),
        ValueError,
        "{no_clip}: not a video that can be read ([Errno 1094995529] Invalid data found when processing input: "
        "'{no_clip}')",
    ),
    "a video without frames": (lambda f: chat(type="video", video=[]), ValueError, "A video has no frames."),
    # Clips
    "a clip of unknown sampling rate": (
        lambda f: hear(random_clip()),
        ValueError,
        "The sampling rate of an audio array is unknown: pass sampling_rate (model: 16000).",
    ),
    "a clip of an impossible sampling rate": (
        lambda f: hear(random_clip(), sampling_rate=0),
        ValueError,
        "The sampling rate of an audio array is 0, expected samples per second.",
    ),
    "a row without sampling rate": (
        lambda f: hear({"array": random_clip()}),
        ValueError,
        "An audio clip given as a dict needs 'array' and 'sampling_rate', got ['array'].",
    ),
    "an empty clip": (
        lambda f: hear_array(0),
        ValueError,
        "An audio clip is empty or no waveform: its shape is (0,), expected (samples,).",
    ),
    "an empty clip in a file": (
        lambda f: hear(f.empty_clip),
        ValueError,
        "{empty_clip} is empty or no waveform: its shape is (0,), expected (samples,).",
    ),
    "a clip that is no waveform": (
        lambda f: hear(np.zeros((2, 3, 4)), sampling_rate=SAMPLING_RATE),
        ValueError,
        "An audio clip is empty or no waveform: its shape is (2, 3, 4), expected (samples,).",
    ),
    "a clip that is not a number": (
        lambda f: hear(np.full(4000, np.nan), sampling_rate=SAMPLING_RATE),
        ValueError,
        "An audio clip holds samples that are not finite, expected numbers around -1 to 1.",
    ),
    "a clip that is too short": (
        lambda f: hear_array(399),
        ValueError,
        "An audio clip of 399 samples is too short: the encoder needs at least 400.",
    ),
    "a file that is no clip": (
        lambda f: hear(f.no_clip),
        ValueError,
        "{no_clip}: not a clip that can be read (Error opening '{no_clip}': Format not recognised.)",
    ),
    "a file that is no clip in a conversation": (
        lambda f: chat(type="audio", path=str(f.no_clip)),
        ValueError,
        "{no_clip}: not a clip that can be read (Error opening '{no_clip}': Format not recognised.)",
    ),
    "a missing clip": (lambda f: hear(f.missing_clip), FileNotFoundError, "{missing_clip}: no such file"),
    "a missing clip in a conversation": (
        lambda f: chat(type="audio", path=str(f.missing_clip)),
        FileNotFoundError,
        "{missing_clip}: no such file",
    ),
    # Pictures
    "a file that is no picture": (
        lambda f: see(str(f.no_picture)),
        ValueError,
        "{no_picture}: not a picture that can be read (cannot identify image file '{no_picture}')",
    ),
    "a picture cut off": (
        lambda f: see(f.cut_picture),
        ValueError,
        "{cut_picture}: not a picture that can be read (image file is truncated)",
    ),
    "a picture cut off in a conversation": (
        lambda f: chat(type="image", path=str(f.cut_picture)),
        ValueError,
        "{cut_picture}: not a picture that can be read (image file is truncated)",
    ),
    "a missing picture": (lambda f: see(f.missing_picture), FileNotFoundError, "{missing_picture}: no such file"),
    "a missing picture in a conversation": (
        lambda f: chat(type="image", path=str(f.missing_picture)),
        FileNotFoundError,
        "{missing_picture}: no such file",
    ),
    "a folder in place of a picture": (lambda f: see(f.folder), ValueError, "{folder}: not a file"),
    "bytes that are no picture": (
        lambda f: see(b"abc"),
        ValueError,
        "A picture in memory: not a picture that can be read (of no known format)",
    ),
    # Token ids, masks and the rest
    "a token id that is too large": (
        lambda f: forward([[5, VOCAB_SIZE]]),
        ValueError,
        f"Token id {VOCAB_SIZE} is out of range: the model has ids 0 to {VOCAB_SIZE - 1}.",
    ),
    "a negative token id": (
        lambda f: forward([[5, -1]]),
        ValueError,
        f"Token id -1 is out of range: the model has ids 0 to {VOCAB_SIZE - 1}.",
    ),
    "a token id that cannot be decoded": (
        lambda f: tiny_tokenizer().decode([5, 99_999]),
        ValueError,
        f"token id 99999 is out of range, expected 0 <= id < {VOCAB_SIZE}",
    ),
    "an attention mask of another kind": (
        lambda f: forward([[5, 6, 7]], attention_mask=torch.ones(1, 1, 3, 3)),
        ValueError,
        "attention_mask has shape (1, 1, 3, 3), expected (1, 0 + 3): "
        "a recurrent model has no other mask than padding.",
    ),
    "an attention mask that is too short": (
        lambda f: forward([[5, 6, 7]], attention_mask=torch.ones(1, 2)),
        ValueError,
        "attention_mask has shape (1, 2), expected (1, 0 + 3): a recurrent model has no other mask than padding.",
    ),
    "an attention mask that is too long": (
        lambda f: forward([[5, 6, 7]], attention_mask=torch.ones(1, 4)),
        ValueError,
        "attention_mask has shape (1, 4), expected (1, 0 + 3): a recurrent model has no other mask than padding.",
    ),
    "an attention mask of another batch": (
        lambda f: forward([[5, 6, 7]], attention_mask=torch.ones(2, 3)),
        ValueError,
        "attention_mask has shape (2, 3), expected (1, 0 + 3): a recurrent model has no other mask than padding.",
    ),
    "both ids and embeddings": (
        lambda f: forward([[5]], inputs_embeds=torch.zeros(1, 1, 32)),
        ValueError,
        "You must specify exactly one of input_ids or inputs_embeds",
    ),
    "neither ids nor embeddings": (
        lambda f: forward(None),
        ValueError,
        "You must specify exactly one of input_ids or inputs_embeds",
    ),
    "an unknown backend": (
        lambda f: run_backend("warp"),
        ValueError,
        f"Unknown wkv7 backend 'warp'; available here: {', '.join(available_backends())}.",
    ),
    "an unknown vision encoder": (
        lambda f: RWKVWorldConfig(vision_config={"model_type": "beit"}),
        ValueError,
        "Unknown vision encoder 'beit': pass num_additional_image_tokens, the number of class and register tokens it "
        "puts in front of the patches.",
    ),
    "a missing model folder": (
        lambda f: load_config(str(f.missing_model)),
        FileNotFoundError,
        "{missing_model}: no such model folder",
    ),
    "a processor without tokenizer": (
        lambda f: RWKVWorldProcessor(),
        ValueError,
        "RWKVWorldProcessor needs a tokenizer.",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gets_one_clear_line(case: str, files: SimpleNamespace) -> None:
    give, exception, message = BAD_INPUTS[case]
    names = {name: str(path) for name, path in vars(files).items()}
    with pytest.raises(exception) as caught:
        give(files)
    assert type(caught.value) is exception
    assert str(caught.value) == re.sub(r"\{(\w+)\}", lambda match: names[match[1]], message)
    assert "\n" not in str(caught.value)


def test_a_bad_backend_in_the_environment_is_told_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWKV7_BACKEND", "warp")
    with pytest.raises(ValueError, match="^Unknown wkv7 backend 'warp'; available here: [^\n]*$"):
        forward([[5, 6]])


def test_a_whole_file_as_base64_is_not_repeated_in_the_complaint() -> None:
    with pytest.raises(ValueError) as caught:
        see("data:image/png;base64," + "A" * 100_000)
    assert len(str(caught.value)) < 1000

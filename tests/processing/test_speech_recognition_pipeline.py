# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`pipeline("automatic-speech-recognition")` takes clips in every form, alone and many at once."""

import json
from pathlib import Path

import pytest
import soundfile
import soxr
import torch
from transformers import pipeline

from helpers.composites import tiny_composite, tiny_processor
from rwkv7_world import (
    RWKVWorldForConditionalGeneration,
    RWKVWorldProcessor,
    RWKVWorldSpeechRecognitionPipeline,
)


TINY_WORLD = Path(__file__).resolve().parents[2] / "examples" / "tiny_world"
SAMPLES = [
    sample
    for sample in json.loads((TINY_WORLD / "samples" / "samples.json").read_text(encoding="utf-8"))
    if "audio" in sample
]
CLIPS = [str(TINY_WORLD / "samples" / sample["audio"]) for sample in SAMPLES]
SAID = [{"text": sample["answer"]} for sample in SAMPLES]
OTHER_RATE = 22_050


def make_pipeline(model, processor, **options) -> RWKVWorldSpeechRecognitionPipeline:
    parts = {"model": model, "processor": processor, "pipeline_class": RWKVWorldSpeechRecognitionPipeline}
    return pipeline("automatic-speech-recognition", **parts, **options)


@pytest.fixture(scope="module")
def hear():
    checkpoint = TINY_WORLD / "checkpoint"
    model, processor = (
        kind.from_pretrained(checkpoint) for kind in (RWKVWorldForConditionalGeneration, RWKVWorldProcessor)
    )
    return make_pipeline(model, processor, prompt=SAMPLES[0]["question"])


@pytest.fixture(scope="module")
def waveform():
    return soundfile.read(CLIPS[0], dtype="float32")


def test_a_clip_may_be_a_file_bytes_or_an_array(hear, waveform):
    samples, rate = waveform
    other = soxr.resample(samples, rate, OTHER_RATE)
    forms = [CLIPS[0], Path(CLIPS[0]), Path(CLIPS[0]).read_bytes(), samples, torch.from_numpy(samples)]
    forms += [{"array": samples, "sampling_rate": rate}, {"raw": other, "sampling_rate": OTHER_RATE}]
    assert [hear(form) for form in forms] == [SAID[0]] * len(forms)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_many_clips_come_in_order(hear, batch_size):
    assert hear(CLIPS, batch_size=batch_size) == SAID
    assert list(hear((clip for clip in CLIPS), batch_size=batch_size)) == SAID


@pytest.fixture(scope="module")
def babble():
    """Of random weights, with the clips to try it on; what it says goes on until it must stop."""
    clips = [torch.randn(length, generator=torch.Generator().manual_seed(length)).numpy() for length in (4000, 9000)]
    return make_pipeline(tiny_composite(None, "wavlm"), tiny_processor(None, "wavlm"), max_new_tokens=5), clips


def test_options_go_to_generate(babble):
    hear, clips = babble
    said, first = hear(clips[0])["text"], hear(clips[0], max_new_tokens=1)["text"]
    assert said.startswith(first) and len(said) > len(first)
    assert hear(clips[0], generate_kwargs={"max_new_tokens": 1}) == {"text": first}


def test_clips_of_other_lengths_in_a_batch_change_nothing(babble):
    hear, clips = babble
    assert hear(clips, batch_size=2) == [hear(clip) for clip in clips]


@pytest.mark.parametrize(
    "clip, options, message",
    [
        ("missing.wav", {}, "missing.wav: no such file"),
        ({"raw": [0.0] * 16_000}, {}, "sampling rate"),
        (CLIPS[0], {"return_timestamps": True}, "return_timestamps is True: the model writes text"),
    ],
)
def test_what_cannot_be_heard_is_refused(hear, clip, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        hear(clip, **options)


def test_a_model_without_ears_is_refused():
    with pytest.raises(ValueError, match="the model has no audio encoder"):
        make_pipeline(tiny_composite("siglip", None), tiny_processor("siglip", None))

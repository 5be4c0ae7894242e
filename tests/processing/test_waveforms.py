# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Clips as whole numbers of every type: one sound, wherever it is given."""

import io

import numpy as np
import pytest
import soundfile
import torch

from helpers.composites import SAMPLING_RATE, tiny_processor
from rwkv7_world.processing.waveforms import to_waveform
from rwkv7_world.training.trainer.collator import ConversationCollator


AUDIO = "<|audio_pad|>"
CLIP = (0.5 * np.sin(np.arange(6000) / 9) * np.linspace(0, 1, 6000)).astype(np.float32)


def pcm(dtype: str) -> np.ndarray:
    """The clip as PCM of a type: full range, silence in the middle of it if there is no sign."""
    info = np.iinfo(np.dtype(dtype).name)
    middle = 0 if info.min else (info.max + 1) // 2
    return (CLIP.astype(np.float64) * 2 ** (info.bits - 1) + middle).round().astype(dtype)


KINDS = {
    "int8": (pcm("i1"), 2**-7),
    "uint8": (pcm("u1"), 2**-7),
    "int16": (pcm("<i2"), 2**-15),
    "int16 big-endian": (pcm(">i2"), 2**-15),
    "uint16": (pcm("u2"), 2**-15),
    "uint16 big-endian": (pcm(">u2"), 2**-15),
    "int32": (pcm("i4"), 2**-22),
    "int32 big-endian": (pcm(">i4"), 2**-22),
    "int64": (pcm("i2").astype(np.int64), 2**-15),
    "list": (pcm("i2").tolist(), 2**-15),
    "tuple": (tuple(pcm("i2").tolist()), 2**-15),
    "list of int16": (list(pcm("i2")), 2**-15),
    "list of 24 bits": ((pcm("i4") >> 8).tolist(), 2**-22),
    "list of 32 bits": (pcm("i4").tolist(), 2**-22),
    "tensor of int16": (torch.from_numpy(pcm("i2")), 2**-15),
    "tensor of uint8": (torch.from_numpy(pcm("u1")), 2**-7),
    "tensor of a list": (torch.tensor(pcm("i2").tolist()), 2**-15),
    "float64": (CLIP.astype(np.float64), 1e-7),
    "float32 big-endian": (CLIP.astype(">f4"), 1e-7),
    "bfloat16": (torch.from_numpy(CLIP).bfloat16(), 2**-8),
    "list of floats": (CLIP.tolist(), 1e-7),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_one_sound_whatever_numbers_it_is_stored_as(kind):
    clip, tolerance = KINDS[kind]
    waveform = to_waveform(clip, "a clip")
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, CLIP, rtol=0, atol=tolerance)


def test_samples_of_a_file_and_of_an_array_are_the_same():
    file = io.BytesIO()
    soundfile.write(file, pcm("i2"), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    file.seek(0)
    np.testing.assert_array_equal(to_waveform(pcm("i2"), "a clip"), soundfile.read(file, dtype="float32")[0])


@pytest.mark.parametrize("kind", ["uint8", "list", "int16 big-endian", "int64"])
def test_whole_numbers_are_one_sound_in_every_place_that_reads_clips(kind):
    clip, tolerance = KINDS[kind]
    processor = tiny_processor(None, "wavlm")
    processor.feature_extractor.do_normalize = False
    row = {"array": clip, "sampling_rate": SAMPLING_RATE}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    chats = [[{"role": "user", "content": [{"type": "audio", "audio": given}]}] for given in (clip, row)]
    batch = ConversationCollator(processor)([{"messages": [*chats[1], {"role": "assistant", "content": "yes"}]}])
    seen = [
        processor(text=AUDIO, audio=clip, sampling_rate=SAMPLING_RATE, return_tensors="pt"),
        processor(text=AUDIO, audio=[row], return_tensors="pt"),
        *(processor.apply_chat_template(chat, **options) for chat in chats),
        batch,
    ]
    for inputs in seen:
        np.testing.assert_allclose(inputs["input_features"][0].numpy(), CLIP, rtol=0, atol=tolerance)


def test_channels_of_whole_numbers_are_averaged():
    stereo = np.stack([pcm("u1"), np.full(len(CLIP), 128, np.uint8)], axis=1)
    np.testing.assert_allclose(to_waveform(stereo, "a clip"), CLIP / 2, rtol=0, atol=2**-7)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (
            pcm("u1").tolist(),
            "holds whole numbers from \\d+ to \\d+, none below 0, and may be PCM with or without a sign",
        ),
        (pcm("u2").astype(np.int64), "none below 0, and may be PCM with or without a sign"),
        ([-(2**40), 2**40], "which do not fit into 32 bits"),
        (pcm("i2").astype(np.float32), "holds floats up to .*: divide PCM by its range"),
        (CLIP.astype(complex), "values of type complex128"),
        (CLIP > 0, "values of type bool"),
        ([0.0, float("nan")], "not finite"),
        (np.zeros((2, 3, 4)), r"its shape is \(2, 3, 4\)"),
        (np.zeros(0, np.int16), r"its shape is \(0,\)"),
    ],
)
def test_numbers_of_unknown_scale_are_refused(clip, message):
    with pytest.raises(ValueError, match=f"^a clip .*{message}"):
        to_waveform(clip, "a clip")


def test_silence_in_whole_numbers_is_silence():
    for silence in ([0] * 500, np.zeros(500, np.int64), np.full(500, 128, np.uint8)):
        assert not to_waveform(silence, "a clip").any()

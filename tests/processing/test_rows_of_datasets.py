# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of `datasets`: media as bytes, as paths, and as decoders of torchcodec."""

import io
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch

from helpers.composites import SAMPLING_RATE, random_clip, random_image, tiny_processor
from rwkv7_world.data.stored_sets import load_stored
from rwkv7_world.processing.media import read_clip, read_images
from rwkv7_world.processing.video import read_frames
from rwkv7_world.training.trainer.collator import ConversationCollator


CLIP = random_clip(0, 3000)


class AudioDecoder:
    """What torchcodec gives, which loads only where FFmpeg's libraries are."""

    def get_all_samples(self):
        data = torch.from_numpy(np.stack([CLIP, CLIP]))  # (channels, samples)
        return SimpleNamespace(data=data, sample_rate=SAMPLING_RATE)


class DatasetsAudioDecoder(AudioDecoder):
    """As `datasets` wraps it: `datasets/features/_torchcodec.py`."""

    def __getitem__(self, key: str):
        samples = self.get_all_samples()
        return {"array": samples.data.numpy().mean(axis=0), "sampling_rate": samples.sample_rate}[key]


class VideoDecoder:
    """As `AudioDecoder`; frame n has brightness 10 n."""

    metadata = SimpleNamespace(average_fps=10.0)

    def __len__(self) -> int:
        return 20

    def get_frames_at(self, indices: list[int]):
        return SimpleNamespace(
            data=torch.tensor(indices)[:, None, None, None].expand(-1, 3, 8, 12).to(torch.uint8) * 10
        )


@pytest.mark.parametrize("decoder", [AudioDecoder, DatasetsAudioDecoder])
def test_a_decoded_row_of_sound_is_a_clip_everywhere(decoder):
    np.testing.assert_allclose(read_clip(decoder(), None, SAMPLING_RATE), CLIP, rtol=0, atol=1e-6)
    processor = tiny_processor(None, "wavlm")
    expected = processor(text="<|audio_pad|>", audio=CLIP, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    question = {"role": "user", "content": [{"type": "audio", "audio": decoder()}]}
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = ConversationCollator(processor, strict=True)(
        [{"messages": [question, {"role": "assistant", "content": "a"}]}]
    )
    for seen in (
        processor(text="<|audio_pad|>", audio=[decoder()], return_tensors="pt"),
        processor.apply_chat_template([question], **options),
        batch,
    ):
        torch.testing.assert_close(seen["input_features"], expected["input_features"], rtol=0, atol=1e-5)


def test_a_decoded_row_of_video_is_its_frames():
    for options in ({"num_frames": 4}, {"fps": 2}):
        frames = read_frames(VideoDecoder(), **options)
        assert [frame.shape for frame in frames] == [(8, 12, 3)] * 4
        assert [int(frame[0, 0, 0]) for frame in frames] == [0, 50, 100, 150]


def test_rows_of_bytes_alone_or_of_a_path_alone_are_read(tmp_path):
    image, sound = tmp_path / "image.png", tmp_path / "clip.wav"
    random_image().save(image)
    soundfile.write(sound, CLIP, SAMPLING_RATE, subtype="FLOAT")
    for row_of in (
        lambda path: {"bytes": path.read_bytes(), "path": None},
        lambda path: {"bytes": path.read_bytes(), "path": "not here"},
        lambda path: {"bytes": None, "path": str(path)},
        lambda path: {"path": path},
        lambda path: {"bytes": path.read_bytes()},
    ):
        assert np.array_equal(np.asarray(read_images(row_of(image))), np.asarray(random_image()))
        np.testing.assert_array_equal(read_clip(row_of(sound), None, SAMPLING_RATE), CLIP)
    stored = datasets.Dataset.from_dict({"image": [str(image)]}).cast_column("image", datasets.Image(decode=False))
    assert np.array_equal(np.asarray(read_images(stored[0]["image"])), np.asarray(random_image()))


@pytest.mark.parametrize("read", [read_images, lambda row: read_clip(row, None, SAMPLING_RATE), read_frames])
def test_an_empty_row_is_refused(read):
    with pytest.raises(ValueError, match="^A row of media holds neither 'bytes' nor 'path'.$"):
        read({"bytes": None, "path": None})


def test_media_deep_in_the_columns_of_a_stored_set_are_left_for_the_processor(tmp_path):
    content = io.BytesIO()
    random_image().save(content, "PNG")
    sound = io.BytesIO()
    soundfile.write(sound, CLIP, SAMPLING_RATE, format="WAV", subtype="FLOAT")
    block = {"type": datasets.Value("string"), "image": datasets.Image(), "audio": datasets.Audio()}
    messages = datasets.List({"role": datasets.Value("string"), "content": datasets.List(block)})
    features = datasets.Features({"messages": messages, "clips": datasets.List(datasets.Audio())})
    audio = {"bytes": sound.getvalue(), "path": None}
    blocks = [
        {"type": "image", "image": {"bytes": content.getvalue(), "path": None}, "audio": None},
        {"type": "audio", "image": None, "audio": audio},
    ]
    rows = [{"messages": [{"role": "user", "content": blocks}], "clips": [audio]}]
    datasets.Dataset.from_list(rows).cast(features).save_to_disk(tmp_path / "set")
    (row,) = load_stored(str(tmp_path / "set"))
    assert row["clips"][0]["bytes"] == audio["bytes"]
    row["messages"] += [{"role": "assistant", "content": "yes"}]
    batch = ConversationCollator(tiny_processor("siglip", "wavlm"), strict=True)([row])
    assert batch["pixel_values"].shape[0] == batch["input_features"].shape[0] == 1

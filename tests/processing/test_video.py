# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Videos in conversations: which frames are seen, from films made here with FFmpeg, and what is said of bad ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.composites import random_image, tiny_processor
from rwkv7_world.processing.video import read_frames, replace_videos


av = pytest.importorskip("av")

RATE, LENGTH = 10, 30  # frames a second, frames
STEP = 8  # of brightness from frame to frame


@pytest.fixture(scope="module", params=["film.mp4", "film.mkv"])  # the second does not tell its number of frames
def film(request, tmp_path_factory) -> Path:
    """A film whose frames grow brighter."""
    path = tmp_path_factory.mktemp("films") / request.param
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for index in range(LENGTH):
            picture = np.full((48, 64, 3), STEP * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers_of(frames) -> list[int]:
    """Which frames of the film these are, by their brightness."""
    assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in frames)
    return [round(float(frame.mean()) / STEP) for frame in frames]


def test_frames_are_taken_at_equal_distances(film):
    assert numbers_of(read_frames(film, num_frames=3)) == [0, 10, 20]
    assert numbers_of(read_frames(str(film), fps=2)) == [0, 5, 10, 15, 20, 25]
    assert len(read_frames(film)) == 8
    assert numbers_of(read_frames(film, num_frames=100)) == list(range(LENGTH))


def test_a_film_may_be_bytes(film):
    assert numbers_of(read_frames(film.read_bytes(), num_frames=2)) == [0, 15]


def test_frames_may_be_given_as_they_are():
    images = [random_image(seed) for seed in range(10)]
    assert read_frames(images, num_frames=2) == [images[0], images[5]]
    array = np.stack([np.asarray(image) for image in images])
    for given in (array, list(array), torch.from_numpy(array)):
        assert np.array_equal(np.stack(read_frames(given, num_frames=2)), array[[0, 5]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 2, "fps": 1}, "Both num_frames=2 and fps=1 were given: expected one of them."),
        ({"num_frames": 0}, "num_frames=0, fps=None: expected a positive number."),
        ({"fps": 1}, "Frames without a file have no known rate: pass num_frames in place of fps."),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError) as caught:
        read_frames([random_image()], **options)
    assert str(caught.value) == message


def test_bytes_that_are_no_film_are_refused_in_one_line():
    with pytest.raises(ValueError, match="^A video in memory: not a video that can be read [^\n]*$"):
        read_frames(b"nothing")


def test_what_holds_no_video_stays_as_it_is():
    conversation = [{"role": "user", "content": "hello"}, {"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert replace_videos(conversation) == conversation


def test_a_conversation_with_a_film_is_one_with_its_frames(film):
    processor, still = tiny_processor("siglip"), random_image()
    text = {"type": "text", "text": "what happens?"}

    def inputs_of(*blocks, **options):
        conversation = [[{"role": "user", "content": [*blocks, text]}]]
        return processor.apply_chat_template(
            conversation, tokenize=True, return_dict=True, return_tensors="pt", **options
        )

    picture = {"type": "image", "image": still}
    pictures = [{"type": "image", "image": Image.fromarray(frame)} for frame in read_frames(film, num_frames=3)]
    expected = inputs_of(picture, *pictures)
    block = {"type": "video", "path": str(film)}
    for options in ({"num_frames": 3}, {"fps": 1}, {"processor_kwargs": {"num_frames": 3}}):
        given = inputs_of(picture, block, **options)
        assert torch.equal(given["input_ids"], expected["input_ids"])
        torch.testing.assert_close(given["pixel_values"], expected["pixel_values"], rtol=0, atol=0)
    assert block == {"type": "video", "path": str(film)}

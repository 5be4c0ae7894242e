# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Videos in conversations: which frames are seen, from films made here with FFmpeg, and what is said of bad ones."""

from fractions import Fraction
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


def write_film(path, rotation=None, rate=RATE, mirrored=False, frames=6):
    """A film whose upper left corner is bright."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:24, :32] = 200
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


# Counter-clockwise angle: (height, width) that is shown, and whether the bright corner is below, and on the right
TURNS = {0: (48, 64, 0, 0), 90: (64, 48, 1, 0), -90: (64, 48, 0, 1), 180: (48, 64, 1, 1), 270: (64, 48, 0, 1)}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", TURNS)
@pytest.mark.parametrize("name", ["phone.mp4", "phone.mov", "phone.mkv"])
def test_a_film_is_turned_as_its_file_states(tmp_path, name, rotation, mirrored):
    path = write_film(tmp_path / name, rotation, mirrored=mirrored)
    *size, below, right = TURNS[rotation]
    for source in (path, path.read_bytes()):
        for frame in read_frames(source, num_frames=2):
            assert list(frame.shape[:2]) == size
            quarters = np.array([[part.mean() for part in np.split(half, 2, axis=1)] for half in np.split(frame, 2)])
            assert np.unravel_index(quarters.argmax(), (2, 2)) == (below, right ^ mirrored)


def test_a_film_that_is_turned_by_other_angles_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"to be turned by \d+ degrees, expected quarters of a turn"):
        read_frames(write_film(tmp_path / "film.mp4", 30))


def test_rates_may_be_fractions(tmp_path):
    path = write_film(tmp_path / "film.mp4", rate=Fraction(30000, 1001), frames=60)
    assert len(read_frames(path, fps=2)) == 4
    assert len(read_frames(path, fps=0.5)) == 1


def test_a_stream_without_times_is_read(tmp_path):
    path = write_film(tmp_path / "film.m4v", frames=20)  # nothing but frames, one after the other
    assert len(read_frames(path, num_frames=5)) == 5
    assert len(read_frames(path, num_frames=100)) == 20


@pytest.mark.parametrize("cover", [False, True])
def test_sound_without_pictures_is_refused(tmp_path, cover):
    path = tmp_path / "sound.m4a"
    with av.open(path, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        if cover:
            image = container.add_stream("mjpeg", rate=1)
            image.width, image.height, image.pix_fmt = 32, 32, "yuvj420p"
            image.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*sound.encode(frame), *sound.encode()]:
            container.mux(packet)
        if cover:
            black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            for packet in [*image.encode(black.reformat(format="yuvj420p")), *image.encode()]:
                container.mux(packet)
    with pytest.raises(ValueError, match=f"^{path}: not a video that can be read .it has no pictures, only sound.$"):
        read_frames(path)

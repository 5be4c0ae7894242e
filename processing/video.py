# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Videos as pictures: in a conversation, sampled frames take the place of a video."""

import os
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
from transformers.image_utils import to_numpy_array

from ..configuration.optional_libraries import optional_imports
from .media import describe_failure, file_of_row, open_file
from .media_arrays import to_numpy


DEFAULT_FRAMES = 8
CHANNELS = 3
DISPLAY_MATRIX = "DISPLAYMATRIX"
LARGEST_SKEW = 0.01  # of what is a quarter of a turn
SOURCE_KEYS = ("video", "url", "path")


def replace_videos(conversation, num_frames: int | None = None, fps: float | None = None):
    """The conversation, or several, with every video block replaced by one image block for each sampled frame.

    Args:
        conversation: Messages, or a list of conversations. What holds no video is returned as it is.
        num_frames, fps: As in [`read_frames`].

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If a file is to be decoded without the library `av`.
        ValueError: If a video cannot be read.
    """
    if isinstance(conversation, (list, tuple)):
        return [replace_videos(part, num_frames, fps) for part in conversation]
    content = conversation.get("content") if isinstance(conversation, dict) else None
    if not isinstance(content, (list, tuple)) or not any(map(_is_video, content)):
        return conversation
    blocks: list[dict[str, Any]] = []
    for block in content:
        if not _is_video(block):
            blocks.append(block)
            continue
        source = next((block[key] for key in SOURCE_KEYS if block.get(key) is not None), None)
        if source is None:
            raise ValueError(f"A video block holds no video: expected one of {', '.join(SOURCE_KEYS)}.")
        blocks += [{"type": "image", "image": frame} for frame in read_frames(source, num_frames, fps)]
    return conversation | {"content": blocks}


def read_frames(video, num_frames: int | None = None, fps: float | None = None) -> list:
    """Frames of a video at equal distances, the first one included.

    Args:
        video: A path, URL or the bytes of a file; a row of `datasets`: one of these, or a decoder of torchcodec; or
            its frames, a list of images or an array (frames, ...).
        num_frames: Frames wanted, 8 by default; of a shorter video all.
        fps: Frames wanted of each second, in place of `num_frames`; for files only.

    Returns:
        Images as they were given, or arrays (height, width, 3) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If a file is to be decoded without the library `av`.
        ValueError: If it cannot be read, or the numbers are not positive or both given.
    """
    if num_frames is not None and fps is not None:
        raise ValueError(f"Both num_frames={num_frames} and fps={fps} were given: expected one of them.")
    if (fps is not None and fps <= 0) or (num_frames is not None and num_frames < 1):
        raise ValueError(f"num_frames={num_frames}, fps={fps}: expected a positive number.")
    video = file_of_row(video)
    if isinstance(video, (str, os.PathLike, bytes, bytearray)):
        return _decode(video, num_frames, fps)
    if hasattr(video, "get_frames_at"):
        return _frames_of_decoder(video, num_frames, fps)
    if fps is not None:
        raise ValueError("Frames without a file have no known rate: pass num_frames in place of fps.")
    if len(video) == 0:
        raise ValueError("A video has no frames.")
    frames = [frame if hasattr(frame, "convert") else to_numpy_array(frame) for frame in video]
    return [frames[index] for index in _equal_distances(len(frames), num_frames or DEFAULT_FRAMES)]


def _is_video(block) -> bool:
    return isinstance(block, dict) and block.get("type") == "video"


def _decode(video, num_frames: int | None, fps: float | None) -> list[np.ndarray]:
    """Frames (height, width, 3) of a file, turned as it states."""
    with optional_imports():
        import av
    source = os.fspath(video) if isinstance(video, os.PathLike) else video
    try:
        file = open_file(source)
        # Twice a file in memory: the frames may have to be counted first
        content = file.read() if isinstance(file, BytesIO) else file
        with av.open(_open(content)) as container:
            stream = _stream_of_pictures(container)
            rate = stream.average_rate or stream.guessed_rate
            total = stream.frames or _count_frames(content)
            wanted = num_frames or DEFAULT_FRAMES
            if fps is not None:
                if not rate:
                    raise ValueError("it states no frame rate: pass num_frames in place of fps")
                wanted = max(1, round(float(total / rate) * fps))
            indices = set(_equal_distances(total, wanted).tolist())
            decoded = islice(container.decode(stream), max(indices) + 1)
            frames = [_upright(frame) for index, frame in enumerate(decoded) if index in indices]
        if not frames:
            raise ValueError("it has no frames")
        return frames
    except Exception as error:  # FFmpeg's errors are of many kinds
        raise describe_failure(source, error, "a video") from error


def _stream_of_pictures(container):
    """The first stream of moving pictures, which the cover of a piece of music is not."""
    streams = container.streams.video
    found = next((one for one in streams if not one.disposition & type(one.disposition).attached_pic), None)
    if found is None:
        raise ValueError("it has no pictures" + ", only sound" * bool(container.streams.audio))
    return found


def _upright(frame) -> np.ndarray:
    """(height, width, 3) of a decoded frame, turned and mirrored by the display matrix of its file, if it has one."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = next((data for data in frame.side_data if data.type.name == DISPLAY_MATRIX), None)
    if matrix is None:
        return pixels
    # Column x and row y are shown at column a x + c y and row b x + d y
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), "<i4").tolist()
    (kept, turned) = (abs(a) + abs(d), abs(b) + abs(c))
    if min(kept, turned) > LARGEST_SKEW * max(kept, turned):
        raise ValueError(f"it is to be turned by {frame.rotation} degrees, expected quarters of a turn")
    if turned > kept:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _frames_of_decoder(decoder, num_frames: int | None, fps: float | None) -> list[np.ndarray]:
    """Frames (height, width, 3) of a decoder of torchcodec."""
    try:
        total = len(decoder)
        wanted = num_frames or DEFAULT_FRAMES
        if fps is not None:
            wanted = max(1, round(total / decoder.metadata.average_fps * fps))
        frames = decoder.get_frames_at(_equal_distances(total, wanted).tolist()).data
    except Exception as error:  # FFmpeg's errors are of many kinds
        raise describe_failure(decoder, error, "a video") from error
    frames = to_numpy(frames)  # (frames, channels, height, width), unless its `dimension_order` is another
    return list(frames if frames.shape[-1] == CHANNELS else frames.transpose(0, 2, 3, 1))


def _open(content: str | bytes) -> str | BytesIO:
    return BytesIO(content) if isinstance(content, bytes) else content


def _count_frames(content: str | bytes) -> int:
    """Frames of a file that does not tell, as some containers do not."""
    with optional_imports():
        import av

    with av.open(_open(content)) as container:
        return sum(packet.size > 0 for packet in container.demux(_stream_of_pictures(container)))


def _equal_distances(total: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` of `total` frames, or of all if there are fewer."""
    if total < 1:
        raise ValueError("it has no frames")
    wanted = min(wanted, total)
    return np.arange(wanted) * total // wanted

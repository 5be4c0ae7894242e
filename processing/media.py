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
"""Pictures and clips from whatever they are given as, with complaints of one line that name the file."""

import base64
import os
from collections.abc import Callable
from functools import partial
from io import BytesIO
from numbers import Real

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers.audio_utils import load_audio
from transformers.image_utils import is_pil_image


try:
    from huggingface_hub.utils import httpx  # whichever of its releases is installed
except ImportError:
    import httpx

from .media_arrays import to_numpy
from .rgb_images import array_to_rgb, image_to_rgb
from .waveforms import to_waveform


# Of a name in a message: a base64 string can be a whole file
MAX_NAME_LENGTH = 200
# Pillow warns of a file with more pixels than its limit, and refuses one with so many times more
_MANY_TIMES = 2


def read_images(images, input_data_format: str | None = None, keep_floats: bool = False):
    """Images, nested as they were given, as Pillow images in 8-bit RGB, upright; `None` if there is not one.

    Transparency is composed on white, and values of other depths are scaled by their range, see [`rgb_images`].

    Args:
        images: Pillow images, paths, URLs, base64 strings, bytes or open files, rows of `datasets` with "bytes" or
            "path", arrays or tensors; one or a list of them or of lists.
        input_data_format: Where arrays have their channels, if both ends are possible.
        keep_floats: Whether arrays of floats stay as they are.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is no picture, or a damaged one, if a picture has more pixels than Pillow reads, or if
            the channels or the range of an array are unknown.
    """
    images = file_of_row(images)
    if _is_file(images) or is_pil_image(images):
        return _read(images, _load_picture, "a picture")
    if isinstance(images, (list, tuple)) or len(getattr(images, "shape", ())) == 4:  # an array of several
        read = [read_images(image, input_data_format, keep_floats) for image in images]
        # A row without images stays an empty list
        return None if all(image is None for image in read) else [[] if image is None else image for image in read]
    if hasattr(images, "shape"):
        read_array = partial(_load_array, input_data_format=input_data_format, keep_floats=keep_floats)
        return _read(images, read_array, "a picture")
    return images


def list_clips(audio) -> list:
    """All clips of a batch, nested or not; a list of numbers is one waveform."""
    nested = nest_clips(audio)
    return [clip for part in nested for clip in list_clips(part)] if isinstance(nested, list) else [nested]


def nest_clips(audio):
    """A list of clips, or of lists of them, as such a list, with waveforms that are lists as arrays; else one clip."""
    if not isinstance(audio, (list, tuple)):
        return audio
    if audio and (isinstance(audio[0], Real) or getattr(audio[0], "ndim", None) == 0):
        return np.asarray(audio)
    return [nest_clips(part) for part in audio]


def read_clip(clip, sampling_rate: int | None, target: int) -> np.ndarray:
    """One clip, (samples,) float32 at the rate `target`.

    Args:
        clip: A path, URL, base64 string, bytes or an open file, in any format of libsndfile (WAV, FLAC, MP3, OGG ...);
            an array or a list of samples, floats or PCM, see [`to_waveform`]; or a row of `datasets`: a decoder of
            torchcodec, or a dict with "array" and "sampling_rate", or with "bytes" or "path".
        sampling_rate: Rate of an array.
        target: The rate wanted.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no clip, an empty one, or one of unknown rate or scale.
    """
    name = "An audio clip"
    clip = file_of_row(clip)
    if isinstance(clip, (str, os.PathLike)):
        name = _shorten(os.fspath(clip))
        clip, sampling_rate = _read(clip, partial(load_audio, sampling_rate=target), "a clip"), target
    elif _is_file(clip):
        clip, sampling_rate = _read(clip, _load_clip, "a clip")
    elif hasattr(clip, "get_all_samples"):
        clip, sampling_rate = _read(clip, _decode_clip, "a clip")
    elif isinstance(clip, dict):
        if not {"array", "sampling_rate"} <= clip.keys():
            raise ValueError(f"An audio clip given as a dict needs 'array' and 'sampling_rate', got {list(clip)}.")
        clip, sampling_rate = clip["array"], clip["sampling_rate"]
    clip = to_waveform(clip, name)
    if sampling_rate is None:
        raise ValueError(f"The sampling rate of an audio array is unknown: pass sampling_rate (model: {target}).")
    if sampling_rate <= 0:
        raise ValueError(f"The sampling rate of an audio array is {sampling_rate}, expected samples per second.")
    if sampling_rate != target:
        import soxr

        clip = soxr.resample(clip, sampling_rate, target)
    return clip


def clip_seconds(clip: str | os.PathLike[str] | bytes) -> float | None:
    """How long a clip in a file or in bytes is, by its header; `None` for one that cannot be read so."""
    import soundfile

    try:
        info = soundfile.info(BytesIO(clip) if isinstance(clip, bytes) else os.fspath(clip))
    except (TypeError, OSError, soundfile.SoundFileError):
        return None
    return info.frames / info.samplerate


def read_audio_block(block, rate: int):
    """A block of a message; if it names or holds a clip, with that clip read at `rate`, which an array already has."""
    if not isinstance(block, dict) or block.get("type") != "audio":
        return block
    clips = [block[key] for key in ("audio", "url", "path") if block.get(key) is not None]
    return {"type": "audio", "audio": read_clip(clips[0], rate, rate)} if clips else block


def file_of_row(media):
    """The file that a row of `datasets` holds or names while it is not decoded; anything else as it is.

    Raises:
        ValueError: If it is such a row, but an empty one.
    """
    if not isinstance(media, dict) or "array" in media or not media.keys() & {"bytes", "path"}:
        return media
    if not (media.get("bytes") or media.get("path")):
        raise ValueError("A row of media holds neither 'bytes' nor 'path'.")
    return media.get("bytes") or media["path"]


def _is_file(media) -> bool:
    return isinstance(media, (str, os.PathLike, bytes, bytearray)) or hasattr(media, "read")


def _load_picture(source) -> Image.Image:
    if is_pil_image(source):
        _check_pixels(source.width * source.height)
    try:
        image = source if is_pil_image(source) else Image.open(open_file(source))
        return image_to_rgb(ImageOps.exif_transpose(image), image)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels() from error
    except UnidentifiedImageError as error:
        if not isinstance(source, str):
            raise ValueError("of no known format") from error  # the message shows an address in memory
        raise


def open_file(source):
    """A path or an open file as it is; a URL, base64 string or bytes as a file in memory."""
    if isinstance(source, (bytes, bytearray)):
        return BytesIO(source)
    if not isinstance(source, str) or os.path.isfile(source):
        return source
    if source.startswith(("http://", "https://")):
        answer = httpx.get(source, follow_redirects=True)
        answer.raise_for_status()
        return BytesIO(answer.content)
    return BytesIO(base64.b64decode(source.partition(",")[2] if source.startswith("data:") else source))


def _load_array(array, input_data_format: str | None, keep_floats: bool):
    """A Pillow image of an array; refuses one of (height, width), and perhaps channels, that is too large."""
    *_, height, width = sorted((1, 1, *array.shape[-3:]))
    _check_pixels(height * width)
    array = to_numpy(array)
    return array if keep_floats and array.dtype.kind == "f" else array_to_rgb(array, input_data_format)


def _check_pixels(pixels: int) -> None:
    """Refuses what Pillow does not read of a file: a picture is copied a few times before it is made small."""
    if Image.MAX_IMAGE_PIXELS is not None and pixels > _MANY_TIMES * Image.MAX_IMAGE_PIXELS:
        raise _too_many_pixels()


def _too_many_pixels() -> ValueError:
    limit = _MANY_TIMES * Image.MAX_IMAGE_PIXELS
    return ValueError(f"more than {limit} pixels; make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS")


def _decode_clip(decoder) -> tuple[np.ndarray, int]:
    """Samples of a decoder of torchcodec, which as a row of `datasets` has keys and mixes the channels itself."""
    if hasattr(decoder, "__getitem__"):
        return decoder["array"], decoder["sampling_rate"]
    samples = decoder.get_all_samples()
    return to_numpy(samples.data), samples.sample_rate


def _load_clip(source) -> tuple[np.ndarray, int]:
    """(samples, channels) and their rate, of bytes or an open file."""
    import soundfile

    return soundfile.read(BytesIO(source) if isinstance(source, (bytes, bytearray)) else source, dtype="float32")


def describe_failure(source, error: Exception, kind: str) -> Exception:
    """What to raise in place of a decoder's `error`: one line that names the file and says what is wrong with it.

    Args:
        source: A path, URL or base64 string, or something opened.
        error: What the decoder raised.
        kind: What the file should have been, as in "a picture".
    """
    name = source if isinstance(source, str) else getattr(source, "filename", None) or f"{kind.capitalize()} in memory"
    is_path = isinstance(source, str) and not source.startswith(("http://", "https://", "data:"))
    if is_path and not os.path.exists(source):
        return FileNotFoundError(f"{_shorten(name)}: no such file")
    if is_path and not os.path.isfile(source):
        return ValueError(f"{_shorten(name)}: not a file")
    reason = _shorten(next(iter(str(error).splitlines()), type(error).__name__))
    return ValueError(f"{_shorten(name)}: not {kind} that can be read ({reason})")


def _read(source, load: Callable, kind: str):
    """What `load` makes of a path, URL, base64 string, bytes, or something opened, decoded only when it is used."""
    source = os.fspath(source) if isinstance(source, os.PathLike) else source
    try:
        return load(source)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, RuntimeError ... on damaged files
        raise describe_failure(source, error, kind) from error


def _shorten(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else name[:MAX_NAME_LENGTH] + "..."

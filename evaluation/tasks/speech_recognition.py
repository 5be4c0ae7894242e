# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of transcribed clips: LibriSpeech, AISHELL-1, Common Voice, and manifests of one's own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...data.manifests import CLIP_FOLDERS, TEXT_COLUMNS, clip_and_text, clips_in, find_clip, manifest_records
from ...data.stored_sets import is_stored_folder, load_stored
from ...data.text_files import read_text
from ..error_rates import character_error_rate, spoken_units, utterance_errors, word_error_rate, wrong_units
from ..text_normalizers import get_normalizer
from .task import DataOptions, Published, Sample, Score, Task, require, text_block


# WorldRWKV and RWKV-ASR compare what is left of both texts with the reference in lower case, no more
ORIGINAL_NORMALIZER = "lower"
MAX_NEW_TOKENS = 256

_STORED = "or a set saved by `datasets` or as parquet files, with the columns audio and text"
LIBRISPEECH_LAYOUT = f"the official folder (SPEAKER/CHAPTER/*.trans.txt beside *.flac), {_STORED}"
AISHELL_LAYOUT = f"the official folder (transcript/aishell_transcript_v0.8.txt and wav/SPLIT/SPEAKER/*.wav), {_STORED}"
COMMON_VOICE_LAYOUT = f"the official folder (SPLIT.tsv and clips/), {_STORED}"
MANIFEST_LAYOUT = (
    f"a .jsonl, .json, .csv or .tsv of clips and texts, a folder of clips with a .txt beside each, {_STORED}"
)


def read_librispeech(options: DataOptions, task: str) -> list[Sample]:
    """Samples of a split of LibriSpeech, given as its folder or one that holds it.

    Raises:
        FileNotFoundError: If there is none, or a clip of a transcript is missing.
        ValueError: If a transcript is not in the official form.
    """
    path = require(options.path, task, LIBRISPEECH_LAYOUT)
    if _is_stored(path):
        return _stored_samples(options)
    _check_no_split(options, task)
    split = "test-" + task.removeprefix("librispeech-")
    path = next((place for place in (path / split, path / "LibriSpeech" / split) if place.is_dir()), path)
    transcripts = sorted(path.rglob("*.trans.txt"))
    if not transcripts:
        raise FileNotFoundError(f"{path}: no *.trans.txt in it; {task} expects {LIBRISPEECH_LAYOUT}")
    lines = ((file.parent / f"{name}.flac", text) for file in transcripts for name, text in _named_lines(file))
    return [_sample(clip.stem, clip, text, options) for clip, text in lines]


def read_aishell(options: DataOptions) -> list[Sample]:
    """Samples of a split of AISHELL-1, given as the folder `data_aishell` or one that holds it.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    path = require(options.path, AISHELL1.name, AISHELL_LAYOUT)
    if _is_stored(path):
        return _stored_samples(options)
    path = path / "data_aishell" if (path / "data_aishell").is_dir() else path
    transcripts = path / "transcript" / "aishell_transcript_v0.8.txt"
    texts = dict(_named_lines(require(transcripts, AISHELL1.name, AISHELL_LAYOUT)))
    clips = require(options.media_folder or path / "wav" / AISHELL1.split_of(options), AISHELL1.name, AISHELL_LAYOUT)
    # Some clips have no transcript, in the official set too
    found = [clip for clip in sorted(clips.rglob("*.wav")) if clip.stem in texts]
    return [_sample(clip.stem, clip, texts[clip.stem].replace(" ", ""), options) for clip in found]


def read_common_voice(options: DataOptions) -> list[Sample]:
    """Samples of a split of one language of Common Voice.

    Raises:
        FileNotFoundError: If a file is missing.
    """
    path = require(options.path, COMMON_VOICE.name, COMMON_VOICE_LAYOUT)
    if path.is_dir() and not _is_stored(path):
        path = require(path / f"{COMMON_VOICE.split_of(options)}.tsv", COMMON_VOICE.name, COMMON_VOICE_LAYOUT)
        options = replace(options, split=None)
    return read_manifest(DataOptions(path, options.split, options.media_folder, options.prompt))


def read_manifest(options: DataOptions) -> list[Sample]:
    """Samples of a manifest or stored set.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a record has no clip or no text, or a clip no text beside it.
    """
    path = require(options.path, ASR.name, MANIFEST_LAYOUT)
    if _is_stored(path):
        return _stored_samples(options)
    _check_no_split(options, ASR.name)
    if path.is_dir():
        return _clips_beside_texts(path, options)
    folders = (
        [str(options.media_folder)] if options.media_folder else [str(path.parent / name) for name in CLIP_FOLDERS]
    )
    samples = []
    for number, (source, record) in enumerate(manifest_records(path)):
        if isinstance(record, str):
            raise ValueError(f"{source}: {record}")
        clip, text = _clip_and_reference(record)
        if not clip or text is None:
            raise ValueError(f"{source}: no clip or no text; expected {MANIFEST_LAYOUT}")
        samples.append(_sample(str(record.get("id", number)), Path(find_clip(clip, folders)), text, options))
    return samples


def score_transcript(prediction: str, sample: Sample, rule: str, unit: str = "words") -> Score:
    """Errors by words, or characters, of the reference."""
    normalize = get_normalizer(rule)
    errors = utterance_errors(normalize(prediction), normalize(sample.reference), unit)
    return Score(wrong_units(errors), spoken_units(errors))


def summarize_transcripts(records: Sequence[dict], rule: str) -> dict[str, float]:
    """Word and character error rates by the normaliser, and as the originals compare, which is in lower case."""
    said, heard = ([record[key] for record in records] for key in ("reference", "prediction"))
    rates = {}
    for normalizer in dict.fromkeys((rule, ORIGINAL_NORMALIZER)):
        suffix = "" if normalizer == rule else f" ({normalizer})"
        for rate, names in ((word_error_rate, ("wer", "wer_macro")), (character_error_rate, ("cer", "cer_macro"))):
            scores = rate(heard, said, normalizer)
            rates |= {f"{name}{suffix}": scores[name] for name in names}
    return rates


def _check_no_split(options: DataOptions, task: str) -> None:
    if options.split is not None:
        raise ValueError(f"{options.path}: has no splits, so {task} cannot take {options.split!r} of it")


def _is_stored(path: Path) -> bool:
    return path.is_dir() and is_stored_folder(path)


def _stored_samples(options: DataOptions) -> list[Sample]:
    if options.media_folder:
        raise ValueError(f"{options.path}: a stored set holds its clips, so there is no folder of others to give")
    samples = []
    for number, row in enumerate(load_stored(str(options.path), split=options.split or "test")):
        clip, text = _clip_and_reference(row)
        if not isinstance(clip, dict) or text is None:
            raise ValueError(f"{options.path}: row {number} has no clip or no text, its columns are {sorted(row)}")
        samples.append(_sample(str(row.get("id", number)), clip["bytes"] or clip["path"], text, options))
    return samples


def _clip_and_reference(record: dict) -> tuple:
    """As [`clip_and_text`], but with an empty text, of a clip in which nothing is said."""
    clip, text = clip_and_text(record)
    if text is None and any(record.get(name) == "" for name in TEXT_COLUMNS):
        text = ""
    return clip, text


def _clips_beside_texts(folder: Path, options: DataOptions) -> list[Sample]:
    clips = clips_in(folder)
    without = next((clip for clip in clips if not clip.with_suffix(".txt").is_file()), None)
    if without or not clips:
        found = f"no {without.with_suffix('.txt').name} beside it" if without else "no clip in it"
        raise ValueError(f"{without or folder}: {found}; expected {MANIFEST_LAYOUT}")
    return [
        _sample(str(clip.relative_to(folder)), clip, read_text(clip.with_suffix(".txt")).strip(), options)
        for clip in clips
    ]


def _sample(name: str, clip: Path | str | bytes, text: str, options: DataOptions) -> Sample:
    audio = {"type": "audio", "audio": clip if isinstance(clip, bytes) else str(clip)}
    question = (text_block(options.prompt),) if options.prompt else ()
    return Sample(name, (audio, *question), text, {} if isinstance(clip, bytes) else {"file": str(clip)})


def _named_lines(path: Path) -> Iterable[tuple[str, str]]:
    """(id, transcript) of lines that begin with an id."""
    for line in read_text(path).splitlines():
        name, _, text = line.strip().partition(" ")
        if name:
            yield name, text.strip()


def _speech_task(
    name: str, title: str, layout: str, read: Callable, rule: str, metric: str = "wer", **options
) -> Task:
    return Task(
        name=name,
        title=title,
        layout=layout,
        read=read,
        metric=metric,
        rule=rule,
        score=partial(score_transcript, unit="words" if metric == "wer" else "characters"),
        summarize=summarize_transcripts,
        higher_is_better=False,
        stored_splits=True,
        needs="audio_config",
        max_new_tokens=MAX_NEW_TOKENS,
        **options,
    )


def _published(figures: Sequence[float], claimed: float | None = None) -> tuple[Published, ...]:
    """Of WorldRWKV, whose script for LibriSpeech prints the character error rate as that of words; of RWKV-ASR."""
    encoders = ("WavLM-large", "WavLM-base+", "Whisper-medium", "Whisper-small")
    source = "WorldRWKV, README" + (" (may be CER)" if claimed else "")
    metric = f"wer ({ORIGINAL_NORMALIZER})" if claimed else None
    rows = tuple(
        Published(f"WorldRWKV {encoder} 0.4B", value, source, metric)
        for encoder, value in zip(encoders, figures, strict=True)
    )
    asr = Published("RWKV-ASR", claimed, "RWKV-ASR, README", f"wer_macro ({ORIGINAL_NORMALIZER})") if claimed else None
    return (*rows, asr) if asr else rows


_LIBRISPEECH_FIGURES = {"clean": ((2.43, 3.08, 5.33, 6.24), 4.6), "other": ((6.51, 10.38, 12.28, 16.92), 6.9)}
_LIBRISPEECH = tuple(
    _speech_task(
        f"librispeech-{part}",
        "read English",
        LIBRISPEECH_LAYOUT,
        partial(read_librispeech, task=f"librispeech-{part}"),
        "whisper_english",
        has_media_files=False,  # clips lie beside their transcripts
        dataset=f"LibriSpeech test-{part}",
        published=_published(*_LIBRISPEECH_FIGURES[part]),
    )
    for part in ("clean", "other")
)
AISHELL1 = _speech_task(
    "aishell1",
    "read Mandarin",
    AISHELL_LAYOUT,
    read_aishell,
    "chinese",
    "cer",
    splits=("test", "dev"),
    dataset="AISHELL-1",
    published=_published((10.33, 13.46, 5.83, 6.95)),
)
COMMON_VOICE = _speech_task(
    "common-voice",
    "one language, read by volunteers",
    COMMON_VOICE_LAYOUT,
    read_common_voice,
    "whisper_basic",
    dataset="Common Voice",
    splits=("test", "dev"),
)
ASR = _speech_task("asr", "transcribed clips of your own", MANIFEST_LAYOUT, read_manifest, "whisper_basic")
SPEECH_TASKS = (*_LIBRISPEECH, AISHELL1, COMMON_VOICE, ASR)

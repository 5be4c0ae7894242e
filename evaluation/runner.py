# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a model on a benchmark: batches that never change, answers kept as they come, then the scores.

A batch holds the same samples however many processes share the run and wherever it was resumed, for padding touches
the last bits of logits; so the answers, and the scores, are the same.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..processing.media import clip_seconds
from .answering import Answerer
from .fingerprints import media_fingerprint
from .processes import Processes
from .sample_log import SampleLog
from .tasks.task import LIKELIHOOD, Sample, Task


@dataclass(frozen=True)
class Run:
    """The answers to a benchmark.

    Args:
        records: One for each sample, in the order of the data: "id", "prompt", "prediction", "reference", the sample's
            details, "points" and "out_of" if there is a reference, "seconds" of a clip, "media" (a hash of its images
            and audio), "error" if it cannot be read.
        seconds: How long this process took.
        resumed: How many samples had been answered before.
    """

    records: list[dict]
    seconds: float
    resumed: int


def answer_samples(
    task: Task,
    samples: Sequence[Sample],
    batch_size: int,
    load: Callable[[], Answerer],
    log: SampleLog,
    processes: Processes,
    progress: Callable[[Sequence[Any]], Any] = iter,
) -> Run:
    """Answers what has no answer in the log yet, or one about other images or audio than those that are there now.

    Args:
        task: The benchmark.
        samples: All of its samples.
        batch_size: Samples at once.
        load: Loads the model; not called if nothing is left to ask.
        log: Where answers are kept.
        processes: That share the work, each with a log of the same folder.
        progress: Wraps what is iterated over, to show a bar.

    Returns:
        The run; of other processes than the first, without records.

    Raises:
        ValueError: If two samples have one id, or not one can be read.
    """
    started = time.monotonic()
    _check_ids(samples)
    if processes.is_first:
        log.begin()
    processes.wait()
    # What could not be read may be there by now
    known = {name: record for name, record in log.records().items() if "error" not in record}
    processes.wait()  # before anyone appends to what others still read
    lengths = [_clip_seconds(sample) for sample in samples]
    batches = _batches(samples, lengths, batch_size)[processes.index :: processes.count]
    media = {index: media_fingerprint(samples[index]) for batch in batches for index in batch}
    missing = [batch for batch in batches if any(_is_stale(known, samples[i], media[i]) for i in batch)]
    if missing:
        answerer = load()
        for batch in progress(missing):
            chosen = [samples[index] for index in batch]
            records = _answer_batch(answerer, task, chosen)
            for record, index in zip(records, batch, strict=True):
                record |= {"seconds": lengths[index], "media": media[index]}
            log.append(records, processes.index)
    processes.wait()
    seconds = time.monotonic() - started
    if not processes.is_first:
        return Run([], seconds, 0)
    answered = log.records()
    resumed = sum(known.get(sample.id) == answered[sample.id] for sample in samples)
    # Details are those that the data has now: no answer depends on them, but metrics may
    records = [answered[sample.id] | sample.details for sample in samples]
    if all("error" in record for record in records):
        log.discard()
        raise ValueError(f"not one of {len(records)} samples can be read; the first: {records[0]['error']}")
    return Run(records, seconds, resumed)


def _is_stale(known: dict[str, dict], sample: Sample, media: str | None) -> bool:
    """Whether a sample has no answer yet, or one that was given to other media."""
    return sample.id not in known or known[sample.id].get("media") != media


def score_records(task: Task, samples: Sequence[Sample], records: Sequence[dict], rule: str) -> list[dict]:
    """The records with "points" and "out_of", where there is a reference, by the rule given."""
    scored = []
    for sample, record in zip(samples, records, strict=True):
        if sample.reference is not None:
            score = task.score(record["prediction"], sample, rule)
            record = record | {"points": float(score.points), "out_of": float(score.out_of)}
        scored.append(record)
    return scored


def _answer_batch(answerer: Answerer, task: Task, samples: Sequence[Sample]) -> list[dict]:
    """Records of the samples; those that cannot be read get the answer that scores worst."""
    errors = {}
    try:
        inputs = answerer.encode(samples)
    except (ValueError, OSError):
        errors = {sample.id: error for sample in samples if (error := _reading_error(answerer, sample))}
        if not errors:  # together they fail, alone they do not
            raise
    readable = [sample for sample in samples if sample.id not in errors]
    if errors and readable:
        inputs = answerer.encode(readable)
    answers = iter(answerer.answer(inputs) if readable else [])
    return [
        _record(sample, task.failed(sample), errors[sample.id])
        if sample.id in errors
        else _record(sample, next(answers))
        for sample in samples
    ]


def _record(sample: Sample, prediction: str, error: str | None = None) -> dict:
    record = {"id": sample.id, "prompt": sample.prompt, "prediction": prediction, "reference": sample.reference}
    return record | sample.details | ({"error": error} if error else {})


def _reading_error(answerer: Answerer, sample: Sample) -> str | None:
    try:
        answerer.encode([sample])
    except (ValueError, OSError) as error:
        return str(error).strip().split("\n")[0] or type(error).__name__
    return None


def _batches(samples: Sequence[Sample], lengths: Sequence[float | None], size: int) -> list[list[int]]:
    """Indices of samples of like length together, the longest first, so that too little memory shows at once."""

    def length(index: int) -> tuple[float, int]:
        return lengths[index] or 0.0, sum(len(block.get("text", "")) for block in samples[index].content)

    order = sorted(range(len(samples)), key=length, reverse=True)
    return [order[start : start + size] for start in range(0, len(order), size)]


def _clip_seconds(sample: Sample) -> float | None:
    """How long the clips of a sample are; `None` if it has none, or one that cannot be read."""
    clips = [block["audio"] for block in sample.content if block["type"] == "audio"]
    seconds = [clip_seconds(clip) for clip in clips]
    return sum(seconds) if clips and None not in seconds else None


def _check_ids(samples: Sequence[Sample]) -> None:
    if not samples:
        raise ValueError("there is not one sample in the data")
    seen = set()
    for sample in samples:
        if sample.id in seen:
            raise ValueError(f"two samples have the id {sample.id!r}; ids have to be unique")
        seen.add(sample.id)


def needed_part_is_missing(task: Task, config: Any) -> str | None:
    """What a model lacks for a task, in words; `None` if nothing."""
    encoders = {"vision_config": "vision encoder", "audio_config": "audio encoder"}
    if task.kind == LIKELIHOOD or getattr(config, task.needs, None) is not None:
        return None
    return encoders[task.needs]

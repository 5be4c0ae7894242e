# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Many questions to one model: answered in batches, kept as they come, written to one file in the end.

While it runs, answers are in a folder beside the file; the same command goes on from there after an interruption.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import show_progress
from .inputs import URL_SCHEMES
from .loading import answer_settings, load_adapted, load_processor, penalty_options, pick_device, template_options


if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ..evaluation.tasks import Sample


RUN_FOLDER = "{}.run"  # beside the output


def check_output(out: Path) -> None:
    """Checks that `out` can be written.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it exists.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; name another --out, or remove it")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder")


def answer_samples_of(
    args: argparse.Namespace,
    config: "PreTrainedConfig",
    samples: "Sequence[Sample]",
    title: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    system: str | None = None,
) -> list[dict]:
    """Answers all samples, or those that an interrupted run left over.

    Args:
        args: Of the command, with model, adapter, dtype, quantize, device, batch_size and out; thinking and sample
            where it has them.
        config: Of the model.
        samples: Their ids are unique.
        title: Of the progress bar.
        settings: What the answers depend on, besides the model and the media.
        options: Of `generate`.
        system: Instruction before every question.

    Returns:
        A record for each sample, in order, with "id", "prediction", "seconds" and "error" if it cannot be read.
    """
    from ..evaluation.answering import GreedyAnswers
    from ..evaluation.processes import Processes
    from ..evaluation.runner import answer_samples
    from ..evaluation.sample_log import SampleLog
    from ..evaluation.tasks.speech_recognition import ASR

    device = pick_device(args.device)
    processes = Processes(device)
    settings = answer_settings(config, processes.device, args) | settings | {"batch_size": args.batch_size}
    log = SampleLog(args.out.with_name(RUN_FOLDER.format(args.out.name)), settings)
    task = replace(ASR, max_new_tokens=options["max_new_tokens"])

    def load() -> GreedyAnswers:
        model = load_adapted(config, args, processes.device)
        processor = load_processor(config)
        template = template_options(processor, args)
        penalties = partial(penalty_options, processor, args)
        return GreedyAnswers(model, processor, task.max_new_tokens, system, options, template, penalties)

    run = answer_samples(
        task, samples, args.batch_size, load, log, processes, show_progress(title, processes.is_first)
    )
    processes.leave()
    return run.records


def finish(out: Path, text: str, records: Sequence[dict]) -> None:
    """Writes the output atomically, removes the folder of the run, and says what could not be read."""
    from ..conversion.output import whole_file

    with whole_file(out) as path:
        path.write_text(text, encoding="utf-8", newline="")
    shutil.rmtree(out.with_name(RUN_FOLDER.format(out.name)))
    print(f"{out}: {len(records)} answers")
    if failed := [record for record in records if "error" in record]:
        print(f"{len(failed)} of {len(records)} could not be read, the first {failed[0]['id']}: {failed[0]['error']}")


def read_questions(path: Path) -> "Iterator[tuple[dict, Sample]]":
    """(record, sample) of a file of questions, JSON lines with "question", "image", "audio" and "video".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Says which line asks nothing, or is no record.
    """
    from ..data.json_records import read_records
    from ..evaluation.tasks.task import Sample, text_block

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    for number, (source, record) in enumerate(read_records(path)):
        if isinstance(record, str):
            raise ValueError(f"{source}: {record}")
        question = record.get("question", record.get("text", ""))
        if not isinstance(question, str):
            raise ValueError(f"{source}: the question is a {type(question).__name__}, expected a string")
        content = []
        for kind in ("image", "video", "audio"):
            names = record.get(kind) or []
            names = [names] if isinstance(names, str) else names
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{source}: {kind} is {record[kind]!r}, expected a path or a list of paths")
            content += [{"type": kind, kind: _beside(path, name, source)} for name in names]
        if question.strip():
            content.append(text_block(question))
        if not content:
            raise ValueError(f'{source}: asks nothing, expected "question", "image", "audio" or "video"')
        yield record, Sample(str(record.get("id", number)), tuple(content))


def digest_of(samples: "Sequence[Sample]") -> str:
    """A hash of what is asked."""
    import hashlib

    return hashlib.sha256(json.dumps([(one.id, one.prompt) for one in samples]).encode()).hexdigest()


def _beside(path: Path, name: str, source: str) -> str:
    if name.startswith(URL_SCHEMES):
        raise ValueError(f"{source}: {name} is a URL; files of questions name files, so download it first")
    return str(path.parent / name)

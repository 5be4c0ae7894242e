# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world evaluate`: a model, a benchmark, its score beside those of others."""

import argparse
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import PROGRAM, number, quiet_libraries, show_progress
from .loading import (
    DTYPES,
    QUANTIZED_BITS,
    answer_settings,
    load_adapted,
    load_config,
    load_processor,
    pick_device,
)


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from ..evaluation.answering import Answerer
    from ..evaluation.runner import Run
    from ..evaluation.sample_log import SampleLog
    from ..evaluation.tasks.task import DataOptions, Sample, Task


RESULTS, PLOT, ITEM_ERRORS = "results.json", "errors_by_length.png", "errors.csv"
WORST_SHOWN = 5  # clips that were transcribed worst
DEFAULT_BATCH_SIZE = 8

_EPILOG = f"""\
examples:
  {PROGRAM} evaluate --list
  {PROGRAM} evaluate MODEL librispeech-clean --data LibriSpeech/test-clean
  {PROGRAM} evaluate MODEL vqav2 --data vqav2 --split test-dev2015
  {PROGRAM} evaluate MODEL asr --data recordings
  {PROGRAM} evaluate MODEL vqa --data my_questions.jsonl --limit 100
  accelerate launch --num_processes 2 -m rwkv7_world.cli.main evaluate MODEL gqa --data gqa

A run that was ended goes on where it was, when the same command is given again.
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "evaluate",
        help="score a model on a benchmark",
        description="Scores a model on a benchmark in its official files; answers and scores end up in a folder.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder with a model, its id on the Hub, or a .pth file"
    )
    parser.add_argument("task", metavar="TASK", nargs="?", help="the benchmark, one of --list")
    parser.add_argument("--list", action="store_true", help="show the benchmarks and the files they expect")
    _add_data_options(parser)
    _add_runtime_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the task, its data, an option or the model is not as it should be.
        OSError: If something cannot be read or written.
    """
    if args.list:
        _show_tasks()
        return
    if not args.model or not args.task or args.data is None:
        raise ValueError("MODEL, TASK and --data are needed; --list shows the tasks")
    with nullcontext() if args.debug else quiet_libraries():
        _evaluate(args)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    at_least_one = number(int, lambda value: value >= 1, "a whole number of at least 1")
    group = parser.add_argument_group("what is asked")
    group.add_argument("--data", metavar="PATH", type=Path, help="the benchmark's folder or file")
    group.add_argument("--split", metavar="NAME", help="of the benchmark (default: its first, see --list)")
    group.add_argument("--media", metavar="DIR", type=Path, help="pictures or clips, if they are elsewhere")
    group.add_argument("--prompt", metavar="TEXT", help="what to ask about each clip (default: nothing)")
    group.add_argument("--limit", metavar="N", type=at_least_one, help="only the first N samples")
    group.add_argument(
        "--rule", metavar="NAME", help="how answers are compared (default: the benchmark's, see --list)"
    )
    group.add_argument(
        "--skip-unreadable", action="store_true", help="leave samples that cannot be read out; else they are wrong"
    )


def _add_runtime_options(parser: argparse.ArgumentParser) -> None:
    at_least_one = number(int, lambda value: value >= 1, "a whole number of at least 1")
    group = parser.add_argument_group("how it runs")
    group.add_argument("--output", metavar="DIR", type=Path, help="default: results/MODEL/TASK")
    group.add_argument("--batch-size", metavar="N", type=at_least_one, default=DEFAULT_BATCH_SIZE)
    group.add_argument("--max-new-tokens", metavar="N", type=at_least_one, help="length of an answer at most")
    group.add_argument("--adapter", metavar="DIR", help="an adapter of PEFT for the model, as a folder or a Hub id")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)")
    group.add_argument("--quantize", choices=QUANTIZED_BITS, help="weights of so many bits")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda ... (default: a GPU if there is one)")
    group.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")


def _show_tasks() -> None:
    from ..evaluation.tasks import TASKS

    for task in TASKS.values():
        splits = f"; splits {', '.join(task.splits)}" if task.splits else ""
        title = f"{task.title} ({task.dataset})" if task.dataset else task.title
        print(f"{task.name}: {title}\n  {task.metric}, rule {task.rule}{splits}\n  --data: {task.layout}")


def _evaluate(args: argparse.Namespace) -> None:
    from ..evaluation.processes import Processes
    from ..evaluation.runner import answer_samples, score_records
    from ..evaluation.sample_log import SampleLog
    from ..evaluation.tasks import DataOptions, find_task

    task = find_task(args.task)
    task = dataclasses.replace(task, max_new_tokens=args.max_new_tokens or task.max_new_tokens)
    device = pick_device(args.device)
    config = load_config(args.model)
    _check_model(task, config, args.model)
    _check_prompt(task, args.prompt)
    _check_media(task, args.media)
    options = DataOptions(args.data, args.split, args.media, args.prompt)
    task.split_of(options)
    samples = task.samples(options)[: args.limit]
    rule = args.rule or task.rule
    _check_rule(task, samples, rule)
    processes = Processes(device)
    output = args.output or Path("results", Path(args.model).name, task.name)
    log = SampleLog(output, _settings(task, samples, config, processes.device, args))
    run_ = answer_samples(
        task,
        samples,
        args.batch_size,
        lambda: _load_answerer(task, config, args, processes.device),
        log,
        processes,
        show_progress(task.name, processes.is_first),
    )
    if processes.is_first:
        run_ = dataclasses.replace(run_, records=score_records(task, samples, run_.records, rule))
        _report(task, run_, rule, log, options, args)
    processes.leave()


def _check_model(task: "Task", config: "PreTrainedConfig", model: str) -> None:
    from ..evaluation.runner import needed_part_is_missing
    from ..evaluation.tasks import TASKS

    if missing := needed_part_is_missing(task, config):
        possible = ", ".join(name for name, other in TASKS.items() if not needed_part_is_missing(other, config))
        raise ValueError(f"{model}: the model has no {missing}, which {task.name} needs; it can be asked {possible}")


def _check_prompt(task: "Task", prompt: str | None) -> None:
    if prompt is not None and task.needs != "audio_config":
        raise ValueError(f"--prompt is for clips; {task.name} has questions of its own")


def _check_media(task: "Task", media: Path | None) -> None:
    if media is not None and not task.has_media_files:
        raise ValueError(f"--media is for pictures or clips in a folder apart; {task.name} takes all from --data")


def _check_rule(task: "Task", samples: "Sequence[Sample]", rule: str) -> None:
    """Refuses a rule that the task cannot use, and finds out what library it lacks, before anything is asked."""
    answered = next((sample for sample in samples if sample.reference is not None), None)
    if answered is not None:
        task.score("0", answered, rule)


def _load_answerer(
    task: "Task", config: "PreTrainedConfig", args: argparse.Namespace, device: "torch.device"
) -> "Answerer":
    from ..evaluation.answering import GreedyAnswers, TextLikelihoods
    from ..evaluation.tasks.task import LIKELIHOOD

    processor = load_processor(config)
    model = load_adapted(config, args, device)
    if task.kind == LIKELIHOOD:
        return TextLikelihoods(model, getattr(processor, "tokenizer", processor))
    return GreedyAnswers(model, processor, task.max_new_tokens)


def _settings(
    task: "Task",
    samples: "Sequence[Sample]",
    config: "PreTrainedConfig",
    device: "torch.device",
    args: argparse.Namespace,
) -> dict[str, Any]:
    """What the answers depend on besides the media of each sample; a run that differs in any is another one."""
    questions = [(sample.id, sample.prompt, sample.reference) for sample in samples]
    return {
        "task": task.name,
        **answer_settings(config, device, args),
        "data": str(args.data),
        "split": args.split,
        "media": str(args.media) if args.media else None,
        "samples": len(samples),
        "questions": hashlib.sha256(json.dumps(questions, ensure_ascii=False).encode()).hexdigest(),
        "prompt": args.prompt,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "max_new_tokens": task.max_new_tokens,
    }


def _report(
    task: "Task", run_: "Run", rule: str, log: "SampleLog", options: "DataOptions", args: argparse.Namespace
) -> None:
    """Writes samples, results, the official file of answers and the plot, and prints the table."""
    from rich.console import Console

    from ..evaluation.plots import plot_errors_by_length
    from ..evaluation.results import error_rate_rows, results_table, summarize_run, with_error_rates, worst_first

    is_speech = task.needs == "audio_config"
    run_ = dataclasses.replace(run_, records=with_error_rates(run_.records)) if is_speech else run_
    log.finish(run_.records)
    results = summarize_run(task, run_, rule, log.settings, args.skip_unreadable)
    written = [log.write(RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")]
    if results["metrics"]:
        Console().print(results_table(results, Path(args.model).name))
        if is_speech:
            wrong = (record for record in worst_first(run_.records) if record["error_rate"])
            for record in itertools.islice(wrong, WORST_SHOWN):
                print(f"{record['error_rate']:7.1f} %  {record.get('file', record['id'])}: {record['prediction']}")
            written.append(log.write(ITEM_ERRORS, error_rate_rows(run_.records)))
            written.append(plot_errors_by_length(run_.records, task.metric, log.folder / PLOT))
    if task.submission and results["unanswered_by_the_data"]:
        written.append(task.submission(run_.records, options, log.folder))
    if results["empty_references"]:
        print(
            f"{results['empty_references']} of {results['samples']} references are empty; all heard there is inserted"
        )
    if results["unreadable"]:
        first = next(record for record in run_.records if "error" in record)
        print(
            f"{results['unreadable']} of {len(run_.records)} samples could not be read and are "
            f"{results['unreadable_are']}, the first {first['id']}: {first['error']}"
        )
    print("\n".join(str(path) for path in written if path))

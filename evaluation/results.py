# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The scores of a run with all that is needed to trust them, and as a table beside those of others."""

import csv
import io
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .confidence import CONFIDENCE, score_interval
from .runner import Run
from .tasks.task import LIKELIHOOD, PERCENT, Task


if TYPE_CHECKING:
    from rich.table import Table


_VERSIONED = ("rwkv7-world", "torch", "transformers", "tokenizers", "numpy", "jiwer", "whisper-normalizer")
_LISTED_UNREADABLE = 100
ERROR_COLUMNS = ("id", "file", "error_rate", "points", "out_of", "seconds", "reference", "prediction", "error")
# Of settings; what is published names no folder of one's own
_PATHS = ("model", "adapter", "data", "media")


def summarize_run(task: Task, run: Run, rule: str, settings: dict[str, Any], skip_unreadable: bool) -> dict[str, Any]:
    """The results as JSON: metrics with their rule and interval, settings, versions, and the figures of others.

    Args:
        task: The benchmark.
        run: Its records, scored where there is a reference.
        rule: How answers were compared.
        settings: What the answers depend on.
        skip_unreadable: Whether samples that could not be read are left out of the metrics; else they count as wrong.

    Raises:
        ValueError: If nothing is left to be scored.
    """
    unreadable = [record["id"] for record in run.records if "error" in record]
    scored = [record for record in run.records if "points" in record]
    counted = [record for record in scored if not (skip_unreadable and "error" in record)]
    return {
        "benchmark": task.name,
        "task": _hub_task(task),
        "dataset": task.dataset or Path(settings["data"]).stem,
        "split": settings["split"] or next(iter(task.splits), None),
        **_scores(task, counted, rule),
        "rule": rule,
        "unit": "percent" if task.scale == PERCENT else task.metric,
        "samples": len(counted),
        "empty_references": sum(record["out_of"] == 0 for record in counted),
        "unanswered_by_the_data": len(run.records) - len(scored),
        "unreadable": len(unreadable),
        "unreadable_are": "left out" if skip_unreadable else "counted as wrong",
        "unreadable_samples": unreadable[:_LISTED_UNREADABLE],
        "published": [asdict(figure) | {"metric": figure.metric or task.metric} for figure in task.published],
        "settings": settings | {name: Path(settings[name]).name for name in _PATHS if settings[name]},
        "versions": _versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 1),
        "samples_answered_before": run.resumed,
    }


def with_error_rates(records: Sequence[dict]) -> list[dict]:
    """Scored records of transcripts with the "error_rate" of each, in percent; without words, how many were heard."""
    return [
        record | {"error_rate": PERCENT * record["points"] / (record["out_of"] or 1)} if "points" in record else record
        for record in records
    ]


def worst_first(records: Sequence[dict]) -> list[dict]:
    """The records of [`with_error_rates`] that were scored, those with the highest rate first."""
    return sorted((one for one in records if "error_rate" in one), key=lambda one: one["error_rate"], reverse=True)


def error_rate_rows(records: Sequence[dict]) -> str:
    """CSV of the records of [`with_error_rates`], the worst first."""
    table = io.StringIO()
    writer = csv.DictWriter(table, ERROR_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(worst_first(records))
    return table.getvalue()


def results_table(results: dict[str, Any], model: str) -> "Table":
    """The metrics of a model, each beside the figures of others for the same metric."""
    from rich.table import Table

    title = (
        f"{results['benchmark']}: {results['dataset']}\n{results['samples']} samples, compared by {results['rule']}"
    )
    table = Table(title=title)
    for column in ("metric", "model", results["unit"], "source"):
        table.add_column(column, justify="right" if column == results["unit"] else "left")
    interval = results["interval"]
    for name, value in results["metrics"].items():
        is_main = name == results["metric"]
        shown = f"{value:.2f}" + (f" [{interval[0]:.2f}, {interval[1]:.2f}]" if is_main else "")
        table.add_row(name, model, shown.replace("[", "\\["), "this run", style="bold" if is_main else None)
        for figure in results["published"]:
            if figure["metric"] == name:
                table.add_row("", figure["model"], f"{figure['value']:.2f}", figure["source"], style="dim")
    return table


def _scores(task: Task, records: Sequence[dict], rule: str) -> dict[str, Any]:
    """Main metric, its interval, and all metrics, scaled to be shown; none of them without references."""
    if not records:
        return {"metric": task.metric, "value": None, "interval": None, "metrics": {}}
    metrics = {name: task.scale * value for name, value in task.summarize(records, rule).items()}
    points, out_of = ([record[key] for record in records] for key in ("points", "out_of"))
    ends = score_interval(points, out_of, is_share=task.scale == PERCENT)
    return {
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "value": metrics[task.metric],
        "interval": [task.scale * end for end in ends],
        "confidence": CONFIDENCE,
        "metrics": metrics,
    }


def _hub_task(task: Task) -> str:
    """The name that the Hub has for what is asked."""
    if task.kind == LIKELIHOOD:
        return "text-generation"
    return "automatic-speech-recognition" if task.needs == "audio_config" else "visual-question-answering"


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark is: samples read from its files, and a rule that scores answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.stored_sets import folders_of_fetched_sets, is_stored_folder, leads_out_of


PERCENT = 100
GENERATION, LIKELIHOOD = "generation", "likelihood"

_MEDIA = ("image", "audio", "video")


@dataclass(frozen=True)
class Sample:
    """One question.

    Args:
        id: Unique within its data.
        content: What the user says, as blocks of `apply_chat_template`: `{"type": "text", "text"}`, or `"image"` or
            `"audio"` with the path or the bytes of a file under that name.
        reference: What the rule compares with, as JSON; `None` where the split keeps its answers to itself.
        details: What else the rule needs or the user may want to see, as JSON.
    """

    id: str
    content: tuple[dict, ...]
    reference: Any = None
    details: dict = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The question in one text, pictures and clips as `<image>` and `<audio>`."""
        return "".join(block.get("text", f"<{block['type']}>") for block in self.content)

    @property
    def media(self) -> list[str | bytes]:
        """Paths or bytes of its images, clips and videos."""
        return [block[block["type"]] for block in self.content if block["type"] in _MEDIA]


@dataclass(frozen=True)
class Score:
    """What one answer adds to the main metric of a task: the sum of `points` by the sum of `out_of`."""

    points: float
    out_of: float = 1.0


@dataclass(frozen=True)
class Published:
    """A figure that others reported, in percent where the metric is a rate."""

    model: str
    value: float
    source: str
    metric: str | None = None  # the main one of the task, unless another is named


@dataclass(frozen=True)
class DataOptions:
    """Where the samples of a task come from.

    Args:
        path: File or folder.
        split: Of those the task has; its first by default.
        media_folder: Where pictures or clips are, if not where the official layout has them.
        prompt: What is asked about each clip or picture, in place of the task's own.
    """

    path: Path
    split: str | None = None
    media_folder: Path | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Args:
        name: What the command calls it.
        title: What is asked, for the list of tasks.
        layout: The files it expects, in words.
        read: Samples of the data.
        dataset: Name of the data, for results; none for data of one's own.
        metric: Name of the main metric, one of those that `summarize` gives.
        rule: How answers are compared, in words; for speech, the default normaliser.
        score: (prediction, sample, rule) to the answer's share of the main metric. Unreadable samples are not asked.
        summarize: Records with "prediction", "reference", "points", "out_of" and the sample's details, and the rule,
            to all metrics, from 0 to 1 where they are rates.
        splits: The first is the default; none if the data has no splits.
        stored_splits: Whether a stored set may have splits of other names.
        has_media_files: Whether pictures or clips are files that may be in a folder apart.
        kind: `GENERATION` or `LIKELIHOOD`.
        scale: What metrics are multiplied by to be shown.
        higher_is_better: Of the main metric.
        needs: Part of a model's configuration that it cannot do without.
        max_new_tokens: Length of an answer at most.
        failed: Answer that scores worst, given in place of one that could not be asked for.
        submission: Writes the official file of answers into a folder and returns it; `None` if there is no such file.
        published: Figures of others.
    """

    name: str
    title: str
    layout: str
    read: Callable[[DataOptions], list[Sample]]
    metric: str
    rule: str
    score: Callable[[str, Sample, str], Score]
    summarize: Callable[[Sequence[dict], str], dict[str, float]]
    dataset: str | None = None
    splits: tuple[str, ...] = ()
    stored_splits: bool = False
    has_media_files: bool = True
    kind: str = GENERATION
    scale: float = PERCENT
    higher_is_better: bool = True
    needs: str | None = "vision_config"
    max_new_tokens: int = 64
    failed: Callable[[Sample], str] = lambda sample: ""
    submission: Callable[[Sequence[dict], DataOptions, Path], Path] | None = None
    published: tuple[Published, ...] = ()

    def samples(self, options: DataOptions) -> list[Sample]:
        """Samples of the data, as `read` gives them, that name no media but those that came with it.

        Data of one's own may name files anywhere. Published data, and what lies in the cache of the Hub, may name
        those in its own folder, also behind links that lie there, and in the media folder.

        Raises:
            FileNotFoundError: If there are no such files.
            ValueError: If the data is not as it should be, or names another file of this machine.
        """
        samples = self.read(options)
        own = options.path if options.path.is_dir() else options.path.parent
        fetched = folders_of_fetched_sets()
        if self.dataset is None and not any(own.resolve().is_relative_to(folder) for folder in fetched):
            return samples
        roots = [*fetched, *(folder.resolve() for folder in (own, options.media_folder) if folder is not None)]
        for sample in samples:
            for name in sample.media:
                if isinstance(name, str) and not _lies_below(own, name) and leads_out_of(roots, name):
                    may_be_apart = self.has_media_files and not is_stored_folder(own)
                    hint = "; --media DIR (media_folder) says where else its media lie" if may_be_apart else ""
                    raise ValueError(
                        f"{options.path}: sample {sample.id} names {name}, a file of this machine that did not come "
                        f"with the data{hint}"
                    )
        return samples

    def split_of(self, options: DataOptions) -> str:
        """The split asked for, or the default one.

        Raises:
            ValueError: If the task has none of that name.
        """
        split = options.split or (self.splits[0] if self.splits else "")
        if options.split is not None and not self.stored_splits and split not in self.splits:
            known = ", ".join(self.splits) or "no splits"
            raise ValueError(f"{self.name} has no split {split!r}, it has {known}")
        return split


def _lies_below(folder: Path, name: str) -> bool:
    """Whether a path goes from the folder down as it is written; links in a folder are made by whoever arranged it."""
    return Path(name).is_relative_to(folder) and ".." not in Path(name).relative_to(folder).parts


def text_block(text: str) -> dict:
    """A block of text."""
    return {"type": "text", "text": text}


def image_block(source: str | bytes | Path) -> dict:
    """A block with a picture, the path or the bytes of a file."""
    return {"type": "image", "image": source if isinstance(source, bytes) else str(source)}


def ratio(records: Sequence[dict]) -> float:
    """The main metric of records: their points by what they are out of."""
    return sum(record["points"] for record in records) / sum(record["out_of"] for record in records)


def ratios_by(records: Sequence[dict], key: str, metric: str) -> dict[str, float]:
    """The main metric of the records of every value of a detail, each named "metric (value)"."""
    values = sorted({str(record[key]) for record in records if record.get(key) is not None})
    return {
        f"{metric} ({value})": ratio([record for record in records if str(record.get(key)) == value])
        for value in values
    }


def require(path: Path, task: str, layout: str) -> Path:
    """The path, if there is something.

    Raises:
        FileNotFoundError: Says what is missing, and what the task expects.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; {task} expects {layout}")
    return path


def records_with(records: Iterator[tuple[str, dict | str]], *keys: str) -> Iterator[tuple[str, dict]]:
    """(source, record) of records that all have the keys.

    Raises:
        ValueError: Says which record has not.
    """
    for source, record in records:
        if isinstance(record, str):
            raise ValueError(f"{source}: {record}")
        missing = [key for key in keys if key not in record]
        if missing:
            raise ValueError(f"{source}: no {missing[0]!r}, the record has {', '.join(sorted(record))}")
        yield source, record

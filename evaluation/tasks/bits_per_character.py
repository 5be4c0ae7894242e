# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How many bits a model needs for a character of texts of one's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...data.json_records import read_records
from ...data.text_files import read_text
from ..likelihoods import bits_per_character
from .task import LIKELIHOOD, DataOptions, Sample, Score, Task, records_with, require, text_block


LAYOUT = 'a .txt (one text), a folder of them, or a .jsonl or .json of records {"text"}'


def read_texts(options: DataOptions) -> list[Sample]:
    """One sample for every text that is not empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no text.
    """
    path = require(options.path, "bpc", LAYOUT)
    texts = list(_texts(path))
    if not texts:
        raise ValueError(f"{path}: no text; bpc expects {LAYOUT}")
    return [Sample(name, (text_block(text),), text) for name, text in texts]


def score_likelihood(prediction: str, sample: Sample, rule: str) -> Score:
    """Bits, by characters; the prediction is the negative log-likelihood in nats."""
    text = sample.reference
    return Score(bits_per_character([float(prediction)], [text])["bits_per_character"] * len(text), len(text))


def summarize_likelihoods(records: Sequence[dict], rule: str) -> dict[str, float]:
    """`bits_per_character` and `bits_per_byte`."""
    likelihoods = [float(record["prediction"]) for record in records]
    return bits_per_character(likelihoods, [record["reference"] for record in records])


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir() or path.suffix == ".txt":
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        texts = [(file.name, read_text(file)) for file in files]
    else:
        records = enumerate(records_with(read_records(path), "text"))
        texts = [(str(number), record["text"]) for number, (_, record) in records]
    return ((name, text) for name, text in texts if text)


BITS_PER_CHARACTER = Task(
    name="bpc",
    title="bits per character of texts of your own",
    layout=LAYOUT,
    read=read_texts,
    metric="bits_per_character",
    rule="none",
    score=score_likelihood,
    summarize=summarize_likelihoods,
    has_media_files=False,
    kind=LIKELIHOOD,
    scale=1,
    higher_is_better=False,
    needs=None,
)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Several sets of data as one, each with its share."""

import re
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from ..configuration.optional_libraries import optional_imports


with optional_imports():
    import datasets


_SLICE = re.compile(r"\[(\d+%?)?:(\d+%?)?\]")


class Mixture(Dataset):
    """Rows of several sets, one after the other; the sampler shuffles them.

    Args:
        sets: Sets with a length.
        weights: How often each is read in an epoch: 2 is twice, 0.5 is half of its rows, chosen at random.
        seed: Of that choice.
    """

    def __init__(self, sets: Sequence[Dataset], weights: Sequence[float], seed: int):
        self.sets = sets
        rng = np.random.default_rng(seed)
        self.index = np.concatenate(
            [
                _chosen(which, len(rows), weight, rng)
                for which, (rows, weight) in enumerate(zip(sets, weights, strict=True))
            ]
        )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict:
        which, row = self.index[position]
        return self.sets[which][int(row)]


def mix(sets: Sequence, weights: Sequence[float], seed: int):
    """One set of several, see [`Mixture`]; streams are mixed row by row, with the weights as probabilities.

    Raises:
        ValueError: If streams stand beside other sets.
    """
    streams = [isinstance(rows, datasets.IterableDataset) for rows in sets]
    if len(sets) == 1 and weights[0] == 1:
        return sets[0]
    if all(streams):
        probabilities = np.asarray(weights) / sum(weights)
        return datasets.interleave_datasets(
            list(sets), probabilities.tolist(), seed, stopping_strategy="all_exhausted"
        )
    if any(streams):
        raise ValueError("data that is streamed cannot be mixed with data that is not: set streaming for all or none")
    return Mixture(sets, weights, seed)


def slice_bounds(split: str) -> tuple[str | None, str | None]:
    """Where a slice as "[:90%]" begins and ends, `None` where that is with the set.

    Raises:
        ValueError: If it is no such slice.
    """
    bounds = _SLICE.fullmatch(split.replace(" ", ""))
    if bounds is None:
        raise ValueError(f"split is {split!r}, expected a slice as [:1000], [1000:] or [:90%]")
    return bounds.groups()


def part_of(rows, split: str):
    """A slice of a set, as "[:1000]", "[1000:]" or "[:90%]".

    Raises:
        ValueError: If it is no such slice, or one in percent of a stream.
    """
    bounds = slice_bounds(split)
    if isinstance(rows, datasets.IterableDataset):
        return _part_of_stream(rows, *bounds)
    start, stop = (_row(bound, len(rows), whole) for bound, whole in zip(bounds, (0, len(rows)), strict=True))
    return rows.select(range(start, stop) if start < stop else [])  # no range may begin behind the last row


def hold_out(rows, share: float) -> tuple:
    """A set without some of its rows, and those: at even distances, the same every time.

    Args:
        rows: A set with a length.
        share: Of its rows that are held out, one at least and all but one at most.
    """
    count = min(max(1, round(share * len(rows))), len(rows) - 1)
    held_out = ((np.arange(count) + 0.5) * len(rows) / count).astype(int)
    kept = np.delete(np.arange(len(rows)), held_out)
    return rows.select(kept), rows.select(held_out)


def _part_of_stream(rows, start: str | None, stop: str | None):
    if "%" in f"{start}{stop}":
        raise ValueError("split in percent needs the number of rows, which a stream does not have; count rows")
    first = int(start or 0)
    rows = rows.skip(first)
    return rows if stop is None else rows.take(max(int(stop) - first, 0))


def _row(bound: str | None, length: int, default: int) -> int:
    if bound is None:
        return default
    return min(round(length * int(bound[:-1]) / 100) if bound.endswith("%") else int(bound), length)


def _chosen(which: int, length: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """(rows, 2): the number of the set and of each row that is taken of it."""
    times, rest = int(weight), round((weight - int(weight)) * length)
    rows = np.concatenate([np.tile(np.arange(length), times), np.sort(rng.permutation(length)[:rest])])
    return np.stack([np.full(len(rows), which), rows], axis=1)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The last batches of several processes made whole by `None`, which stands for no row.

Else accelerate would repeat rows of the beginning there, and some would count twice.
"""

from collections.abc import Iterable, Iterator

from torch.utils.data import Dataset, IterableDataset, Sampler


class PadLastBatch(Sampler):
    """The rows of another sampler, then as many `None` as make the last batches of all processes whole.

    Args:
        sampler: The other.
        samples_of_batch: Samples of a batch over all processes.
    """

    def __init__(self, sampler: Sampler, samples_of_batch: int):
        self.sampler, self.samples_of_batch = sampler, samples_of_batch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.samples_of_batch) * self.samples_of_batch

    def __iter__(self) -> Iterator[int | None]:
        yield from self.sampler
        yield from [None] * (len(self) - len(self.sampler))


class RowsOrNone(Dataset):
    """A set of rows that has `None` at `None`."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | None):
        return None if index is None else self.rows[index]


class CompleteStream(IterableDataset):
    """The rows of a stream, then as many `None` as make the last batches of all processes whole.

    Args:
        rows: The stream.
        samples_of_batch: Samples of a batch over all processes.
    """

    def __init__(self, rows: Iterable[dict], samples_of_batch: int):
        self.rows, self.samples_of_batch = rows, samples_of_batch

    def __iter__(self) -> Iterator[dict | None]:
        count = 0
        for row in self.rows:
            yield row
            count += 1
        yield from [None] * (-count % self.samples_of_batch)

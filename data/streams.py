# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Streamed rows without an end, so that the number of epochs need not be known to find a place in them."""

from collections.abc import Iterator
from itertools import count

from torch.utils.data import IterableDataset

from ..configuration.optional_libraries import optional_imports


with optional_imports():
    import datasets


class EndlessRows(IterableDataset):
    """The rows of a stream again and again, with no gap: a batch may hold the last of them and the first.

    Args:
        rows: The stream.
    """

    def __init__(self, rows: datasets.IterableDataset):
        self.rows = rows

    def __iter__(self) -> Iterator[dict]:
        for epoch in count():
            self.rows.set_epoch(epoch)
            row = None
            for row in self.rows:
                yield row
            if row is None:  # as for a worker of a loader that has no shard of the stream
                return

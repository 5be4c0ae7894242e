# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Token sequences of a batch: cut to a length, then padded, or packed with a fresh state for each."""

from dataclasses import dataclass

import numpy as np
import torch

from ...modeling_rwkv7_world.causal_lm_loss import IGNORED_LABEL


@dataclass
class Sequence:
    """One sample as tokens.

    Attributes:
        token_ids: (tokens,) int64.
        labels: (tokens,) int64, `IGNORED_LABEL` where nothing is learned.
    """

    token_ids: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, part: slice) -> "Sequence":
        return Sequence(self.token_ids[part], self.labels[part])

    def split(self, length: int) -> list["Sequence"]:
        """Pieces of at most so many tokens."""
        return [self[start : start + length] for start in range(0, len(self), length)]


def pad(sequences: list[Sequence], pad_token_id: int) -> dict[str, torch.Tensor]:
    """One sequence a row, padded on the right: `input_ids`, `attention_mask`, `labels`, all (rows, time)."""
    return _rows([[sequence] for sequence in sequences], max(len(sequence) for sequence in sequences), pad_token_id)


def pack(sequences: list[Sequence], length: int, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Sequences one after the other in rows of `length`, in their order.

    Returns:
        As [`pad`], with `position_ids` that start at 0 with every sequence, where the model begins anew.
    """
    rows: list[list[Sequence]] = []
    room = 0
    for sequence in sequences:
        if len(sequence) > room:
            rows.append([])
            room = length
        rows[-1].append(sequence)
        room -= len(sequence)
    batch = _rows(rows, length, pad_token_id)
    positions = torch.zeros_like(batch["input_ids"])
    for row, members in zip(positions, rows, strict=True):
        starts = np.cumsum([0] + [len(member) for member in members])
        for start, stop in zip(starts[:-1], starts[1:], strict=True):
            row[start:stop] = torch.arange(stop - start)
    return batch | {"position_ids": positions}


def _rows(rows: list[list[Sequence]], length: int, pad_token_id: int) -> dict[str, torch.Tensor]:
    token_ids = np.full((len(rows), length), pad_token_id)
    labels = np.full((len(rows), length), IGNORED_LABEL)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            stop = start + len(member)
            token_ids[row, start:stop], labels[row, start:stop] = member.token_ids, member.labels
            labels[row, start] = IGNORED_LABEL  # nothing comes before it, and what precedes it here is another sample
            mask[row, start:stop] = 1
            start = stop
    return {
        "input_ids": torch.from_numpy(token_ids),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.from_numpy(labels),
    }

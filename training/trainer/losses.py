# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How much every token of a batch counts for the loss, whatever batches, packing and accumulation it comes through."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ...modeling_rwkv7_world.causal_lm_loss import IGNORED_LABEL


LOSS_REDUCTIONS = ("token", "sample", "micro_batch")


class BatchCounts(NamedTuple):
    """What one optimiser step holds, over all its micro-batches and processes.

    Attributes:
        items: What the loss is the mean of: tokens that are predicted, or samples or micro-batches with one.
        tokens: Tokens that are not padding.
        samples: Samples.
    """

    items: torch.Tensor
    tokens: torch.Tensor
    samples: torch.Tensor


class MeanLoss:
    """The mean of the losses of several steps, as if they were one: each weighs as much as it holds."""

    def __init__(self):
        self._sum, self._items = 0.0, 0

    def add(self, loss: torch.Tensor, counts: BatchCounts) -> None:
        """Adds the loss of a step and what it holds."""
        items = int(counts.items)
        self._sum, self._items = self._sum + loss.item() * items, self._items + items

    @property
    def value(self) -> float:
        """The mean; not a number where there was nothing to predict."""
        return self._sum / self._items if self._items else math.nan


def count_batch(batch: Mapping[str, torch.Tensor], reduction: str) -> torch.Tensor:
    """(3,) int64: the numbers of [`BatchCounts`] for one micro-batch of one process."""
    labels = batch["labels"]
    predicted = labels[:, 1:] != IGNORED_LABEL
    samples = _samples(batch)
    if reduction == "token":
        items = predicted.sum()
    elif reduction == "sample":
        items = (_per_sample(predicted, samples) > 0).sum()
    else:
        items = predicted.any()
    mask = batch.get("attention_mask")
    tokens = torch.tensor(labels.numel()) if mask is None else mask.sum()
    # Every row begins a sample, of padding alone it is none
    whole = torch.ones_like(labels[:, 0]) if mask is None else mask.any(dim=1)
    inner_starts = samples[:, -1].max() + 1 - len(labels)
    return torch.stack([part.to(labels.device) for part in (items, tokens, whole.sum() + inner_starts)]).long()


def token_weights(batch: Mapping[str, torch.Tensor], reduction: str, items: torch.Tensor) -> torch.Tensor:
    """(batch, time) float32: what the loss of every label is multiplied by, so that their sum is the loss.

    Args:
        batch: `labels`, (batch, time), and `position_ids` if several samples are packed into a row.
        reduction: One of `LOSS_REDUCTIONS`.
        items: Of [`BatchCounts`], for the whole step.
    """
    predicted = batch["labels"] != IGNORED_LABEL
    predicted[:, 0] = False  # nothing comes before it
    items = items.clamp(min=1)
    if reduction == "token":
        return predicted / items
    if reduction == "micro_batch":
        return predicted / (predicted.sum().clamp(min=1) * items)
    samples = _samples(batch)
    counts = _per_sample(predicted[:, 1:], samples).clamp(min=1)
    return predicted / (counts[samples] * items)


def _samples(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(batch, time) int64: the number of the sample that each position belongs to."""
    labels, positions = batch["labels"], batch.get("position_ids")
    starts = torch.zeros_like(labels, dtype=torch.bool) if positions is None else positions == 0
    if batch.get("attention_mask") is not None:
        starts = starts & batch["attention_mask"].bool()
    starts[:, 0] = True
    return starts.flatten().cumsum(0).view_as(labels) - 1


def _per_sample(predicted: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """(samples,) int64: the labels of each that are predicted; `predicted` begins at the second position."""
    counted = F.pad(predicted, (1, 0)).flatten().long()
    return counted.new_zeros(int(samples.max()) + 1).index_add(0, samples.flatten(), counted)

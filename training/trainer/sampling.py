# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples grouped by length, so that little of a batch is padding, in an order that resuming finds again."""

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from ...data.conversations import BadRowError, check_messages, media_blocks, message_text
from ...processing.media import clip_seconds


# Lengths are compared with one another only, so roughly is enough
CHARACTERS_PER_TOKEN = 4
CLIP_TOKENS_PER_SECOND = 25
USUAL_IMAGE_TOKENS = 576


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """transformers' sampler, whose order depends on the seed and the epoch alone.

    Theirs draws from the global generator, which stands elsewhere when a run is resumed within an epoch.

    Args:
        batch_size: Samples of a step, among which lengths are alike.
        lengths: Of all samples.
        seed: Seed of the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


def rough_length(row: dict) -> int:
    """About how many tokens a row makes, from its text and media, without decoding anything."""
    if row.get("input_ids") is not None:
        return len(row["input_ids"])
    messages = row.get("messages")
    if not messages:
        return len(row.get("text") or "") // CHARACTERS_PER_TOKEN
    try:
        check_messages(messages)
    except BadRowError:
        return 0  # it is left out, and listed, when it is read
    characters = sum(len(message_text(message)) for message in messages)
    images = sum(1 for _ in media_blocks(messages, "image"))
    clips = sum(clip_seconds(block.get("path")) or 0.0 for block in media_blocks(messages, "audio"))
    return characters // CHARACTERS_PER_TOKEN + images * USUAL_IMAGE_TOKENS + round(clips * CLIP_TOKENS_PER_SECOND)

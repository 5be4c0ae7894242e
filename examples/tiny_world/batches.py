# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the Trainer is fed: rows in order of difficulty, and batches of them as tensors."""

import numpy as np
import torch
from conversations import encode
from scenes import CAPTION_QUESTION
from torch.utils.data import Dataset
from tower_heads import IGNORED, tower_labels

from rwkv7_world import RWKVWorldProcessor


EASY_STAGES, EASY_SHARE = 3, 0.2  # stages of the curriculum, and their share of all samples
CAPTION_SHARE = 0.3  # how often a picture's caption is asked in place of its questions


class Curriculum(Dataset):
    """Random rows of several sets, easy ones first: of one word or thing, then of up to two ... then any.

    The sets take turns every `block` rows, so that a micro-batch holds one kind and needs little padding.
    """

    def __init__(self, sets: list, length: int, block: int, seed: int):
        rng = np.random.default_rng(seed)
        difficulties = [np.asarray(rows["difficulty"]) for rows in sets]
        easiest_first = [difficulty.argsort(kind="stable") for difficulty in difficulties]
        self.sets, self.rows = sets, []
        for index in range(length):
            which, stage = index // block % len(sets), 1 + int(index / (length * EASY_SHARE) * EASY_STAGES)
            allowed = len(sets[which]) if stage > EASY_STAGES else (difficulties[which] <= stage).sum()
            self.rows.append((which, int(easiest_first[which][rng.integers(allowed)])))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        which, row = self.rows[index]
        return self.sets[which][row]


class Collator:
    """Conversations to tensors; only the assistant's tokens are learned. Of some pictures the caption is asked."""

    def __init__(self, processor: RWKVWorldProcessor, seed: int):
        self.processor = processor
        self.rng = np.random.default_rng(seed)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        asked = [self._ask_for_caption(row) if self.rng.random() < CAPTION_SHARE else row for row in rows]
        batch = encode(self.processor, asked, with_answer=True, return_assistant_tokens_mask=True)
        learned = torch.as_tensor(batch.pop("assistant_masks")).bool()
        labels = batch["input_ids"].masked_fill(~learned, IGNORED)
        return {**batch, "labels": labels, **tower_labels(self.processor, rows)}

    def _ask_for_caption(self, row: dict) -> dict:
        return row if "text" in row else {**row, "questions": [CAPTION_QUESTION], "answers": [row["caption"]]}

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny World's rows in order of difficulty, as the recipe reads them."""

from pathlib import Path

import numpy as np
from conversations import to_conversation
from datasets import load_from_disk
from scenes import CAPTION_QUESTION
from torch.utils.data import Dataset


EASY_STAGES, EASY_SHARE = 3, 0.2  # stages of the curriculum, and their share of all samples
CAPTION_SHARE = 0.3  # how often a picture's caption is asked in place of its questions


class Curriculum(Dataset):
    """Random rows of several sets, easy ones first: of one word or thing, then of up to two ... then any.

    The sets take turns every `block` rows, so that a micro-batch holds one kind and needs little padding. Of some
    pictures the caption is asked. Rows have their conversation as `messages`.
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
        self.asks_caption = np.random.default_rng(seed).random(length) < CAPTION_SHARE

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        which, row_index = self.rows[index]
        row = self.sets[which][row_index]
        if self.asks_caption[index] and "caption" in row:
            row |= {"questions": [CAPTION_QUESTION], "answers": [row["caption"]]}
        return {**row, "messages": to_conversation(row, with_answer=True)}


def read_curriculum(path: str, samples: int, block: int, seed: int = 0) -> Curriculum:
    """The curriculum over the training sets that `make_data.py` wrote into the folder `path`.

    Args:
        path: The folder.
        samples: Rows of the whole training.
        block: Rows of a micro-batch.
        seed: Of the choice of rows.

    Raises:
        FileNotFoundError: If the folder has no such sets.
    """
    if not Path(path, "speech_train").is_dir():
        raise FileNotFoundError(f"{path}: not the folder that make_data.py wrote, it holds no speech_train")
    sets = [load_from_disk(Path(path, name)) for name in ("speech_train", "scenes_train")]
    return Curriculum(sets, samples, block, seed)

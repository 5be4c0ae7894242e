# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategy for padding masks of every kind."""

import torch
from hypothesis import strategies as st


@st.composite
def padding_masks(draw, batch: int | None = None, max_batch: int = 3, max_time: int = 24) -> torch.Tensor:
    """(batch, time) bool masks, true for real tokens.

    Each row is padded its own way: on the left, on the right, in the middle, at random, wholly or not at all.
    """
    batch, time = batch or draw(st.integers(1, max_batch)), draw(st.integers(1, max_time))

    def row() -> list[int]:
        kind = draw(st.sampled_from(["left", "right", "middle", "random", "none", "all"]))
        if kind == "random":
            return draw(st.lists(st.integers(0, 1), min_size=time, max_size=time))
        first, last = sorted((draw(st.integers(0, time)), draw(st.integers(0, time))))
        spans = {"left": (0, last), "right": (first, time), "middle": (first, last), "none": (0, 0), "all": (0, time)}
        start, end = spans[kind]
        return [1] * start + [0] * (end - start) + [1] * (time - end)

    return torch.tensor([row() for _ in range(batch)], dtype=torch.bool)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How far a score may be off, had other samples been drawn (Efron's bootstrap, percentile interval)."""

from collections.abc import Sequence

import numpy as np


CONFIDENCE = 0.95
RESAMPLES = 1000


def bootstrap_interval(
    points: Sequence[float], out_of: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Interval of the sum of points by the sum of what they are out of, over samples drawn with replacement.

    Args:
        points: Of each sample.
        out_of: Of each sample; not all zero.
        confidence: Share of the resamples inside.
        seed: Of the draws.

    Returns:
        Its lower and upper end.
    """
    generator = np.random.default_rng(seed)
    points, out_of = np.asarray(points, float), np.asarray(out_of, float)
    ratios = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(points), size=len(points))
        total = out_of[drawn].sum()
        if total:
            ratios.append(points[drawn].sum() / total)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)

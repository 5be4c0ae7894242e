# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How far a score may be off, had other samples been drawn.

Efron's bootstrap, percentile interval, for sums by sums; Wilson's score interval (1927) for shares of samples, which
does not shrink to a point where all samples are alike.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


CONFIDENCE = 0.95
RESAMPLES = 1000


def score_interval(points: Sequence[float], out_of: Sequence[float], is_share: bool) -> tuple[float, float]:
    """Interval of the sum of points by the sum of what they are out of.

    Args:
        points: Of each sample, not all of none.
        out_of: Of each sample.
        is_share: Whether the score is a share, as accuracies and error rates are: Wilson's interval is taken where
            every sample is right or wrong, and where resampling would give a single point.

    Returns:
        Its lower and upper end.
    """
    total = sum(out_of)
    share = sum(points) / (total or 1)
    if is_share and share <= 1:
        right_or_wrong = all(one == 1 for one in out_of) and set(points) <= {0, 1}
        if right_or_wrong or len({point / (one or 1) for point, one in zip(points, out_of, strict=True)}) == 1:
            return wilson_interval(share, len(points))
    return bootstrap_interval(points, out_of)


def wilson_interval(share: float, samples: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share of samples."""
    squared = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = share + squared / (2 * samples)
    half = (squared * (share * (1 - share) / samples + squared / (4 * samples**2))) ** 0.5
    low, high = (max(0.0, (middle + side * half) / (1 + squared / samples)) for side in (-1, 1))
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def bootstrap_interval(
    points: Sequence[float], out_of: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Interval of the sum of points by the sum of what they are out of, over samples drawn with replacement.

    Args:
        points: Of each sample.
        out_of: Of each sample; where all are zero, points are not divided.
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
        total = out_of[drawn].sum() if out_of.any() else 1.0
        if total:
            ratios.append(points[drawn].sum() / total)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)

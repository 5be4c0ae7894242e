# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How errors depend on the length of clips, as a picture."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np


MAX_BINS = 10


def plot_errors_by_length(records: Sequence[dict], metric: str, path: Path) -> Path | None:
    """Writes a bar chart of an error rate by the length of clips.

    Args:
        records: With "seconds", "points" and "out_of".
        metric: Name of the rate.
        path: The picture.

    Returns:
        The path; `None` where there is no matplotlib, or all clips are of one length.
    """
    lengths = np.array([record.get("seconds") or np.nan for record in records])
    timed = np.isfinite(lengths)
    if find_spec("matplotlib") is None or len(set(lengths[timed])) < 2:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    edges = np.histogram_bin_edges(lengths[timed], bins=min(MAX_BINS, timed.sum()))
    points, out_of = (
        np.histogram(lengths[timed], edges, weights=np.array([record[key] for record in records])[timed])[0]
        for key in ("points", "out_of")
    )
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rates = 100 * np.divide(points, out_of, out=np.zeros(len(points)), where=out_of > 0)
    axes.bar(edges[:-1], rates, np.diff(edges), align="edge", edgecolor="white")
    axes.set_ylim(0, max(rates.max() * 1.05, 1.0))  # a percent at least, so that no errors look like none
    axes.set_xlabel("length of the clip (s)")
    axes.set_ylabel(f"{metric} (%)")
    figure.savefig(path)
    return path

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The metrics of this package, as modules of the library `evaluate`."""

from pathlib import Path

from ..configuration.optional_libraries import optional_imports


with optional_imports():
    import evaluate


METRICS_FOLDER = Path(__file__).with_name("metrics")
METRICS = tuple(sorted(folder.name for folder in METRICS_FOLDER.iterdir() if (folder / f"{folder.name}.py").exists()))


def load_metric(name: str, **options) -> evaluate.Metric:
    """A metric of this package, without a network; `evaluate.load(str(METRICS_FOLDER / name))` is the same.

    Args:
        name: One of `METRICS`.
        options: Of `evaluate.load`, as `num_process` and `process_id`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in METRICS:
        raise ValueError(f"Unknown metric {name!r}, expected one of {', '.join(METRICS)}.")
    return evaluate.load(str(METRICS_FOLDER / name), **options)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: turns, medians, the machine and its limits, and files of figures."""

import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..kernels.dispatch import execution_here
from ..kernels.native_library import processor_field


READ_BYTES = 2**28  # far more than a cache holds
MATMUL_SIZE = 2048
DTYPES = (torch.float32, torch.bfloat16)  # that the benchmarks run in
HEAD_DIM = 64


def medians_in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, in turns, each after a call that is not timed."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(samples) for name, samples in times.items()}


def machine() -> dict[str, object]:
    """What the figures depend on besides the shape."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "inference": {str(dtype): str(execution_here("cpu", dtype, HEAD_DIM)) for dtype in DTYPES},
    }


def processor_name() -> str:
    return processor_field("model name") or platform.processor() or platform.machine()


def describe(where: dict[str, object]) -> str:
    """A report's `machine` in words."""
    runs = "; ".join(f"{dtype} inference on {runs}" for dtype, runs in where["inference"].items())
    return f"{where['processor']}, {where['threads']} threads, torch {where['torch']}, {where['date']}\n{runs}"


def save(report: dict, path: str | None) -> None:
    """Writes the figures to a file of JSON, if one is named."""
    if path:
        Path(path).write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")


def read_rate() -> float:
    """Bytes a second that the memory gives to a sum over a large tensor."""
    tensor = torch.ones(READ_BYTES // 4)
    return READ_BYTES / fastest(tensor.sum)


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large square product, the quicker of PyTorch's own choice and oneDNN."""
    a, b = (torch.randn(MATMUL_SIZE, MATMUL_SIZE).to(dtype) for _ in range(2))
    ways = [lambda: torch.nn.functional.linear(a, b)]
    if dtype == torch.float32 and torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return 2 * MATMUL_SIZE**3 / min(fastest(way) for way in ways)


def fastest(call: Callable[[], object], rounds: int = 5) -> float:
    """Seconds of the quickest of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)

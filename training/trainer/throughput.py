# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast a training runs and how much memory it took."""

import resource
import sys
import time

import torch

from .losses import BatchCounts


class Throughput:
    """Tokens and samples a second between two calls of [`Throughput.report`], over all processes."""

    def __init__(self):
        self._tokens = self._samples = torch.zeros((), dtype=torch.long)
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Starts measuring now."""
        self.__init__()

    def add(self, counts: BatchCounts) -> None:
        """Counts a step; does not wait for a GPU."""
        self._tokens, self._samples = self._tokens + counts.tokens, self._samples + counts.samples

    def report(self) -> dict[str, float]:
        """The rates since the last report."""
        seconds = time.perf_counter() - self._start
        rates = {
            "tokens_per_second": round(self._tokens.item() / seconds, 1),
            "samples_per_second": round(self._samples.item() / seconds, 2),
        }
        self.restart()
        return rates


def peak_memory(device: torch.device) -> int:
    """The most bytes of memory that there were at once: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

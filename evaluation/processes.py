# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The processes that share a run, as `accelerate launch` starts them."""

import os
from datetime import timedelta

import torch

from ..configuration.optional_libraries import optional_imports


_LONGEST_WAIT = timedelta(days=2)  # for the slowest process at the end


class Processes:
    """This process among those of the run; alone unless a launcher started several.

    Args:
        device: Where this process computes; of several on GPUs, each gets its own.
    """

    def __init__(self, device: torch.device):
        self.index, self.count, self.device, self._state = 0, 1, device, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            with optional_imports():
                from accelerate import PartialState

            self._state = PartialState(cpu=device.type == "cpu", timeout=_LONGEST_WAIT)
            self.index, self.count = self._state.process_index, self._state.num_processes
            self.device = self._state.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.index == 0

    def wait(self) -> None:
        """Until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def leave(self) -> None:
        """Ends the connection to the others."""
        if self._state is not None:
            self._state.destroy_process_group()

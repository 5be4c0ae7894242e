# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM while training: the step is finished and a checkpoint saved; a second signal stops at once."""

import signal
import threading

import torch
from transformers import TrainerCallback


SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the second is how schedulers announce that they take a machine away


class StopOnSignal(TrainerCallback):
    """Ends a run after the step in which the first signal comes, with a checkpoint.

    Attributes:
        received: The signal that came, of this process or of another one.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Listens, where Python lets signals be heard: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_step_end(self, args, state, control, **kwargs):
        """Asks for a checkpoint and the end; all processes at the same step."""
        if args.world_size > 1:
            heard = torch.tensor(int(self.received or 0), device=args.device)
            torch.distributed.all_reduce(heard, torch.distributed.ReduceOp.MAX)
            self.received = signal.Signals(int(heard)) if int(heard) else None
        if self.received is not None:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """Gives the signals back."""
        self.restore()

    def restore(self) -> None:
        """Gives the signals back to whom they went before."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        self.received = signal.Signals(number)
        print(f"\n{self.received.name}: a checkpoint is saved after this step; once more stops at once", flush=True)
        self.restore()

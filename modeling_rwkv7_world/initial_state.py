# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What a sequence starts from: nothing, unless state tuning has learned something better."""

from collections.abc import Callable

import torch
from torch import nn


class RWKV7InitialState(nn.Module):
    """The learned start of a layer's state, in float32, or none, which stands for zeros.

    It is a module so that PEFT can put an adapter in its place.

    Args:
        shape: Of the state of one sequence: (heads, value, key) of a recurrence, (hidden,) of a token shift.
        learned: Whether there is a parameter.
    """

    def __init__(self, shape: tuple[int, ...], learned: bool):
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.float32)) if learned else None

    def forward(self) -> torch.Tensor | None:
        """The start, of `shape`, or `None`."""
        return self.weight

    def extra_repr(self) -> str:
        return f"{self.shape}, learned={self.weight is not None}"

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        # `model.to(dtype)` is for what computes; a state is never rounded to 16 bits
        def without_rounding(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if torch.finfo(moved.dtype).bits < 32 else moved

        return super()._apply(without_rounding, recurse)

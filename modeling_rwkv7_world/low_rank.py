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
"""The low-rank maps of RWKV-7."""

import torch
from torch import nn

from ..kernels.cpu.linear import linear


class RWKV7LowRank(nn.Module):
    """A low-rank map `x -> W2 act(W1 x) + bias`: how RWKV-7 makes decay, learning rate, value mix and gate from data.

    The linear maps are `lora.0` and `lora.2` as in the fla format; they are not PEFT's LoRA.

    Args:
        hidden_size: Width of `x`.
        low_rank_dim: Width between the two maps.
        activation: `act`.
        bias: Whether there is a bias.
        output_size: Width of the result; `None` is `hidden_size`.
    """

    def __init__(
        self,
        hidden_size: int,
        low_rank_dim: int,
        activation: nn.Module,
        bias: bool = True,
        output_size: int | None = None,
    ):
        super().__init__()
        self.lora = nn.ModuleList(
            [
                nn.Linear(hidden_size, low_rank_dim, bias=False),
                activation,
                nn.Linear(low_rank_dim, output_size or hidden_size, bias=bias),
            ]
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        first, activation, second = self.lora
        return linear(second, activation(linear(first, hidden_states)))

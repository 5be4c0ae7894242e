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
"""A linear layer with a weight of 8 or 4 bits."""

from collections.abc import Callable

import torch
from torch import nn

from ..kernels.cpu.quantized_linear import QuantizedWeight, quantized_linear


class QuantizedNumbers(torch.Tensor):
    """The numbers of a quantised weight to who asks the layer for them; what is computed of them are plain tensors.

    Libraries that know only floating-point layers merge adapters by way of `weight.data`, which would round every sum
    to whole numbers without a word. So that is refused.
    """

    @classmethod
    def __torch_function__(cls, function: Callable, types, args=(), kwargs=None):
        if function in (torch.Tensor.data.__get__, torch.Tensor.data.__set__):
            raise TypeError(
                "The weights of a quantised layer are whole numbers that go with scales: nothing can be merged into "
                "them, nor are they set by `weight.data`. Merge into the model as it was before it was quantised."
            )
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


class QuantizedLinear(nn.Linear):
    """A linear layer without bias whose weight has few bits; gradients reach its input, as adapters need.

    It is an `nn.Linear` to who looks for such layers, as PEFT does.

    Args:
        in_features: Of the input.
        out_features: Of the output.
        bits: 8 or 4.
        group_size: Weights of a row that share a scale; `None` for whole rows.
    """

    def __init__(self, in_features: int, out_features: int, bits: int, group_size: int | None):
        nn.Module.__init__(self)
        empty = QuantizedWeight.empty(out_features, in_features, bits, group_size)
        self.in_features, self.out_features, self.group_size = in_features, out_features, empty.group_size
        self.register_buffer("weight", empty.data)
        self.register_buffer("scales", empty.scales)
        self.register_parameter("bias", None)

    @property
    def weight(self) -> QuantizedNumbers:
        if "weight" not in self._buffers:
            raise AttributeError("weight")
        numbers = self._buffers["weight"]
        view = numbers.as_subclass(QuantizedNumbers)
        view.__dict__ = numbers.__dict__  # where transformers notes that a tensor was loaded
        return view

    @property
    def quantized_weight(self) -> QuantizedWeight:
        return QuantizedWeight(self._buffers["weight"], self.scales, self.in_features, self.group_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features), of the dtype of the input."""
        return quantized_linear(hidden_states, self.quantized_weight)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.quantized_weight.bits}, group_size={self.group_size}"

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        # `model.to(dtype)` is for what computes, and would round the scales; whole numbers only change the device
        def without_rounding(tensor: torch.Tensor) -> torch.Tensor:
            return fn(tensor.view(torch.int16)).view(tensor.dtype) if tensor is self.scales else fn(tensor)

        return super()._apply(without_rounding, recurse)

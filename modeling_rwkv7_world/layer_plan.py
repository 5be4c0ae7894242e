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
"""The layers of a model as the kernels see them that run all of them in one call, and when they may.

Such a kernel reads the weights where they lie. What it knows of a model is therefore a snapshot, `LayerPlan`, and
before every call the model is compared with it: a hook, a replaced layer, a moved weight, and the layers run as ever.
A snapshot holds the dictionaries of the modules, but neither modules nor weights.
"""

import ctypes
import itertools
import operator
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..kernels.cpu import layers as layers_cpu
from ..kernels.cpu.linear import DTYPES, Quantized
from ..kernels.cpu.quantized_linear import in_cpp, is_plain_weight
from ..kernels.cpu.wkv7 import HEAD_DIM_STEP, MAX_HEAD_DIM
from ..kernels.guards import is_plain_module, is_plain_tensor
from .low_rank import RWKV7LowRank
from .quantized_linear import QuantizedLinear


_LOW_RANKS = {"w_lora": nn.Tanh, "a_lora": nn.Identity, "v_lora": nn.Identity, "g_lora": nn.Sigmoid}
# Numbers of modules that the kernels are told
_SETTINGS = ("eps", "num_groups", "normalized_shape", "head_dim", "layer_idx")

_plans: "weakref.WeakKeyDictionary[nn.ModuleList, LayerPlan]" = weakref.WeakKeyDictionary()


def plan_of(layers: nn.ModuleList) -> "LayerPlan | None":
    """The plan of an `RWKV7Model`'s layers, or `None` if a module in them is wrapped, hooked or not of its own class.

    transformers' request for hidden states leaves such hooks behind.
    """
    plan = _plans.get(layers)
    if plan is None or not plan.still_holds(layers):
        _plans.pop(layers, None)
        try:
            plan = LayerPlan(layers)
        except _Unsuitable:
            return None
        _plans[layers] = plan
    return plan


class _Unsuitable(Exception):
    """The model is not one that the kernel can stand in for."""


class LayerPlan:
    """The addresses of a model's weights, and how to tell whether they are still right.

    Raises:
        _Unsuitable: If a module or a weight is not as the kernel expects.
    """

    def __init__(self, layers: nn.ModuleList):
        parts = [part for index, block in enumerate(layers) for part in _plain_parts(block, index)]
        if not parts:
            raise _Unsuitable
        self.blocks = _ids(layers)
        self.module_dicts = [module.__dict__ for module in parts]
        self.child_dicts = [state["_modules"] for state in self.module_dicts if state["_modules"]]
        self.children = _ids(_values(self.child_dicts))
        self.parameter_dicts = [state["_parameters"] for state in self.module_dicts if state["_parameters"]]
        self.parameter_dicts += [state["_buffers"] for state in self.module_dicts if state["_buffers"]]  # quantised
        self.setting_places = [(state, name) for state in self.module_dicts for name in _SETTINGS if name in state]
        parameters = _values(self.parameter_dicts)
        self.parameters = _ids(parameters)
        tensors = [parameter for parameter in parameters if parameter is not None]
        self.dtype = tensors[0].dtype
        self.memory, self.settings = _memory(parameters), _settings(self.setting_places)
        self.model = _model(layers, self.dtype)
        self.watched = _forget_when_one_dies([*layers, *parts, *tensors], layers)

    def still_holds(self, layers: nn.ModuleList) -> bool:
        """Whether no module, hook, setting or weight has changed since. Runs before every token: keep it fast."""
        hooked = map(operator.itemgetter("_forward_hooks", "_forward_pre_hooks", "training"), self.module_dicts)
        parameters = _values(self.parameter_dicts)
        return (
            _ids(layers._modules.values()) == self.blocks
            and not any(itertools.chain.from_iterable(hooked))
            and not any(map(operator.contains, self.module_dicts, itertools.repeat("forward")))
            and not any(map(operator.contains, self.module_dicts, itertools.repeat("_compiled_call_impl")))
            and _ids(_values(self.child_dicts)) == self.children
            and _ids(parameters) == self.parameters
            and _memory(parameters) == self.memory
            and _settings(self.setting_places) == self.settings
        )

    def state_shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a token and of a recurrent state in the cache."""
        hidden, head_dim = self.model.hidden, self.model.head_dim
        return (batch, hidden, 1), (batch, hidden // head_dim, head_dim, head_dim)


def _values(dicts: list[dict]) -> list:
    return list(itertools.chain.from_iterable(map(dict.values, dicts)))


def _ids(objects: Iterable) -> list[int]:
    return list(map(id, objects))


def _memory(parameters: list[torch.Tensor | None]) -> tuple[list, ...]:
    """Changes when a weight gets other memory, as `model.to(...)` gives it, or is laid out in it another way."""
    tensors = [parameter for parameter in parameters if parameter is not None]
    return (
        list(map(torch.Tensor.data_ptr, tensors)),
        list(map(torch.Tensor.numel, tensors)),
        list(map(torch.Tensor.stride, tensors)),
        [tensor.dtype for tensor in tensors],
    )


def _settings(places: list[tuple[dict, str]]) -> list:
    return [state.get(name) for state, name in places]


def _forget_when_one_dies(objects: Iterable, layers: nn.ModuleList) -> list[weakref.ref]:
    """Drops the plan of `layers` with the first of the objects, so that a plan keeps no replaced layer in memory.

    This is also why objects can be compared by their ids: while there is a plan, none of its objects is gone.
    """
    layers_ref = weakref.ref(layers)

    def forget(_) -> None:
        if (owner := layers_ref()) is not None:
            _plans.pop(owner, None)

    return [weakref.ref(each, forget) for each in objects]


def _plain_parts(block: nn.Module, index: int) -> list[nn.Module]:
    """The modules of a layer whose work the kernel does. Layer 0's `pre_norm` runs by itself."""
    parts = []
    for module, kind in _parts(block, index):  # a module is looked into only after its class was checked
        if not is_plain_module(module, kind):
            raise _Unsuitable
        parts.append(module)
    return parts


def _parts(block: nn.Module, index: int) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    from .modeling_rwkv7 import RWKV7Attention, RWKV7Block, RWKV7FeedForward

    yield block, RWKV7Block
    if index > 0:
        yield block.pre_norm, nn.Identity
    yield block.attn_norm, nn.LayerNorm
    yield block.ffn_norm, nn.LayerNorm
    yield block.ffn, RWKV7FeedForward
    if block.ffn.config.deep_embed_dim is not None:  # which the kernels do not know
        raise _Unsuitable
    for name in ("key", "value"):
        yield _matrix(block.ffn, name)
    attn = block.attn
    yield attn, RWKV7Attention
    yield attn.g_norm, nn.GroupNorm
    for name in ("r_proj", "k_proj", "v_proj", "o_proj"):
        yield _matrix(attn, name)
    for name, activation in _LOW_RANKS.items():
        if name == "v_lora" and index == 0:
            continue
        low_rank = getattr(attn, name)
        yield low_rank, RWKV7LowRank
        yield low_rank.lora, nn.ModuleList
        yield from zip(low_rank.lora, (nn.Linear, activation, nn.Linear), strict=True)


def _matrix(parent: nn.Module, name: str) -> tuple[nn.Module, type[nn.Module]]:
    module = getattr(parent, name)
    return module, QuantizedLinear if type(module) is QuantizedLinear else nn.Linear


def _model(layers: nn.ModuleList, dtype: torch.dtype) -> layers_cpu.Model:
    from .modeling_rwkv7 import LOG_DECAY_SCALE

    first = layers[0]
    head_dim, hidden = first.attn.head_dim, first.attn.r_proj.in_features
    if dtype not in DTYPES or head_dim % HEAD_DIM_STEP or head_dim > MAX_HEAD_DIM:
        raise _Unsuitable
    reader = _Reader(dtype, hidden, head_dim, first.ffn.key.out_features, first.attn_norm.eps, first.attn.g_norm.eps)
    array = (layers_cpu.Layer * len(layers))(*(reader.layer(block, index) for index, block in enumerate(layers)))
    return layers_cpu.Model(
        ctypes.cast(array, ctypes.POINTER(layers_cpu.Layer)),
        len(layers),
        DTYPES[dtype],
        reader.quantized,
        hidden,
        head_dim,
        reader.intermediate,
        reader.norm_eps,
        reader.head_norm_eps,
        LOG_DECAY_SCALE,
    )


class _Reader:
    """Takes down the addresses of a layer's weights, and refuses what has another shape or dtype than it should."""

    def __init__(self, dtype, hidden: int, head_dim: int, intermediate: int, norm_eps: float, head_norm_eps: float):
        self.dtype, self.hidden, self.head_dim, self.intermediate = dtype, hidden, head_dim, intermediate
        self.norm_eps, self.head_norm_eps = norm_eps, head_norm_eps
        self.quantized = False  # whether any matrix was

    def layer(self, block: nn.Module, index: int) -> layers_cpu.Layer:
        attn, ffn, hidden = block.attn, block.ffn, self.hidden
        if attn.layer_idx != index or ffn.layer_idx != index or attn.head_dim != self.head_dim:
            raise _Unsuitable
        vectors = [getattr(attn, name) for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a", "r_k")]
        return layers_cpu.Layer(
            *(self.vector(vector) for vector in vectors),
            *(self.matrix(getattr(attn, name), hidden, hidden) for name in ("r_proj", "k_proj", "v_proj", "o_proj")),
            self.low_rank(attn.w_lora),
            self.low_rank(attn.a_lora),
            layers_cpu.LowRank() if index == 0 else self.low_rank(attn.v_lora),
            self.low_rank(attn.g_lora),
            self.norm(block.attn_norm),
            self.head_norm(attn.g_norm),
            self.norm(block.ffn_norm),
            self.vector(ffn.x_k),
            self.matrix(ffn.key, self.intermediate, hidden),
            self.matrix(ffn.value, hidden, self.intermediate),
        )

    def address(self, tensor: torch.Tensor | None, numel: int) -> int:
        if tensor is None or not is_plain_tensor(tensor) or tensor.dtype != self.dtype or tensor.numel() != numel:
            raise _Unsuitable
        return tensor.data_ptr()

    def vector(self, tensor: torch.Tensor | None) -> int:
        return self.address(tensor, self.hidden)

    def matrix(self, module: nn.Linear, rows: int, columns: int) -> Quantized:
        if type(module) is QuantizedLinear:
            return self.quantized_matrix(module, rows, columns)
        if module.bias is not None or tuple(module.weight.shape) != (rows, columns):
            raise _Unsuitable
        return Quantized(self.address(module.weight, rows * columns))

    def quantized_matrix(self, module: QuantizedLinear, rows: int, columns: int) -> Quantized:
        weight = module.quantized_weight
        if weight.in_features != columns or len(weight.data) != rows or not is_plain_weight(weight):
            raise _Unsuitable
        self.quantized = True
        return in_cpp(weight)

    def low_rank(self, module: nn.Module) -> layers_cpu.LowRank:
        down, _, up = module.lora
        rank = down.weight.shape[0]
        if down.bias is not None or down.weight.dim() != 2 or tuple(up.weight.shape) != (self.hidden, rank):
            raise _Unsuitable
        bias = None if up.bias is None else self.vector(up.bias)
        return layers_cpu.LowRank(
            self.address(down.weight, rank * self.hidden), self.address(up.weight, rank * self.hidden), bias, rank
        )

    def norm(self, module: nn.LayerNorm) -> layers_cpu.Norm:
        if module.eps != self.norm_eps or module.normalized_shape != (self.hidden,):
            raise _Unsuitable
        return layers_cpu.Norm(self.vector(module.weight), None if module.bias is None else self.vector(module.bias))

    def head_norm(self, module: nn.GroupNorm) -> layers_cpu.Norm:
        if module.eps != self.head_norm_eps or module.num_groups * self.head_dim != self.hidden:
            raise _Unsuitable
        return layers_cpu.Norm(self.vector(module.weight), self.vector(module.bias))

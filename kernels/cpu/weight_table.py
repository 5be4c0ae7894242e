# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The CPU weight table: where a model's weights lie, for the kernels that run all of its layers in one call.

Such a kernel reads the weights in place. A table is therefore a snapshot, and before every call the model is compared
with it: after a hook, a replaced layer, a moved weight or a changed setting it is made anew, or the layers run one by
one. It holds the dictionaries of the modules, but neither modules nor weights. Which weight is which field of `Layer`
(`structs.h`) the model says, as a `WeightLayout`.
"""

import ctypes
import itertools
import operator
import weakref
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import nn

from ..guards import is_plain_module, is_plain_tensor
from .quantized_linear import in_cpp, is_plain_weight
from .structs import DTYPES, Layer, LowRank, Model, Norm, Quantized
from .wkv7 import HEAD_DIM_STEP, MAX_HEAD_DIM


# Settings of modules that the kernels are told
_SETTINGS = ("eps", "num_groups", "normalized_shape", "head_dim", "layer_idx")

_tables: "weakref.WeakKeyDictionary[nn.ModuleList, WeightTable]" = weakref.WeakKeyDictionary()


class ModelWeights(NamedTuple):
    """What a model hands over.

    Attributes:
        layers: For each layer, by the fields of `Layer`: a vector as its tensor, a matrix as its linear layer, a
            low-rank map as (down, activation, up), a norm as its module; `None` for a low-rank map that is missing.
        hidden, head_dim, intermediate: Sizes.
        log_decay_scale: The log decay at a projection of infinity.
    """

    layers: list[dict[str, torch.Tensor | nn.Module | None]]
    hidden: int
    head_dim: int
    intermediate: int
    log_decay_scale: float


class WeightLayout(Protocol):
    """How a model class says where its weights are."""

    def modules(self, layers: nn.ModuleList) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
        """Every module whose work the kernels do, with the class that it must have; it is checked before the next is
        asked for. Raises [`Unsuitable`] for layers that the kernels do not know."""

    def weights(self, layers: nn.ModuleList) -> ModelWeights:
        """The weights of modules that passed."""


class Unsuitable(Exception):
    """The model is not one that the kernels can stand in for."""


def weight_table(layers: nn.ModuleList, layout: WeightLayout) -> "WeightTable | None":
    """The table of a model's layers, or `None` if a module in them is wrapped, hooked or not of its own class.

    transformers' request for hidden states leaves such hooks behind.
    """
    table = _tables.get(layers)
    if table is None or not table.still_holds(layers):
        _tables.pop(layers, None)
        try:
            table = WeightTable(layers, layout)
        except Unsuitable:
            return None
        _tables[layers] = table
    return table


class WeightTable:
    """The addresses of a model's weights, and what tells whether they are still right.

    Attributes:
        model: For the kernels.
        dtype: Of all weights but quantised matrices.

    Raises:
        Unsuitable: If a module or a weight is not as the kernels expect.
    """

    def __init__(self, layers: nn.ModuleList, layout: WeightLayout):
        parts = []
        for module, kind in layout.modules(layers):
            if not is_plain_module(module, kind):
                raise Unsuitable
            parts.append(module)
        if not parts:
            raise Unsuitable
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
        self.model = _Reader(layout.weights(layers), self.dtype).model()
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
    """Drops the table of `layers` with the first of the objects, so that a table keeps no replaced layer in memory.

    This is also why objects can be compared by their ids: while there is a table, none of its objects is gone.
    """
    layers_ref = weakref.ref(layers)

    def forget(_) -> None:
        if (owner := layers_ref()) is not None:
            _tables.pop(owner, None)

    return [weakref.ref(each, forget) for each in objects]


class _Reader:
    """Takes down the addresses of weights, and refuses what has another shape or dtype than it should."""

    def __init__(self, weights: ModelWeights, dtype: torch.dtype):
        if dtype not in DTYPES or weights.head_dim % HEAD_DIM_STEP or weights.head_dim > MAX_HEAD_DIM:
            raise Unsuitable
        self.weights, self.dtype, self.hidden = weights, dtype, weights.hidden
        self.shapes = dict.fromkeys(("receptance", "key", "value", "output"), (self.hidden, self.hidden))
        self.shapes["ffn_key"] = (weights.intermediate, self.hidden)
        self.shapes["ffn_value"] = (self.hidden, weights.intermediate)
        first = weights.layers[0]
        self.norm_eps = {"attn_norm": first["attn_norm"].eps, "ffn_norm": first["attn_norm"].eps}
        self.norm_eps["head_norm"] = first["head_norm"].eps
        self.quantized = False  # whether any matrix was

    def model(self) -> Model:
        weights = self.weights
        layers = (Layer * len(weights.layers))(*map(self.layer, weights.layers))
        model = Model(
            layers=ctypes.addressof(layers),
            num_layers=len(layers),
            dtype=DTYPES[self.dtype],
            quantized=self.quantized,
            hidden=self.hidden,
            head_dim=weights.head_dim,
            intermediate=weights.intermediate,
            norm_eps=self.norm_eps["attn_norm"],
            head_norm_eps=self.norm_eps["head_norm"],
            log_decay_scale=weights.log_decay_scale,
        )
        model.kept = layers  # to which it has an address only
        return model

    def layer(self, weights: dict[str, torch.Tensor | nn.Module | None]) -> Layer:
        read = {Quantized: self.matrix, LowRank: self.low_rank, Norm: self.norm, ctypes.c_void_p: self.vector}
        return Layer(**{name: read[kind](weights[name], name) for name, kind in Layer._fields_})

    def address(self, tensor: torch.Tensor | None, numel: int) -> int:
        if tensor is None or not is_plain_tensor(tensor) or tensor.dtype != self.dtype or tensor.numel() != numel:
            raise Unsuitable
        return tensor.data_ptr()

    def vector(self, tensor: torch.Tensor | None, name: str) -> int:
        return self.address(tensor, self.hidden)

    def matrix(self, module: nn.Module, name: str) -> Quantized:
        rows, columns = self.shapes[name]
        if (weight := getattr(module, "quantized_weight", None)) is not None:
            if weight.in_features != columns or len(weight.data) != rows or not is_plain_weight(weight):
                raise Unsuitable
            self.quantized = True
            return in_cpp(weight)
        if module.bias is not None or tuple(module.weight.shape) != (rows, columns):
            raise Unsuitable
        return Quantized(data=self.address(module.weight, rows * columns))

    def low_rank(self, modules: tuple[nn.Linear, nn.Module, nn.Linear] | None, name: str) -> LowRank:
        if modules is None:
            return LowRank()
        down, _, up = modules
        rank = down.weight.shape[0]
        if down.bias is not None or down.weight.dim() != 2 or tuple(up.weight.shape) != (self.hidden, rank):
            raise Unsuitable
        return LowRank(
            down=self.address(down.weight, rank * self.hidden),
            up=self.address(up.weight, rank * self.hidden),
            bias=None if up.bias is None else self.address(up.bias, self.hidden),
            rank=rank,
        )

    def norm(self, module: nn.LayerNorm | nn.GroupNorm, name: str) -> Norm:
        if isinstance(module, nn.GroupNorm):
            fits = module.num_groups * self.weights.head_dim == self.hidden and module.bias is not None
        else:
            fits = module.normalized_shape == (self.hidden,)
        if module.eps != self.norm_eps[name] or not fits:
            raise Unsuitable
        bias = None if module.bias is None else self.address(module.bias, self.hidden)
        return Norm(weight=self.address(module.weight, self.hidden), bias=bias)

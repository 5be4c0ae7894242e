# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Linear layers at the speed of the CPU, in inference, for plain `nn.Linear` modules.

`linear(module, x)` gives what `module(x)` gives, by another way where one is quicker:

* few rows in C++ (`linear.cpp`, built on first use), which reads the weights at the speed of memory;
* many rows of float32 in oneDNN on AMD processors, where PyTorch's own choice, MKL, takes a slow path;
* many rows of float16 in float32 where the processor has no float16 arithmetic, as PyTorch has no fast product then.

Everything else is left to the module: whatever wraps, hooks, differentiates, traces or quantises it sees an ordinary
`nn.Linear`.
"""

import ctypes
import functools
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..guards import is_plain_inference, is_plain_module, is_plain_tensor
from ..native_library import processor_field, raise_errors, why_missing
from .structs import DTYPES, Quantized, Rows, library_of_structures


SOURCE = Path(__file__).with_name("linear.cpp")

MAX_FEW_ROWS = 8  # rows of x up to which C++ is quicker
FEW_ROWS, ONEDNN, IN_FLOAT32, ORDINARY = "C++", "oneDNN", "float32", "PyTorch"  # the ways


def linear(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What `module(x)` returns, by the quickest way.

    Args:
        module: A linear layer, plain or not.
        x: (..., in_features).

    Returns:
        (..., out_features).
    """
    if not is_plain_inference() or not is_plain_module(module, nn.Linear):
        return module(x)
    weight, bias = module.weight, module.bias
    if not _fit(x, weight, bias):
        return module(x)
    way = way_of_linear(x.dtype, x.numel() // x.shape[-1])
    return module(x) if way == ORDINARY else _WAYS[way](x, weight, bias)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x` (..., in_features), not empty, times the transposed weight by the quickest way; for plain inference."""
    return _WAYS[way_of_linear(x.dtype, x.numel() // x.shape[-1])](x, weight, None)


def way_of_linear(dtype: torch.dtype, rows: int) -> str:
    """Which way a plain layer of this dtype takes for so many rows of x, in inference on this CPU."""
    if dtype not in DTYPES:
        return ORDINARY
    if rows <= MAX_FEW_ROWS and why_not_built() is None:
        return FEW_ROWS
    if dtype == torch.float32 and onednn_is_quicker():
        return ONEDNN
    if dtype == torch.float16 and not _multiplies_float16():
        return IN_FLOAT32
    return ORDINARY


def why_not_built() -> str | None:
    """Why the C++ library cannot be had, or `None` if it can. Builds it if need be."""
    return why_missing(library())


@library_of_structures("rwkv7_linear_cpu", SOURCE)
def library(loaded: ctypes.CDLL) -> None:
    """Declares what its functions take and return."""
    loaded.linear_few_rows.argtypes = [Rows] * 4 + [ctypes.c_int64] * 3
    loaded.quantized_few_rows.argtypes = [Quantized] + [Rows] * 2 + [ctypes.c_int64] * 3
    loaded.dequantize_rows.argtypes = [Quantized, Rows] + [ctypes.c_int64] * 3
    raise_errors(loaded.linear_few_rows, loaded.quantized_few_rows, loaded.dequantize_rows)


@functools.cache
def onednn_is_quicker() -> bool:
    """Whether PyTorch's own choice for many rows of float32, MKL, takes a slow path here."""
    return processor_field("vendor_id") == "AuthenticAMD" and torch.backends.mkldnn.is_available()


@functools.cache
def _multiplies_float16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_fp16_supported()


def _fit(x, weight, bias) -> bool:
    """Whether these are plain tensors of one dtype and of shapes that go together."""
    if type(x) is not torch.Tensor or x.device.type != "cpu" or x.layout is not torch.strided:
        return False
    if not is_plain_tensor(weight) or x.dtype != weight.dtype:
        return False
    if bias is not None and (not is_plain_tensor(bias) or bias.dtype != x.dtype):
        return False
    return x.dim() > 0 and x.shape[-1] == weight.shape[1] and x.numel() > 0 and weight.shape[0] > 0


def _few_rows(x, weight, bias):
    x = x.contiguous()
    columns, rows = x.shape[-1], weight.shape[0]
    y = torch.empty(*x.shape[:-1], rows, dtype=x.dtype)
    tensors = [Rows.of(t) for t in (weight, bias, x, y)]
    library().linear_few_rows(*tensors, x.numel() // columns, rows, columns)
    return y


def _onednn(x, weight, bias):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _in_float32(x, weight, bias):
    multiply = _onednn if onednn_is_quicker() else F.linear
    return multiply(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


_WAYS = {FEW_ROWS: _few_rows, ONEDNN: _onednn, IN_FLOAT32: _in_float32, ORDINARY: F.linear}

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Linear layers with weights of 8 or 4 bits, which are multiplied as the numbers they stand for.

Every group of a row has a scale; a weight is a whole number times the scale of its group. The inputs are not
quantised. In inference on a CPU few rows run in C++ (`quantized_rows.h`), which reads the small weights as they are;
otherwise rows of the weight are made numbers some at a time and multiplied as any weight.
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..guards import is_plain_inference, is_plain_tensor
from . import linear as linear_cpu
from .linear import DTYPES, MAX_FEW_ROWS, Quantized, Rows


BITS = (8, 4)
BLOCK = 32  # weights that lie together, as the C++ file has them; a group is a multiple of it
WEIGHTS_AT_A_TIME = 2**20  # that are numbers at once


class QuantizedWeight(NamedTuple):
    """A matrix (out_features, in_features) of few bits.

    Attributes:
        data: Whole numbers of -127 to 127, int8 (out_features, padded in_features); or of -8 to 7, two in a byte,
            uint8 (out_features, half of that). Rows are padded to a multiple of `BLOCK` with zeros. Of the 16 bytes of
            a block the lower halves are its first 16 weights, the upper halves its last, each with 8 added.
        scales: bfloat16 (out_features, groups).
        in_features: Without the padding.
        group_size: Weights of a row that share a scale, a multiple of `BLOCK`; the last group may be shorter.
    """

    data: torch.Tensor
    scales: torch.Tensor
    in_features: int
    group_size: int

    @property
    def bits(self) -> int:
        return 8 if self.data.dtype == torch.int8 else 4

    @classmethod
    def empty(cls, out_features: int, in_features: int, bits: int, group_size: int | None) -> "QuantizedWeight":
        """Memory for such a weight; without `group_size` a row is one group.

        Raises:
            ValueError: If there is no such number of bits, or a group is not a multiple of `BLOCK`.
        """
        check_quantization(bits, group_size)
        padded = _round_up(in_features, BLOCK)
        group_size = group_size or max(padded, BLOCK)
        data = torch.empty(out_features, padded * bits // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
        scales = torch.empty(out_features, -(-padded // group_size), dtype=torch.bfloat16)
        return cls(data, scales, in_features, group_size)


def check_quantization(bits: int, group_size: int | None) -> None:
    """Refuses what no weight can be quantised to.

    Raises:
        ValueError: Says what was given and what can be.
    """
    if bits not in BITS:
        raise ValueError(f"bits is {bits!r}; weights can be quantised to {' or '.join(map(str, BITS))} bits")
    if group_size is not None and (type(group_size) is not int or group_size < 1 or group_size % BLOCK):
        raise ValueError(f"group_size is {group_size!r}; it has to be a multiple of {BLOCK}, or None for whole rows")


@torch.no_grad()
def quantize(weight: torch.Tensor, bits: int, group_size: int | None) -> QuantizedWeight:
    """The weight of few bits that is nearest to `weight`, by the largest number of each group.

    Args:
        weight: (out_features, in_features), floating, finite.
        bits: 8 or 4.
        group_size: Weights that share a scale; `None` for whole rows.

    Raises:
        ValueError: If a weight is infinite or not a number, or `bits` or `group_size` cannot be.
    """
    with weight.device:
        result = QuantizedWeight.empty(*weight.shape, bits, group_size)
    for begin, end in _row_blocks(*weight.shape):
        rows = weight[begin:end].float()
        if not rows.isfinite().all():
            raise ValueError("a weight that is infinite or not a number cannot be quantised")
        result.data[begin:end], result.scales[begin:end] = _quantize_rows(rows, result)
    return result


def dequantize(
    weight: QuantizedWeight, dtype: torch.dtype = torch.float32, begin: int = 0, end: int | None = None
) -> torch.Tensor:
    """The rows `begin` to `end` of the weight as numbers, (rows, in_features) of `dtype`."""
    data, scales = weight.data[begin:end], weight.scales[begin:end]
    if _runs_in_cpp(weight, dtype):
        out = torch.empty(len(data), weight.in_features, dtype=dtype)
        linear_cpu.library().dequantize_rows(in_cpp(weight), Rows.of(out), begin, *out.shape)
        return out
    if weight.bits == 4:
        blocks = data.unflatten(-1, (-1, BLOCK // 2))
        data = torch.cat([blocks & 15, blocks >> 4], dim=-1).flatten(1).to(torch.int8) - 8
    scales = scales.float().repeat_interleave(weight.group_size, dim=1)[:, : weight.in_features]
    return (data[:, : weight.in_features] * scales).to(dtype)


def quantized_linear(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    """`x` times the transposed weight; differentiable in `x`.

    Args:
        x: (..., in_features), floating.
        weight: The weight.

    Returns:
        (..., out_features) of the dtype of `x`.

    Raises:
        ValueError: If `x` has another number of features.
    """
    if x.shape[-1:] != (weight.in_features,):
        raise ValueError(f"x has the shape {tuple(x.shape)}; its last dimension has to be {weight.in_features}")
    if _has_few_rows(x) and _runs_in_cpp(weight, x.dtype):
        return _few_rows(x.contiguous(), weight)
    return _Product.apply(x, *weight) if torch.is_grad_enabled() and x.requires_grad else _in_blocks(x, weight)


class _Product(torch.autograd.Function):
    """Rows of the weight as numbers, some at a time, with the gradient of `x`: a graph would keep all of them."""

    @staticmethod
    def forward(ctx, x, *weight):
        weight = QuantizedWeight(*weight)
        ctx.save_for_backward(*weight[:2])
        ctx.sizes = weight[2:]
        return _in_blocks(x, weight)

    @staticmethod
    def backward(ctx, grad):
        weight = QuantizedWeight(*ctx.saved_tensors, *ctx.sizes)
        blocks = _row_blocks(*_shape(weight))
        parts = (grad[..., begin:end] @ dequantize(weight, grad.dtype, begin, end) for begin, end in blocks)
        return sum(parts), None, None, None, None


def _in_blocks(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    parts = [_multiply(x, dequantize(weight, x.dtype, *block)) for block in _row_blocks(*_shape(weight))]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    plain = is_plain_inference() and type(x) is torch.Tensor and x.device.type == "cpu"
    return linear_cpu.product(x, weight) if plain and x.numel() else F.linear(x, weight)


def _quantize_rows(rows: torch.Tensor, like: QuantizedWeight) -> tuple[torch.Tensor, torch.Tensor]:
    """Data and scales of some rows, (rows, in_features) in float32."""
    groups = like.scales.shape[1]
    numbers = F.pad(rows, (0, groups * like.group_size - like.in_features)).unflatten(-1, (groups, like.group_size))
    if like.bits == 8:
        low, high = -127, 127
        scales = numbers.abs().amax(dim=-1) / high
    else:  # -8 has no counterpart, so the largest number of a group becomes it, whatever its sign
        low, high = -8, 7
        scales = numbers.gather(-1, numbers.abs().argmax(dim=-1, keepdim=True)).squeeze(-1) / low
    scales = scales.to(torch.bfloat16)
    divisors = torch.where(scales == 0, 1, scales.float()).unsqueeze(-1)
    data = (numbers / divisors).round().clamp(low, high).to(torch.int8).flatten(1)
    data = data[:, : _round_up(like.in_features, BLOCK)]
    if like.bits == 4:
        first, last = (data + 8).view(torch.uint8).unflatten(-1, (-1, 2, BLOCK // 2)).unbind(dim=-2)
        data = (first | last << 4).flatten(1)
    return data, scales


def _few_rows(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    rows, columns = _shape(weight)
    y = torch.empty(*x.shape[:-1], rows, dtype=x.dtype)
    linear_cpu.library().quantized_few_rows(
        in_cpp(weight), Rows.of(x), Rows.of(y), x.numel() // columns, rows, columns
    )
    return y


def _has_few_rows(x: torch.Tensor) -> bool:
    plain = type(x) is torch.Tensor and x.device.type == "cpu" and x.layout is torch.strided
    return plain and 0 < x.numel() <= MAX_FEW_ROWS * x.shape[-1]


def is_plain_weight(weight: QuantizedWeight) -> bool:
    """Whether it lies in the memory of the CPU as C++ expects it."""
    rows, columns = _shape(weight)
    padded = _round_up(columns, BLOCK)
    return (
        is_plain_tensor(weight.data)
        and is_plain_tensor(weight.scales)
        and weight.data.shape == (rows, padded * weight.bits // 8)
        and weight.scales.shape == (rows, -(-padded // weight.group_size))
        and weight.data.dtype in (torch.int8, torch.uint8)
        and weight.scales.dtype == torch.bfloat16
    )


def _runs_in_cpp(weight: QuantizedWeight, dtype: torch.dtype) -> bool:
    return (
        dtype in DTYPES
        and is_plain_inference()
        and is_plain_weight(weight)
        and weight.data.numel() > 0
        and linear_cpu.why_not_built() is None
    )


def in_cpp(weight: QuantizedWeight) -> Quantized:
    """The weight as C++ knows it: addresses, so whoever keeps it keeps the weight too."""
    return Quantized(weight.data.data_ptr(), weight.scales.data_ptr(), weight.bits, weight.group_size)


def _shape(weight: QuantizedWeight) -> tuple[int, int]:
    return weight.data.shape[0], weight.in_features


def _row_blocks(rows: int, columns: int) -> list[tuple[int, int]]:
    """Beginnings and ends of so many rows that `WEIGHTS_AT_A_TIME` hold, at least one block."""
    size = max(1, WEIGHTS_AT_A_TIME // max(columns, 1))
    return [(begin, min(begin + size, rows)) for begin in range(0, max(rows, 1), size)]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple

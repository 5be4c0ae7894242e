# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Weights of 8 and 4 bits: products are those of the numbers they stand for, and those are near what they were."""

import pytest
import torch

from rwkv7_world.kernels.cpu import linear as linear_cpu
from rwkv7_world.kernels.cpu import quantized_linear
from rwkv7_world.kernels.cpu.linear import MAX_FEW_ROWS
from rwkv7_world.kernels.cpu.quantized_linear import BLOCK, QuantizedWeight, dequantize, quantize


KINDS = [(8, None), (8, 64), (4, 32), (4, 64), (4, 96), (4, None)]
SHAPES = [(1, 1), (5, 3), (3, 32), (33, 97), (17, 160), (40, 768)]  # (out_features, in_features)
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of the largest number of the result

reason = linear_cpu.why_not_built()
needs_cpp = pytest.mark.skipif(reason is not None, reason=f"no C++ library: {reason}")


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def quantized(rows: int, columns: int, bits: int = 8, group_size: int | None = None) -> QuantizedWeight:
    return quantize(random(rows, columns, seed=2), bits, group_size)


def product(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    return quantized_linear.quantized_linear(x, weight)


def assert_close_to_float64(x: torch.Tensor, weight: QuantizedWeight) -> None:
    y, expected = product(x, weight), x.double() @ in_pytorch(weight).double().T
    assert y.shape == expected.shape and y.dtype == x.dtype
    assert (y.double() - expected).abs().max() <= TOLERANCES[x.dtype] * expected.abs().max()


def in_pytorch(weight: QuantizedWeight) -> torch.Tensor:
    """The weight as numbers, by the way that never runs in C++."""
    with torch.enable_grad():
        return dequantize(weight)


@pytest.fixture
def in_cpp(monkeypatch) -> list[int]:
    """The numbers of rows of x that C++ multiplied, in turn."""
    rows, few_rows = [], quantized_linear._few_rows

    def record(x, weight):
        rows.append(x.numel() // weight.in_features)
        return few_rows(x, weight)

    monkeypatch.setattr(quantized_linear, "_few_rows", record)
    return rows


@pytest.mark.parametrize("bits, group_size", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_every_weight_is_at_most_half_a_step_off(bits, group_size, dtype):
    for shape in SHAPES:
        numbers = random(*shape, dtype=dtype)
        weight = quantize(numbers, bits, group_size)
        steps = weight.scales.float().abs().repeat_interleave(weight.group_size, dim=1)[:, : shape[1]]
        off = (in_pytorch(weight) - numbers.float()).abs() / steps
        # Opposite to the largest number 4 bits end a step earlier; rounding the scale costs 8 bits another quarter
        assert off.max() <= (1.04 if bits == 4 else 0.76)
        if off.numel() > 1000:
            assert off.mean() < 0.3  # 0.25 if all are as likely


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_and_very_small_numbers_stay_what_they_are(bits):
    numbers = torch.zeros(3, 64)
    numbers[1] = 1e-20
    numbers[2, :32] = 1e30
    assert torch.equal(in_pytorch(quantize(numbers, bits, 32))[0], numbers[0])
    assert torch.allclose(in_pytorch(quantize(numbers, bits, 32)), numbers, rtol=1e-2, atol=0)


@pytest.mark.parametrize("bits, group_size", KINDS)
def test_it_takes_as_little_memory_as_it_should(bits, group_size):
    weight = quantized(16, 192, bits, group_size)
    assert weight.data.nbytes == 16 * 192 * bits // 8
    assert weight.scales.shape == (16, -(-192 // (group_size or 192)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="infinite or not a number"):
        quantize(torch.tensor([[1.0, bad]]), 8, None)


@pytest.mark.parametrize("bits", [0, 2, 16, "8", None])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match="8 or 4 bits"):
        quantized(2, 64, bits)


@pytest.mark.parametrize("group_size", [0, -32, 16, 33, 32.0, "32"])
def test_other_groups_are_refused(group_size):
    with pytest.raises(ValueError, match="multiple of 32"):
        quantized(2, 64, 4, group_size)


def test_another_number_of_features_is_refused():
    with pytest.raises(ValueError, match="last dimension has to be 64"):
        product(random(2, 32), quantized(4, 64))


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("bits, group_size", KINDS)
def test_cpp_and_pytorch_read_the_same_numbers(bits, group_size):
    for shape in SHAPES:
        weight = quantized(*shape, bits, group_size)
        for dtype in TOLERANCES:
            assert torch.equal(dequantize(weight, dtype), in_pytorch(weight).to(dtype))
        assert torch.equal(dequantize(weight, begin=1, end=3), in_pytorch(weight)[1:3])


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bits, group_size", KINDS)
def test_few_rows_of_any_shape_equal_float64(bits, group_size, dtype, in_cpp):
    for shape in SHAPES:
        weight = quantized(*shape, bits, group_size)
        for count in range(1, MAX_FEW_ROWS + 1):
            assert_close_to_float64(random(count, shape[1], dtype=dtype), weight)
    assert in_cpp == list(range(1, MAX_FEW_ROWS + 1)) * len(SHAPES)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bits, group_size", KINDS)
def test_many_rows_equal_float64(bits, group_size, dtype, monkeypatch, in_cpp):
    for at_a_time in (2**20, 1000):  # the weight at once, and in parts of which the last is smaller
        monkeypatch.setattr(quantized_linear, "WEIGHTS_AT_A_TIME", at_a_time)
        for shape in SHAPES:
            assert_close_to_float64(
                random(MAX_FEW_ROWS + 5, shape[1], dtype=dtype), quantized(*shape, bits, group_size)
            )
    assert in_cpp == []


@torch.no_grad()
def test_never_are_all_weights_numbers_at_once(monkeypatch):
    weight, sizes = quantized(100, 64), []

    def record(weight, dtype, begin, end):
        sizes.append((end - begin) * weight.in_features)
        return dequantize(weight, dtype, begin, end)

    monkeypatch.setattr(quantized_linear, "dequantize", record)
    monkeypatch.setattr(quantized_linear, "WEIGHTS_AT_A_TIME", 640)
    product(random(20, 64), weight)
    assert sizes == [640] * 10


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_comes_out_as_it_does_alone(bits):
    weight, x = quantized(37, 100, bits, 32), random(MAX_FEW_ROWS, 100)
    together = product(x, weight)
    assert all(torch.equal(together[index], product(x[index], weight)) for index in range(MAX_FEW_ROWS))


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_number_of_threads_does_not_change_a_bit(bits):
    weight, x, threads, results = quantized(1000, 512, bits, 32), random(2, 512), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append((product(x, weight), dequantize(weight)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@needs_cpp
@torch.no_grad()
def test_input_may_have_any_dimensions_and_strides(in_cpp):
    weight = quantized(5, 6, 4, 32)
    inputs = [random(6), random(2, 3, 6), random(6, 4).T, random(4, 12)[:, ::2], random(1, 6).expand(3, 6)]
    for x in inputs:
        assert_close_to_float64(x, weight)
    assert len(in_cpp) == len(inputs)
    assert product(torch.empty(0, 6), weight).shape == (0, 5)


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("bits", [8, 4])
def test_nan_and_infinity_stay_in_their_row(bits):
    weight, x = quantized(9, 40, bits, 32), random(3, 40)
    clean = product(x, weight)
    x[0, 3], x[2, 39] = torch.nan, torch.inf
    dirty = product(x, weight)
    assert dirty[0].isnan().all() and not dirty[2].isfinite().any()
    assert torch.equal(dirty[1], clean[1])


@pytest.mark.parametrize("bits, group_size", KINDS)
@pytest.mark.parametrize("count", [1, 20])
def test_gradients_reach_the_input(bits, group_size, count, monkeypatch, in_cpp):
    monkeypatch.setattr(quantized_linear, "WEIGHTS_AT_A_TIME", 500)
    weight, x = quantized(17, 96, bits, group_size), random(count, 96).requires_grad_()
    numbers, grad = in_pytorch(weight), random(count, 17, seed=3)
    y = product(x, weight)
    assert torch.allclose(y, x @ numbers.T, rtol=1e-5, atol=1e-5)
    (actual,) = torch.autograd.grad(y, x, grad)
    assert torch.allclose(actual, grad @ numbers, rtol=1e-5, atol=1e-5)
    assert in_cpp == []


@pytest.mark.parametrize("grad", [True, False])
def test_compiled_code_gives_the_same(grad):
    weight, x = quantized(5, 64, 4, 32), random(2, 64).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(lambda x: product(x, weight), fullgraph=True, backend="eager")
        assert torch.allclose(compiled(x), product(x, weight), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_autocast_decides_the_dtype(in_cpp):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(random(2, 64), quantized(4, 64)).dtype == torch.bfloat16
    assert in_cpp == []


@needs_cpp
@torch.no_grad()
def test_weights_that_are_cut_short_are_never_overrun(in_cpp):
    weight = quantized(4, 128, 4, 32)
    with pytest.raises(RuntimeError):
        product(random(1, 128), weight._replace(data=weight.data[:, : BLOCK // 2].contiguous()))
    with pytest.raises(RuntimeError):
        product(random(1, 128), weight._replace(scales=weight.scales[:, :1].contiguous()))
    assert in_cpp == []


@torch.no_grad()
@pytest.mark.parametrize("bits, group_size", KINDS)
def test_runs_without_a_compiler(bits, group_size, monkeypatch, in_cpp):
    monkeypatch.setattr(linear_cpu, "library", lambda: "no C++ compiler")
    for count in (1, 20):
        for dtype in TOLERANCES:
            assert_close_to_float64(random(count, 97, dtype=dtype), quantized(33, 97, bits, group_size))
    assert in_cpp == []

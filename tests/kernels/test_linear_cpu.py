# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`linear`: its numbers against float64, and whoever wraps, hooks or watches a layer sees an ordinary one."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from rwkv7_world.kernels.cpu import linear as linear_cpu
from rwkv7_world.kernels.cpu.linear import FEW_ROWS, IN_FLOAT32, MAX_FEW_ROWS, ONEDNN, ORDINARY, linear, way_of_linear


TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}  # of the largest number of the result

reason = linear_cpu.why_not_built()
needs_cpp = pytest.mark.skipif(reason is not None, reason=f"no C++ library: {reason}")


def layer(columns: int, rows: int, bias: bool = True, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, rows, bias=bias).to(dtype).eval().requires_grad_(False)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_close_to_float64(y: torch.Tensor, module: nn.Linear, x: torch.Tensor) -> None:
    bias = None if module.bias is None else module.bias.double()
    expected = F.linear(x.double(), module.weight.double(), bias)
    assert y.shape == expected.shape and y.dtype == x.dtype
    assert (y.double() - expected).abs().max() <= TOLERANCES[x.dtype] * expected.abs().max()


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """The ways taken by `linear` other than the module's own."""
    ways = []
    for way, function in linear_cpu._WAYS.items():

        def record(*args, way=way, function=function):
            ways.append(way)
            return function(*args)

        monkeypatch.setitem(linear_cpu._WAYS, way, record)
    return ways


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_of_any_shape_equal_float64(dtype, bias, taken):
    shapes = [(1, 1), (5, 3), (31, 7), (33, 17), (64, 8), (97, 64), (130, 33), (768, 40)]
    for columns, rows in shapes:
        module = layer(columns, rows, bias, dtype)
        for count in range(1, MAX_FEW_ROWS + 1):
            x = random(count, columns, dtype=dtype)
            assert_close_to_float64(linear(module, x), module, x)
    assert taken == [FEW_ROWS] * (len(shapes) * MAX_FEW_ROWS)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("count", [MAX_FEW_ROWS + 1, 70])
def test_many_rows_equal_float64(dtype, count):
    for bias in (True, False):
        module, x = layer(97, 33, bias, dtype), random(count, 97, dtype=dtype)
        assert_close_to_float64(linear(module, x), module, x)


@pytest.mark.parametrize("quick, ways", [(True, [ONEDNN, IN_FLOAT32]), (False, [ORDINARY, ORDINARY])])
def test_many_rows_leave_pytorch_only_where_it_is_slow(quick, ways, monkeypatch):
    monkeypatch.setattr(linear_cpu, "onednn_is_quicker", lambda: quick)
    monkeypatch.setattr(linear_cpu, "_multiplies_float16", lambda: not quick)
    assert [way_of_linear(dtype, 512) for dtype in (torch.float32, torch.float16)] == ways
    assert way_of_linear(torch.bfloat16, 512) == ORDINARY


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_row_comes_out_as_it_does_alone(dtype):
    module, x = layer(100, 37, dtype=dtype), random(MAX_FEW_ROWS, 100, dtype=dtype)
    together = linear(module, x)
    for index in range(MAX_FEW_ROWS):
        assert torch.equal(together[index], linear(module, x[index]))


@needs_cpp
@torch.no_grad()
def test_number_of_threads_does_not_change_a_bit():
    module, x = layer(512, 1000), random(2, 512)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            results.append(linear(module, x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@needs_cpp
@torch.no_grad()
def test_input_may_have_any_dimensions_and_strides(taken):
    module = layer(6, 5)
    inputs = [random(6), random(2, 3, 6), random(6, 4).T, random(4, 12)[:, ::2], random(1, 6).expand(3, 6)]
    for x in inputs:
        assert_close_to_float64(linear(module, x), module, x)
    assert taken == [FEW_ROWS] * len(inputs)


@needs_cpp
@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nan_and_infinity_stay_in_their_row(dtype):
    module, x = layer(40, 9, bias=False, dtype=dtype), random(3, 40, dtype=dtype)
    clean = linear(module, x)
    x[0, 3], x[2, 39] = torch.nan, torch.inf
    dirty = linear(module, x)
    assert dirty[0].isnan().all() and not dirty[2].isfinite().any()
    assert torch.equal(dirty[1], clean[1])


class Subclass(nn.Linear):
    pass


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class WeightSubclass(torch.Tensor):
    """As the weights of quantisers are."""


def with_forward_hook():
    module = layer(8, 4)
    module.register_forward_hook(lambda module, args, output: output + 1)
    return module


def with_pre_hook():
    module = layer(8, 4)
    module.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return module


def with_forward_of_its_own():
    module = layer(8, 4)
    forward = module.forward
    module.forward = lambda x: forward(x) + 1  # as accelerate's hooks do
    return module


def parametrized():
    module = layer(8, 4)
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


def with_weight_subclass():
    module = layer(8, 4)
    module.weight = nn.Parameter(module.weight.as_subclass(WeightSubclass), requires_grad=False)
    return module


def with_transposed_weight():
    module = layer(4, 8)
    module.weight = nn.Parameter(module.weight.T, requires_grad=False)
    module.bias = None
    return module


UNUSUAL = [
    lambda: Subclass(8, 4).eval(),
    lambda: layer(8, 4).train(),
    lambda: nn.Sequential(layer(8, 4)),
    with_forward_hook,
    with_pre_hook,
    with_forward_of_its_own,
    parametrized,
    with_weight_subclass,
    with_transposed_weight,
]


@torch.no_grad()
@pytest.mark.parametrize("make", UNUSUAL)
@pytest.mark.parametrize("count", [1, 20])
def test_a_layer_that_is_not_plain_runs_itself(make, count, taken):
    module, x = make(), random(count, 8)
    assert torch.equal(linear(module, x), module(x))
    assert taken == []


def test_gradients_flow_as_through_any_layer(taken):
    for weight_grad, x_grad in itertools.product((True, False), repeat=2):
        module, x = layer(8, 4).requires_grad_(weight_grad), random(2, 8).requires_grad_(x_grad)
        y = linear(module, x)
        assert y.requires_grad == (weight_grad or x_grad)
        assert torch.equal(y, module(x))
    assert taken == []


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_dtype_of_its_own_runs_or_is_refused_as_ever(dtype, taken):
    module, x = layer(8, 4), random(2, 8, dtype=dtype)
    with pytest.raises(RuntimeError, match="dtype"):
        linear(module, x)
    assert linear(module.double(), x.double()).dtype == torch.float64
    assert taken == []


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 7), (0, 8), ()])
def test_shapes_without_a_product_are_left_to_the_layer(shape, taken):
    module, x = layer(8, 4), torch.zeros(shape)
    try:
        expected = module(x)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            linear(module, x)
    else:
        assert torch.equal(linear(module, x), expected)
    assert taken == []


@torch.no_grad()
def test_autocast_decides_the_dtype(taken):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(layer(8, 4), random(2, 8)).dtype == torch.bfloat16
    assert taken == []


@torch.no_grad()
def test_function_transforms_and_modes_see_the_layer(taken):
    module, x = layer(8, 4), random(3, 2, 8)
    assert torch.allclose(torch.vmap(lambda row: linear(module, row))(x), module(x))
    y, tangent = torch.func.jvp(lambda x: linear(module, x), (x,), (torch.ones_like(x),))
    assert torch.allclose(tangent, module.weight.sum(1).expand_as(tangent), atol=1e-6)
    with FlopCounterMode(display=False) as counter:
        linear(module, x)
    assert counter.get_total_flops() == 2 * x.numel() * 4
    assert taken == []


@torch.no_grad()
def test_meta_tensors_run(taken):
    assert linear(layer(8, 4).to("meta"), torch.empty(2, 8, device="meta")).shape == (2, 4)
    assert taken == []


@pytest.mark.parametrize("grad", [True, False])
def test_compiled_code_holds_the_layer(grad, taken):
    module, x = layer(8, 4), random(2, 8)
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(lambda x: linear(module, x), fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), module(x))
    assert taken == []


@torch.no_grad()
def test_global_hooks_are_called(taken):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(module))
    try:
        module = layer(8, 4)
        linear(module, random(2, 8))
    finally:
        handle.remove()
    assert seen == [module] and taken == []


@torch.no_grad()
def test_runs_without_a_compiler(monkeypatch, tmp_path, taken):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delenv("RWKV7_BUILD", raising=False)
    linear_cpu.library.cache_clear()
    try:
        assert "no-such-compiler" in linear_cpu.why_not_built()
        for count in (1, 20):
            module, x = layer(97, 33), random(count, 97)
            assert_close_to_float64(linear(module, x), module, x)
        assert FEW_ROWS not in taken
    finally:
        linear_cpu.library.cache_clear()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The Triton backend of `wkv7`: its numbers against the definition in float64, and when it is chosen.

What needs Triton's kernels runs where there is a GPU, and in Triton's interpreter (`test_triton_interpreter.py`).
"""

import functools
import math
import subprocess
import sys

import pytest
import torch

from helpers.wkv7_inputs import (
    STRONGEST_LOG_DECAY,
    assert_equal,
    largest_difference,
    repeated_key_inputs,
    run_with_gradients,
    wkv7_inputs,
)
from rwkv7_world.kernels import wkv7_triton
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend, wkv7


FORWARD, GRADIENT = 1e-6, 1e-5  # of the largest number of each result
HALF = {torch.bfloat16: 1e-2, torch.float16: 2e-3}

reason = wkv7_triton.why_not_here()
needs_triton = pytest.mark.skipif(reason is not None, reason=f"no Triton backend: {reason}")
DEVICE = "cpu" if wkv7_triton.is_interpreted() or not torch.cuda.is_available() else "cuda"


def run(*inputs, backend="triton", **kwargs):
    """`wkv7` on tensors of the CPU, run where the kernels run."""
    r, w, k, v, a, b, state = (x.to(DEVICE) for x in inputs)
    kwargs = {name: x if x is None else x.to(DEVICE) for name, x in kwargs.items()}
    y, state = wkv7(r, w, k, v, a, b, initial_state=state, output_final_state=True, backend=backend, **kwargs)
    return y.cpu(), state.cpu()


def assert_right(inputs, forward=FORWARD, gradient=GRADIENT, **kwargs):
    """`triton` on `inputs` against `reference` on the same numbers in float64."""
    actual = run_with_gradients(functools.partial(run, **kwargs), inputs)
    in_float64 = functools.partial(run, backend="reference", **kwargs)
    expected = run_with_gradients(in_float64, [x.detach().double() for x in inputs])
    outputs = ("y", "final_state")
    for names, tolerance in ((outputs, forward), (expected.keys() - outputs, gradient)):
        assert_equal({n: actual[n] for n in names}, {n: expected[n] for n in names}, tolerance)


@needs_triton
@pytest.mark.parametrize("time", [0, 1, 2, 16, 17, 33])
@pytest.mark.parametrize("head_dim", [16, 48, 64])
def test_float32_equals_the_definition(time, head_dim):
    assert_right(wkv7_inputs(2, time, 1, head_dim, seed=time, dtype=torch.float32))


@needs_triton
@pytest.mark.parametrize("head_dim", [96, 128, 256])
def test_wide_heads_equal_the_definition(head_dim):
    assert_right(wkv7_inputs(1, 18, 1, head_dim, dtype=torch.float32))


@needs_triton
@pytest.mark.parametrize("time", [5, 20])
def test_heads_do_not_mix(time):
    assert_right(wkv7_inputs(1, time, 3, 16, dtype=torch.float32))


@needs_triton
@pytest.mark.parametrize("log_decay", [STRONGEST_LOG_DECAY, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_the_strongest_and_no_decay_equal_the_definition(log_decay, dtype):
    inputs = wkv7_inputs(1, 40, 1, 64, dtype=dtype, log_decay=log_decay)
    assert_right(inputs, forward=HALF.get(dtype, FORWARD), gradient=HALF.get(dtype, GRADIENT))


@needs_triton
def test_decays_far_stronger_than_those_of_rwkv_7_stay_finite():
    assert_right(wkv7_inputs(1, 40, 1, 16, dtype=torch.float32, log_decay=-4.5), gradient=1e-4)


@needs_triton
def test_one_key_over_and_over_is_removed_without_loss():
    assert_right(repeated_key_inputs(1, 40, 1, 64))


@needs_triton
@pytest.mark.parametrize("time", [3, 35])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_equals_the_definition_up_to_its_rounding(dtype, time):
    inputs = wkv7_inputs(2, time, 1, 64, dtype=dtype)
    assert_right(inputs, forward=HALF[dtype], gradient=HALF[dtype])
    expected = run(*(x.double() for x in inputs), backend="reference")[1]
    assert largest_difference(run(*inputs)[1], expected) < 1e-3  # the state is kept in float32


@needs_triton
def test_every_input_may_have_its_own_dtype():
    inputs = wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float16, torch.bfloat16, torch.float64]
    inputs[:6] = [x.detach().to(d).requires_grad_() for x, d in zip(inputs[:6], dtypes, strict=True)]
    assert_right(inputs, forward=1e-2, gradient=1e-2)
    gradients = torch.autograd.grad(run(*inputs)[0].sum(), inputs)
    assert [g.dtype for g in gradients[:6]] == dtypes


@needs_triton
@pytest.mark.parametrize("time", [9, 37])
def test_a_masked_token_leaves_no_trace_whatever_it_holds(time):
    mask = torch.ones(4, time, dtype=torch.bool)
    mask[0, : time // 2] = mask[1, time // 3 :] = mask[2, 2:7] = mask[2, -2] = False
    mask[3] = False
    inputs = wkv7_inputs(4, time, 1, 16, dtype=torch.float32)
    assert_right(inputs, mask=mask)
    clean = run_with_gradients(functools.partial(run, mask=mask), inputs)
    with torch.no_grad():
        for x in inputs[:6]:
            x[~mask] = math.nan
    dirty = run_with_gradients(functools.partial(run, mask=mask), inputs)
    assert_equal(dirty, clean, 0)
    assert torch.equal(dirty["final_state"][3], inputs[6][3])
    assert all((dirty[name][~mask] == 0).all() for name in ("y", *(f"gradient of {n}" for n in "rwkvab")))


@needs_triton
@pytest.mark.parametrize("lengths", [[17, 0, 1, 20], [0, 5, 0], [1, 1, 1], [0], [16, 16, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_equal_the_definition(lengths, masked):
    inputs = wkv7_inputs(1, sum(lengths), 2, 16, states=len(lengths), dtype=torch.float32)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    mask = torch.arange(sum(lengths))[None] % 3 > 0 if masked else None
    assert_right(inputs, cu_seqlens=boundaries, mask=mask)


@needs_triton
@pytest.mark.parametrize("time", [8, 20])
@pytest.mark.parametrize("poisoned", range(7))
def test_nan_in_one_row_does_not_reach_another(poisoned, time):
    inputs = wkv7_inputs(3, time, 1, 16, dtype=torch.float32)
    clean = run_with_gradients(run, inputs)
    with torch.no_grad():
        inputs[poisoned][1] = math.nan
    dirty = run_with_gradients(run, inputs)
    assert dirty["y"][1].isnan().any()
    assert_equal({n: x[[0, 2]] for n, x in dirty.items()}, {n: x[[0, 2]] for n, x in clean.items()}, 0)


@needs_triton
@pytest.mark.parametrize("head_dim", [48, 64])
def test_processors_that_share_a_head_give_the_same_every_time(head_dim, monkeypatch):
    inputs = wkv7_inputs(1, 20, 1, head_dim, dtype=torch.float32)
    monkeypatch.setattr(wkv7_triton, "num_processors", lambda device: 1000)
    assert wkv7_triton._num_value_blocks(inputs[0], None) == head_dim // 16
    assert_right(inputs)
    assert_equal(run_with_gradients(run, inputs), run_with_gradients(run, inputs), 0)


@needs_triton
def test_no_initial_state_is_a_zero_state():
    for time in (4, 20):
        inputs = [x.detach() for x in wkv7_inputs(2, time, 1, 16, dtype=torch.float32)]
        expected = run(*inputs[:6], torch.zeros_like(inputs[6]))
        y, state = wkv7(*(x.to(DEVICE) for x in inputs[:6]), output_final_state=True, backend="triton")
        assert torch.equal(y.cpu(), expected[0]) and torch.equal(state.cpu(), expected[1])


@needs_triton
@pytest.mark.parametrize("time", [5, 35])
def test_results_with_and_without_gradients_are_the_same(time):
    inputs = wkv7_inputs(2, time, 1, 16, dtype=torch.float32)
    y, state = run(*inputs)
    with torch.no_grad():
        y_alone, state_alone = run(*inputs)
    assert y.requires_grad and not y_alone.requires_grad
    assert torch.equal(y, y_alone) and torch.equal(state, state_alone)


@needs_triton
@pytest.mark.parametrize("time", [5, 35])
def test_every_element_of_the_outputs_is_written(time, monkeypatch):
    inputs = wkv7_inputs(2, time, 1, 48, dtype=torch.float32)
    mask = torch.arange(2 * time).view(2, time) % 5 > 0
    calls = [functools.partial(run, mask=mask), run]
    clean = [run_with_gradients(call, inputs) for call in calls]
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(math.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(math.nan))
    for call, expected in zip(calls, clean, strict=True):
        assert_equal(run_with_gradients(call, inputs), expected, 0)


@needs_triton
def test_inputs_of_any_strides_give_the_same():
    inputs = wkv7_inputs(2, 20, 2, 16, dtype=torch.float32)
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:6]]
    strided.append(inputs[6].detach().mT.contiguous().mT)
    y, state = run(*inputs)
    dy = torch.ones(()).expand(y.shape)
    expected = torch.autograd.grad((y, state), inputs, (dy, torch.ones_like(state)))
    strided = [x.requires_grad_() for x in strided]
    y_strided, state_strided = run(*strided)
    actual = torch.autograd.grad((y_strided, state_strided), strided, (dy, torch.ones_like(state)))
    assert all(map(torch.equal, (y_strided, state_strided, *actual), (y, state, *expected)))


@needs_triton
@pytest.mark.parametrize("used", ["y", "state"])
def test_gradients_come_through_either_output_alone(used):
    inputs = wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)

    def gradients(inputs, backend):
        y, state = run(*inputs, backend=backend)
        return torch.autograd.grad((y if used == "y" else state).square().sum(), inputs, materialize_grads=True)

    expected = gradients([x.detach().double().requires_grad_() for x in inputs], "reference")
    for actual, wanted in zip(gradients(inputs, "triton"), expected, strict=True):
        assert largest_difference(actual, wanted) < GRADIENT


@needs_triton
@pytest.mark.parametrize("with_gradients", [False, True])
def test_passes_the_checks_of_torch_for_custom_operators(with_gradients):
    inputs = wkv7_inputs(1, 20, 1, 16, dtype=torch.float32, states=2)
    inputs = [x.detach().to(DEVICE).requires_grad_(with_gradients) for x in inputs]
    mask = (torch.arange(20)[None] % 4 > 0).to(DEVICE)
    torch.library.opcheck(
        wkv7_triton._forward_op,
        (*inputs, mask, torch.tensor([0, 7, 20], device=DEVICE), with_gradients),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@needs_triton
def test_compiles_and_exports_without_a_break():
    inputs = [x.detach().to(DEVICE) for x in wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)]

    def call(*inputs):
        return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend="triton")

    def gradients(function):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y, state = function(*leaves)
        return torch.autograd.grad(y.sum() + state.sum(), leaves)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, gradients(compiled), gradients(call)))

    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return call(*inputs)

    exported = torch.export.export(Module(), tuple(inputs))
    assert any("wkv7_triton" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*inputs)[0], call(*inputs)[0])


# ----------------------------------------------------------------------------------------------------- choosing it


def test_inputs_on_the_cpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' cannot run: it runs on GPUs.* cpu .TRITON_INTERPRET=1") as error:
        select_backend("triton", torch.zeros(1, 2, 1, 64))
    assert "\n" not in str(error.value)


@needs_triton
def test_what_it_does_not_take_is_refused_by_name():
    good = torch.zeros(1, 2, 1, 64, device=DEVICE)
    assert select_backend("triton", good) == "triton"
    with pytest.raises(ValueError, match="not torch.float64"):
        select_backend("triton", good.double())
    for size in (24, 272):
        with pytest.raises(ValueError, match=f"head sizes from 16 to 256 in steps of 16, not {size}"):
            select_backend("triton", torch.zeros(1, 2, 1, size, device=DEVICE))


@pytest.mark.parametrize("here", [True, False])
def test_is_the_default_on_gpus_where_triton_is_installed(here, monkeypatch):
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    monkeypatch.setattr(wkv7_triton, "_import_error", lambda: None if here else "Triton cannot be imported (gone)")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = type("OnGPU", (), {"device": torch.device("cuda"), "dtype": torch.float32, "shape": (1, 2, 1, 64)})()
    assert select_backend(inputs=on_gpu) == ("triton" if here else "chunked")
    assert explain_backends()["triton"] == ("ok" if here else "Triton cannot be imported (gone)")
    assert select_backend(inputs=torch.zeros(1, 2, 1, 64)) != "triton"
    on_gpu.dtype = torch.float64
    assert select_backend(inputs=on_gpu) == "chunked"


def test_runs_without_triton():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from rwkv7_world.kernels.wkv7 import explain_backends, wkv7\n"
        "wkv7(*torch.zeros(6, 1, 20, 1, 16)); print(explain_backends()['triton'])"
    )
    assert "Triton cannot be imported" in subprocess.check_output([sys.executable, "-c", script], text=True)

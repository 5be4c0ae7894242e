# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The operator `wkv7`: its definition, its backends against each other, pieces, padding, packing and refusals."""

import functools
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.padding import padding_masks
from helpers.wkv7_inputs import (
    STRONGEST_LOG_DECAY,
    assert_equal,
    repeated_key_inputs,
    run_with_gradients,
    wkv7_inputs,
)
from rwkv7_world.kernels.reference.wkv7_scan import wkv7_scan
from rwkv7_world.kernels.wkv7 import available_backends, select_backend, wkv7


BACKENDS = ["reference", "chunked"]
FLOAT64, FLOAT32 = 1e-12, 5e-6  # relative to the largest number of each result

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
backends = pytest.mark.parametrize("backend", BACKENDS)
seeds = st.integers(0, 10_000)
times = st.one_of(st.integers(0, 70), st.sampled_from([1, 15, 16, 17, 31, 32, 33, 64, 65]))
sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "time": times,
        "heads": st.integers(1, 3),
        "head_dim": st.sampled_from([16, 32, 48]),
        "seed": seeds,
    }
)
small_sizes = st.fixed_dictionaries({"batch": st.integers(1, 3), "heads": st.integers(1, 2), "seed": seeds})
log_decays = st.sampled_from([None, None, STRONGEST_LOG_DECAY, 0.0])


def run(backend, *inputs, **kwargs):
    """`wkv7` on r, w, k, v, a, b, initial_state."""
    return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend=backend, **kwargs)


def on(backend, **kwargs):
    return functools.partial(run, backend, **kwargs)


def by_definition(r, w, k, v, a, b, state):
    """The operator in loops over single numbers, from the paper's equation."""
    state, y = state.copy(), np.zeros_like(v)
    batch, time, heads, size = r.shape
    for n, t, h in np.ndindex(batch, time, heads):
        old = state[n, h].copy()  # (value, key)
        for i in range(size):
            removed = sum(old[i, m] * a[n, t, h, m] for m in range(size))
            for j in range(size):
                kept = old[i, j] * math.exp(w[n, t, h, j])
                state[n, h, i, j] = kept + removed * b[n, t, h, j] + v[n, t, h, i] * k[n, t, h, j]
            y[n, t, h, i] = sum(state[n, h, i, j] * r[n, t, h, j] for j in range(size))
    return y, state


@backends
@pytest.mark.parametrize("time", [1, 2, 19])
def test_equals_the_definition_written_in_loops(backend, time):
    inputs = wkv7_inputs(2, time, 2, 4, seed=time)
    y, state = run(backend, *inputs)
    expected_y, expected_state = by_definition(*(x.detach().numpy() for x in inputs))
    np.testing.assert_allclose(y.detach().numpy(), expected_y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state.detach().numpy(), expected_state, rtol=0, atol=1e-13)


@pytest.mark.parametrize("time", [1, 2, 19])
@torch.no_grad()
def test_scan_equals_the_definition_written_in_loops(time):
    inputs = wkv7_inputs(2, time, 2, 4, seed=time)
    y, state = wkv7_scan(*inputs)
    expected_y, expected_state = by_definition(*(x.numpy() for x in inputs))
    np.testing.assert_allclose(y.numpy(), expected_y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(state.numpy(), expected_state, rtol=0, atol=1e-13)


@backends
def test_gradients_equal_finite_differences(backend):
    inputs = wkv7_inputs(2, 5, 1, 3)
    assert torch.autograd.gradcheck(on(backend), inputs)


@pytest.mark.parametrize("chunk_length", ["of inference", "of training"])
@property_test
@given(sizes=sizes, log_decay=log_decays)
def test_chunked_equals_reference_in_float64(chunk_length, sizes, log_decay):
    inputs = wkv7_inputs(**sizes, log_decay=log_decay)
    if chunk_length == "of training":
        actual, expected = (run_with_gradients(on(backend), inputs) for backend in ("chunked", "reference"))
    else:
        with torch.no_grad():
            actual, expected = (
                dict(zip(("y", "state"), run(backend, *inputs), strict=True)) for backend in ("chunked", "reference")
            )
    assert_equal(actual, expected, FLOAT64)


@backends
@property_test
@given(sizes=sizes, log_decay=log_decays)
def test_float32_is_float64_up_to_rounding(backend, sizes, log_decay):
    inputs = wkv7_inputs(**sizes, log_decay=log_decay, dtype=torch.float32)
    actual = run_with_gradients(on(backend), inputs)
    expected = run_with_gradients(on("reference"), [x.double() for x in inputs])
    assert actual["y"].dtype == actual["final_state"].dtype == torch.float32
    assert_equal(actual, expected, FLOAT32)


@backends
@pytest.mark.parametrize("time", [20, 70])
def test_decays_far_stronger_than_those_of_rwkv_7_stay_finite_in_float32(backend, time):
    inputs = wkv7_inputs(2, time, 2, 16, dtype=torch.float32, log_decay=-4.5)
    expected = run_with_gradients(on("reference"), [x.double() for x in inputs])
    assert_equal(run_with_gradients(on(backend), inputs), expected, tolerance=1e-4)


@backends
@pytest.mark.parametrize("time", [16, 33, 70])
def test_one_key_over_and_over_is_removed_without_loss_in_float32(backend, time):
    inputs = repeated_key_inputs(1, time, 2, 16)
    expected = run_with_gradients(on("reference"), [x.double() for x in inputs])
    assert_equal(run_with_gradients(on(backend), inputs), expected, FLOAT32)


@backends
@property_test
@given(sizes=sizes, cuts=st.lists(st.integers(0, 70), max_size=5))
def test_any_split_into_pieces_equals_the_whole(backend, sizes, cuts):
    cuts = sorted(min(cut, sizes["time"]) for cut in cuts)

    def in_pieces(*inputs):
        state, pieces = inputs[6], []
        for start, end in zip([0, *cuts], [*cuts, sizes["time"]], strict=True):
            y, state = run(backend, *(x[:, start:end] for x in inputs[:6]), state)
            pieces.append(y)
        return torch.cat(pieces, dim=1), state

    inputs = wkv7_inputs(**sizes)
    assert_equal(run_with_gradients(in_pieces, inputs), run_with_gradients(on(backend), inputs), FLOAT64)


@backends
@pytest.mark.parametrize("rubbish", [1e30, math.inf, math.nan])
@property_test
@given(mask=padding_masks(max_time=40), seed=seeds)
def test_masked_tokens_are_as_if_they_were_not_there(backend, rubbish, mask, seed):
    inputs = wkv7_inputs(*mask.shape, 2, 16, seed=seed)
    with_rubbish = [x.detach().clone() for x in inputs]
    for x in with_rubbish[:6]:
        x[~mask] = rubbish

    def without_masked_tokens(*inputs):
        y, states = torch.zeros_like(inputs[0]), []
        for row, real in enumerate(mask):
            y_row, state = run(backend, *(x[row, real][None] for x in inputs[:6]), inputs[6][row : row + 1])
            states.append(state)
            y = y.index_put((torch.tensor([row]), real.nonzero().flatten()), y_row[0])
        return y, torch.cat(states)

    actual = run_with_gradients(on(backend, mask=mask), with_rubbish)
    assert_equal(actual, run_with_gradients(without_masked_tokens, inputs), FLOAT64)


@backends
def test_mask_may_hold_integers(backend):
    inputs = wkv7_inputs(1, 4, 1, 16)
    mask = torch.tensor([[0, 1, 0, 1]])
    actual, expected = (run_with_gradients(on(backend, mask=m), inputs) for m in (mask, mask.bool()))
    assert_equal(actual, expected, 0)


@backends
def test_fully_masked_row_returns_its_initial_state_bit_for_bit(backend):
    inputs = wkv7_inputs(2, 20, 2, 16, dtype=torch.float32)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1] = False
    y, state = run(backend, *inputs, mask=mask)
    assert torch.equal(state[1], inputs[6][1])
    assert not torch.equal(state[0], inputs[6][0])
    assert (y[1] == 0).all()


@backends
@pytest.mark.parametrize("poisoned", range(7))
def test_nan_in_one_row_does_not_reach_another(backend, poisoned):
    inputs = wkv7_inputs(3, 20, 2, 16)
    clean = run_with_gradients(on(backend), inputs)
    with torch.no_grad():
        inputs[poisoned][1] = math.nan
    dirty = run_with_gradients(on(backend), inputs)
    assert dirty["y"][1].isnan().any()
    assert_equal({k: x[[0, 2]] for k, x in dirty.items()}, {k: x[[0, 2]] for k, x in clean.items()}, FLOAT64)


def separately(backend, lengths, mask=None):
    """The operator on packed inputs, one sequence after the other."""

    def function(*inputs):
        outputs, states, start = [], [], 0
        for row, length in enumerate(lengths):
            part = slice(start, start + length)
            y, state = run(
                backend,
                *(x[:, part] for x in inputs[:6]),
                inputs[6][row : row + 1],
                mask=None if mask is None else mask[:, part],
            )
            outputs.append(y)
            states.append(state)
            start += length
        return torch.cat(outputs, dim=1), torch.cat(states)

    return function


def boundaries(lengths, dtype=torch.int32):
    return torch.tensor([0, *lengths]).cumsum(0).to(dtype)


@backends
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@property_test
@given(
    lengths=st.lists(st.one_of(st.just(0), st.integers(0, 25), st.just(33)), min_size=1, max_size=5),
    masked=st.booleans(),
    sizes=small_sizes,
)
def test_packed_sequences_equal_separate_runs(backend, dtype, lengths, masked, sizes):
    heads, seed = sizes["heads"], sizes["seed"]
    inputs = wkv7_inputs(1, sum(lengths), heads, 16, seed=seed, states=len(lengths))
    mask = torch.rand(1, sum(lengths), generator=torch.Generator().manual_seed(seed)) < 0.7 if masked else None
    actual = run_with_gradients(on(backend, cu_seqlens=boundaries(lengths, dtype), mask=mask), inputs)
    assert_equal(actual, run_with_gradients(separately(backend, lengths, mask), inputs), FLOAT64)


@backends
def test_packed_sequences_start_from_zero_without_an_initial_state(backend):
    lengths = [5, 0, 17]
    inputs = wkv7_inputs(1, 22, 2, 16, states=3)
    with torch.no_grad():
        inputs[6].zero_()
    y, state = wkv7(*inputs[:6], cu_seqlens=boundaries(lengths), output_final_state=True, backend=backend)
    expected_y, expected_state = separately(backend, lengths)(*inputs)
    torch.testing.assert_close(y, expected_y, atol=1e-13, rtol=0)
    torch.testing.assert_close(state, expected_state, atol=1e-13, rtol=0)


@backends
def test_nan_in_one_packed_sequence_does_not_reach_another(backend):
    lengths = [9, 20, 4]
    inputs = wkv7_inputs(1, 33, 1, 16, states=3)
    clean, clean_state = run(backend, *inputs, cu_seqlens=boundaries(lengths))
    with torch.no_grad():
        for x in inputs[:6]:
            x[:, 9:29] = math.nan
    dirty, dirty_state = run(backend, *inputs, cu_seqlens=boundaries(lengths))
    outside = [*range(9), *range(29, 33)]
    assert dirty[:, 9:29].isnan().all()
    assert torch.equal(dirty[:, outside], clean[:, outside])
    assert torch.equal(dirty_state[[0, 2]], clean_state[[0, 2]])


@backends
@pytest.mark.parametrize("states", [1, 3])
def test_no_packed_tokens_return_the_initial_states(backend, states):
    inputs = wkv7_inputs(1, 0, 2, 16, states=states)
    y, state = run(backend, *inputs, cu_seqlens=torch.zeros(states + 1, dtype=torch.int64))
    assert y.shape == (1, 0, 2, 16)
    assert torch.equal(state, inputs[6])


@backends
def test_no_tokens_return_the_initial_state(backend):
    inputs = wkv7_inputs(2, 0, 2, 16)
    y, state = run(backend, *inputs)
    assert y.shape == (2, 0, 2, 16)
    assert torch.equal(state, inputs[6])
    _, state = wkv7(*inputs[:6], output_final_state=True, backend=backend)
    assert torch.equal(state, torch.zeros(2, 2, 16, 16, dtype=torch.float64))


@backends
def test_no_initial_state_is_a_zero_state(backend):
    inputs = wkv7_inputs(2, 20, 2, 16)
    with torch.no_grad():
        inputs[6].zero_()
    for actual, expected in zip(
        wkv7(*inputs[:6], output_final_state=True, backend=backend), run(backend, *inputs), strict=True
    ):
        assert torch.equal(actual, expected)


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_outside_and_the_state_is_float32(backend, dtype):
    inputs = wkv7_inputs(2, 37, 2, 16, dtype=dtype)
    y, state = run(backend, *inputs)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    expected_y, expected_state = run("reference", *(x.double() for x in inputs))
    torch.testing.assert_close(state, expected_state.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(y, expected_y.to(dtype), atol=1e-4, rtol=1e-2)


@backends
def test_log_decay_may_be_more_precise_than_the_rest(backend):
    inputs = wkv7_inputs(1, 20, 1, 16, dtype=torch.bfloat16)
    inputs[1] = wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)[1]
    _, state = run(backend, *inputs)
    torch.testing.assert_close(state, run("reference", *(x.double() for x in inputs))[1].float(), atol=1e-5, rtol=0)


@backends
def test_inputs_are_left_as_they_were(backend):
    inputs = wkv7_inputs(2, 20, 2, 16)
    before = [x.detach().clone() for x in inputs]
    run(backend, *inputs, mask=torch.arange(40).view(2, 20) % 3 > 0)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@backends
def test_final_state_comes_only_when_asked_for(backend):
    inputs = wkv7_inputs(1, 5, 1, 16)
    assert wkv7(*inputs[:6], backend=backend)[1] is None
    assert wkv7(*inputs[:6], backend=backend, output_final_state=True)[1] is not None


def test_backend_comes_from_argument_then_environment_then_default(monkeypatch):
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    assert set(BACKENDS) <= set(available_backends())
    assert select_backend() == available_backends()[0]
    monkeypatch.setenv("RWKV7_BACKEND", "reference")
    assert select_backend() == "reference"
    assert select_backend("chunked") == "chunked"
    monkeypatch.setenv("RWKV7_BACKEND", "")
    assert select_backend() == available_backends()[0]


def test_an_export_to_onnx_scans_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("RWKV7_BACKEND", "reference")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert select_backend() == "reference"
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert select_backend() == "scan"
    assert select_backend("chunked") == "chunked"


def refusal(inputs, **kwargs) -> str:
    with pytest.raises(ValueError) as error:
        wkv7(*inputs[:6], **kwargs)
    message = str(error.value)
    assert "\n" not in message and len(message) < 200
    return message


def test_unknown_backend_is_refused_with_the_names_of_those_there_are(monkeypatch):
    inputs = wkv7_inputs(1, 3, 1, 16)
    expected = r"'cdua'.*chunked, reference"
    assert re.search(expected, refusal(inputs, backend="cdua"))
    monkeypatch.setenv("RWKV7_BACKEND", "cdua")
    assert re.search(expected, refusal(inputs))


@pytest.mark.parametrize("wrong", range(1, 6))
def test_inputs_of_unequal_shapes_are_refused_by_name(wrong):
    inputs = wkv7_inputs(2, 3, 2, 16)
    inputs[wrong] = inputs[wrong][:, :2]
    message = refusal(inputs)
    assert message.startswith("rwkvab"[wrong]) and "(2, 2, 2, 16)" in message and "(2, 3, 2, 16)" in message


def test_inputs_that_are_no_heads_are_refused():
    assert "(batch, time, heads, head_dim)" in refusal([x.flatten(2) for x in wkv7_inputs(2, 3, 2, 16)])


def test_integer_inputs_are_refused():
    assert "torch.int64" in refusal([x.detach().long() for x in wkv7_inputs(2, 3, 2, 16)])


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (2, 1, 16, 16), (2, 2, 16), (2, 2, 16, 8)])
def test_initial_state_of_a_wrong_shape_is_refused(shape):
    message = refusal(wkv7_inputs(2, 3, 2, 16), initial_state=torch.zeros(shape, dtype=torch.float64))
    assert str(shape) in message and "(2, 2, 16, 16)" in message


def test_initial_state_of_a_wrong_shape_for_packed_sequences_is_refused():
    inputs = wkv7_inputs(1, 3, 2, 16)
    assert "(2, 2, 16, 16)" in refusal(inputs, initial_state=inputs[6], cu_seqlens=torch.tensor([0, 1, 3]))


@pytest.mark.parametrize(
    ("inputs_dtype", "state_dtype", "expected"),
    [
        (torch.float32, torch.bfloat16, "torch.float32"),
        (torch.bfloat16, torch.bfloat16, "torch.float32"),
        (torch.float32, torch.float64, "torch.float32"),
        (torch.float64, torch.float32, "torch.float64"),
    ],
)
def test_initial_state_of_a_wrong_dtype_is_refused(inputs_dtype, state_dtype, expected):
    inputs = wkv7_inputs(1, 3, 1, 16, dtype=inputs_dtype)
    message = refusal(inputs, initial_state=inputs[6].to(state_dtype))
    assert f"is {state_dtype}, expected {expected}" in message


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,), (2, 3, 1)])
def test_mask_of_a_wrong_shape_is_refused(shape):
    message = refusal(wkv7_inputs(2, 3, 1, 16), mask=torch.ones(shape, dtype=torch.bool))
    assert str(shape) in message and "(2, 3)" in message


@pytest.mark.parametrize(
    "wrong",
    [
        [0, 2],  # ends early
        [0, 4],  # ends late
        [1, 3],  # starts late
        [0, 2, 1, 3],  # falls
        [-1, 3],
        [],
        [[0, 3]],
        [0.0, 3.0],
        3,
    ],
)
def test_wrong_boundaries_are_refused(wrong):
    assert "cu_seqlens" in refusal(wkv7_inputs(1, 3, 1, 16), cu_seqlens=torch.tensor(wrong))


def test_boundaries_need_a_batch_of_one():
    assert "batch is 2" in refusal(wkv7_inputs(2, 3, 1, 16), cu_seqlens=torch.tensor([0, 3]))

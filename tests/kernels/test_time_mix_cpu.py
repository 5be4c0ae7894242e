# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A time mix between its matrices, in C++ on the CPU, against plain PyTorch in float64."""

import pytest
import torch
from torch.nn import functional as F

from rwkv7_world.kernels.cpu import fused as fused_cpu
from rwkv7_world.kernels.cpu.time_mix import TimeMixParameters, time_mix


DTYPES = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # and the relative error allowed
SIZES = [  # batch, time, heads, head_dim
    (1, 1, 1, 16),  # fewer heads than threads, and a single token
    (3, 1, 2, 64),
    (1, 21, 1, 64),
    (1, 9, 1, 48),
    (2, 5, 3, 48),
    (2, 17, 2, 256),
    (1, 300, 12, 64),
]
SCALE, EPS = -0.6, 64e-5
NAMES = ("r", "w", "k", "v", "a", "g", "v_gate", "v_first")

reason = fused_cpu.why_not_built()
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no C++ library: {reason}")


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def random_inputs(size, dtype=torch.float32) -> tuple[dict[str, torch.Tensor], TimeMixParameters]:
    batch, time, heads, head_dim = size
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    hidden = heads * head_dim
    inputs = {name: random(batch, time, hidden) for name in NAMES}
    parameters = (random(hidden), random(hidden), random(heads, head_dim), random(hidden), random(hidden))
    return inputs, TimeMixParameters(*parameters, EPS, SCALE)


def random_state(sequences, heads, head_dim):
    return torch.randn(sequences, heads, head_dim, head_dim, generator=torch.Generator().manual_seed(1))


def plain_time_mix(inputs, parameters, state, mask=None):
    """Token by token in float64."""
    r, w, k, v, a, g, v_gate, v_first = (None if x is None else x.double() for x in inputs.values())
    k_k, k_a, r_k, weight, bias = (x.double() for x in parameters[:5])
    heads, head_dim = r_k.shape
    decay, a = torch.exp(SCALE * w.sigmoid()), a.sigmoid()
    v = v if v_gate is None else v + (v_first - v) * v_gate.sigmoid()
    kk = F.normalize((k * k_k).unflatten(-1, (heads, head_dim)), dim=-1)
    k = k * (1 + (a - 1) * k_a)
    r, decay, k, v, a = (x.unflatten(-1, (heads, head_dim)) for x in (r, decay, k, v, a))
    state, ys = state.double(), []
    for t in range(r.shape[1]):
        removed = torch.einsum("bhvk,bhk->bhv", state, -kk[:, t])
        new = state * decay[:, t, :, None]
        new = new + removed[..., None] * (kk * a)[:, t, :, None] + v[:, t, ..., None] * k[:, t, :, None]
        live = torch.ones(len(r), dtype=torch.bool) if mask is None else mask[:, t]
        state = torch.where(live[:, None, None, None], new, state)
        y = torch.einsum("bhvk,bhk->bhv", state, r[:, t]) * live[:, None, None]
        ys.append(F.group_norm(y.flatten(1), heads, weight, bias, EPS).view_as(y))
    bonus = (r * k * r_k).sum(-1, keepdim=True) * v
    return (torch.stack(ys, dim=1) + bonus).flatten(2) * g, state


def assert_near(actual, expected, tolerance):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_equals_plain_pytorch(size, dtype, threads):
    inputs, parameters = random_inputs(size, dtype)
    inputs["w"][..., 0], inputs["w"][..., 1] = torch.inf, -torch.inf
    state = random_state(size[0], *size[2:])
    expected, expected_state = plain_time_mix(inputs, parameters, state)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, final_state = time_mix(**inputs, parameters=parameters, initial_state=state)
    finally:
        torch.set_num_threads(before)
    assert out.dtype == dtype and final_state.dtype == torch.float32
    assert_near(out, expected, DTYPES[dtype])
    assert_near(final_state, expected_state, 2e-6)


@pytest.mark.parametrize("size", [(1, 300, 12, 64), (1, 40, 1, 64)], ids=str)
def test_starts_from_zeros_and_the_first_layer_keeps_its_values(size):
    inputs, parameters = random_inputs(size)
    inputs["v_gate"] = None
    zeros = torch.zeros_like(random_state(size[0], *size[2:]))
    for actual, expected in zip(
        time_mix(**inputs, parameters=parameters), plain_time_mix(inputs, parameters, zeros), strict=True
    ):
        assert_near(actual, expected, 2e-6)


@pytest.mark.parametrize("size", [(3, 11, 4, 16), (3, 11, 1, 64), (3, 1, 2, 16)], ids=str)
@pytest.mark.parametrize("threads", [1, 4])
def test_masked_tokens_leave_the_state_as_it_was(size, threads):
    inputs, parameters = random_inputs(size)
    mask = torch.rand(size[:2], generator=torch.Generator().manual_seed(2)) < 0.6
    mask[0] = False
    inputs["k"][~mask] = torch.nan
    state = random_state(size[0], *size[2:])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        out, final_state = time_mix(**inputs, parameters=parameters, initial_state=state, mask=mask)
    finally:
        torch.set_num_threads(before)
    inputs["k"] = inputs["k"].nan_to_num()
    expected, expected_state = plain_time_mix(inputs, parameters, state, mask)
    assert_near(out[mask], expected[mask], 2e-6)
    assert_near(final_state, expected_state, 2e-6)
    assert torch.equal(final_state[0], state[0])


def test_packed_sequences_are_those_alone():
    inputs, parameters = random_inputs((1, 20, 3, 16))
    boundaries, states = torch.tensor([0, 7, 7, 8, 20]), random_state(4, 3, 16)
    out, final_states = time_mix(**inputs, parameters=parameters, initial_state=states, cu_seqlens=boundaries)
    for row, (begin, end) in enumerate(zip(boundaries[:-1], boundaries[1:], strict=True)):
        if begin == end:
            assert torch.equal(final_states[row], states[row])
            continue
        alone = {name: x[:, begin:end] for name, x in inputs.items()}
        expected, expected_state = plain_time_mix(alone, parameters, states[row, None])
        assert_near(out[:, begin:end], expected, 2e-6)
        assert_near(final_states[row, None], expected_state, 2e-6)


def test_inputs_need_not_be_contiguous():
    inputs, parameters = random_inputs((2, 6, 2, 16))
    expected, _ = time_mix(**inputs, parameters=parameters)
    strided = {name: x.transpose(0, 1).contiguous().transpose(0, 1) for name, x in inputs.items()}
    assert torch.equal(time_mix(**strided, parameters=parameters)[0], expected)


def test_every_input_may_have_its_own_dtype():
    inputs, parameters = random_inputs((1, 12, 2, 16))
    state = random_state(1, 2, 16)
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
    mixed = {name: x.to(dtypes[index % len(dtypes)]) for index, (name, x) in enumerate(inputs.items())}
    expected, expected_state = plain_time_mix(mixed, parameters, state)
    out, final_state = time_mix(**mixed, parameters=parameters, initial_state=state)
    assert_near(out, expected, 2e-6)
    assert_near(final_state, expected_state, 2e-6)


def test_not_a_number_stays_in_its_row_and_head():
    inputs, parameters = random_inputs((2, 3, 2, 16))
    inputs["k"][0, 1, 21] = torch.nan
    out, _ = time_mix(**inputs, parameters=parameters)
    expected = torch.zeros(2, 3, 32, dtype=torch.bool)
    expected[0, 1:, 16:] = True
    assert torch.equal(out.isnan(), expected)


def test_a_key_of_zeros_has_no_direction():
    inputs, parameters = random_inputs((1, 4, 2, 16))
    inputs["k"].zero_()
    state = random_state(1, 2, 16)
    expected, expected_state = plain_time_mix(inputs, parameters, state)
    out, final_state = time_mix(**inputs, parameters=parameters, initial_state=state)
    assert_near(out, expected, 2e-6)
    assert_near(final_state, expected_state, 2e-6)

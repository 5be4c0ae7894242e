# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the recurrence, in C++ on the CPU, against plain PyTorch in float64."""

import pytest
import torch
from torch.nn import functional as F

from helpers.text_models import random_ids, tiny_model
from rwkv7_world.kernels import fused_cpu


DTYPES = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # and the relative error allowed
SIZES = [(1, 1, 1, 16), (2, 5, 3, 48), (3, 33, 2, 64), (1, 0, 2, 16), (1, 300, 12, 64)]  # batch, time, heads, head_dim

pytestmark = pytest.mark.skipif(fused_cpu.why_not_built() is not None, reason=str(fused_cpu.why_not_built()))


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=SIZES, ids=str)
def size(request):
    return request.param


def random(*shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_near(actual, expected, dtype):
    assert actual.dtype == dtype and actual.shape == expected.shape
    scale = expected.abs().max() if expected.numel() else 1.0
    torch.testing.assert_close(actual.double(), expected, rtol=DTYPES[dtype], atol=DTYPES[dtype] * float(scale))


@pytest.mark.parametrize("shifts", [False, True])
def test_mixes(size, dtype, shifts):
    batch, time, heads, head_dim = size
    x, previous = (random(batch, time, heads * head_dim, dtype=dtype, seed=seed) for seed in (0, 1))
    mix = random(1, 1, heads * head_dim, dtype=dtype, seed=2)
    before = random(batch, heads * head_dim, dtype=dtype, seed=3)
    mixed = fused_cpu.mix_tokens(x, before if shifts else previous, mix)
    x, mix = x.double(), mix.double()
    previous = torch.cat([before[:, None], x], dim=1)[:, :time] if shifts else previous.double()
    assert_near(mixed, x + (previous - x) * mix, dtype)


@pytest.mark.parametrize("mixed", [True, False])
def test_gates(size, dtype, mixed):
    batch, time, heads, head_dim = size
    w, a, v, v_gate, v_first = (random(batch, time, heads * head_dim, dtype=dtype, seed=seed) for seed in range(5))
    w[..., 0], w[..., 1] = torch.inf, -torch.inf
    gate = v_gate if mixed else None
    log_decay, rate, value = fused_cpu.activate_gates(w, a, v, gate, v_first, -0.5)
    assert_near(log_decay, -0.5 * w.double().sigmoid(), torch.float32)
    assert_near(rate, a.double().sigmoid(), dtype)
    v, v_gate, v_first = (x.double() for x in (v, v_gate, v_first))
    assert_near(value, torch.lerp(v, v_first, v_gate.sigmoid()) if mixed else v, dtype)


def test_keys(size, dtype):
    batch, time, heads, head_dim = size
    k, a = (random(batch, time, heads * head_dim, dtype=dtype, seed=seed) for seed in (0, 1))
    k_k, k_a = (random(heads * head_dim, dtype=dtype, seed=seed) for seed in (2, 3))
    key, removal, replacement = fused_cpu.prepare_keys(k, a, k_k, k_a, head_dim)
    k, a, k_k, k_a = (x.double() for x in (k, a, k_k, k_a))
    kk = F.normalize((k * k_k).unflatten(-1, (heads, head_dim)), dim=-1).flatten(-2)
    assert_near(key, k * (1 + (a - 1) * k_a), dtype)
    assert_near(removal, -kk, dtype)
    assert_near(replacement, kk * a, dtype)


def test_gated_output(size, dtype):
    batch, time, heads, head_dim = size
    y, r, k, v = (random(*size, dtype=dtype, seed=seed) for seed in range(4))
    g = random(batch, time, heads * head_dim, dtype=dtype, seed=4)
    r_k, weight, bias = (random(heads * head_dim, dtype=dtype, seed=seed) for seed in (5, 6, 7))
    out = fused_cpu.gated_output(y, r, k, v, g, r_k.view(heads, head_dim), weight, bias, 64e-5)
    y, r, k, v, g, r_k, weight, bias = (x.double() for x in (y, r, k, v, g, r_k, weight, bias))
    normed = F.group_norm(y.flatten(0, 1).flatten(1), heads, weight, bias, 64e-5).view_as(g) if time else g
    bonus = (r * k * r_k.view(heads, head_dim)).sum(-1, keepdim=True) * v
    assert_near(out, (normed + bonus.flatten(2)) * g, dtype)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2047), (2, 5, 4096)])
def test_squared_relu(shape, dtype):
    x = random(*shape, dtype=dtype)
    assert_near(fused_cpu.squared_relu(x), x.double().relu().square(), dtype)


def test_inputs_need_not_be_contiguous():
    x, previous = (random(2, 32, 7, dtype=torch.float32, seed=seed).transpose(1, 2) for seed in (0, 1))
    mix = random(64, dtype=torch.float32)[::2]
    torch.testing.assert_close(fused_cpu.mix_tokens(x, previous, mix), x + (previous - x) * mix)


def test_not_a_number_stays_in_its_row_and_head():
    tensors = [random(2, 3, 2, 16, dtype=torch.float32, seed=seed) for seed in range(4)]
    tensors[0][0, 1, 1, 5] = torch.nan
    flat = [x.flatten(2) for x in tensors]
    ones = torch.ones(32)
    out = fused_cpu.gated_output(*tensors, flat[1], ones.view(2, 16), ones, ones, 1e-5)
    keys = fused_cpu.prepare_keys(flat[0], flat[1], ones, ones, 16)
    expected = torch.zeros(2, 3, 2, 16, dtype=torch.bool)
    expected[0, 1, 1] = True
    assert torch.equal(out.isnan(), expected.flatten(2)) and torch.equal(keys[1].isnan(), expected.flatten(2))
    assert fused_cpu.squared_relu(tensors[0]).isnan().sum() == 1


def test_a_key_of_zeros_has_no_direction():
    zeros, ones = torch.zeros(1, 1, 16), torch.ones(16)
    assert not any(x.any() for x in fused_cpu.prepare_keys(zeros, ones.view(1, 1, 16), ones, ones, 16))


class TestInTheModel:
    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def watch(name, function):
            def watched(*args):
                calls.append(name)
                return function(*args)

            monkeypatch.setattr(fused_cpu, name, watched)

        for name in ("mix_tokens", "activate_gates", "prepare_keys", "gated_output", "squared_relu"):
            watch(name, getattr(fused_cpu, name))
        return calls

    def test_inference_uses_all_of_them_and_training_none(self, calls):
        model, ids = tiny_model(num_hidden_layers=1), random_ids(2, 5)
        trained = model(ids).logits
        assert calls == []
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, trained, rtol=1e-4, atol=1e-5)
        mixes = ["mix_tokens"] * 6
        assert calls == [*mixes, "activate_gates", "prepare_keys", "gated_output", "mix_tokens", "squared_relu"]

    @torch.no_grad()
    def test_a_watched_norm_runs_as_a_module(self, calls):
        model, seen = tiny_model(num_hidden_layers=1), []
        model.model.layers[0].attn.g_norm.register_forward_hook(lambda *_: seen.append(True))
        model(random_ids(1, 4))
        assert seen == [True] and "gated_output" not in calls

    @torch.no_grad()
    def test_float64_takes_the_plain_way(self, calls):
        tiny_model(dtype=torch.float64)(random_ids(1, 4))
        assert calls == []

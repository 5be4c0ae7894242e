# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What surrounds the matrices of a layer, in C++ on the CPU, against plain PyTorch in float64."""

import pytest
import torch

from helpers.text_models import random_ids, tiny_model
from rwkv7_world.kernels.cpu import fused as fused_cpu
from rwkv7_world.kernels.cpu import time_mix as time_mix_cpu


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


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2047), (2, 5, 4096)])
def test_squared_relu(shape, dtype):
    x = random(*shape, dtype=dtype)
    assert_near(fused_cpu.squared_relu(x), x.double().relu().square(), dtype)


def test_inputs_need_not_be_contiguous():
    x, previous = (random(2, 32, 7, dtype=torch.float32, seed=seed).transpose(1, 2) for seed in (0, 1))
    mix = random(64, dtype=torch.float32)[::2]
    torch.testing.assert_close(fused_cpu.mix_tokens(x, previous, mix), x + (previous - x) * mix)


def test_squared_relu_keeps_what_is_not_a_number():
    assert fused_cpu.squared_relu(torch.tensor([1.0, torch.nan, -1.0])).isnan().tolist() == [False, True, False]


class TestInTheModel:
    """Where the layers run one by one, as they do with padding."""

    MASK = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def watch(module, name):
            function = getattr(module, name)

            def watched(*args, **kwargs):
                calls.append(name)
                return function(*args, **kwargs)

            monkeypatch.setattr(module, name, watched)

        for module, name in ((fused_cpu, "mix_tokens"), (time_mix_cpu, "time_mix"), (fused_cpu, "squared_relu")):
            watch(module, name)
        return calls

    def test_inference_uses_all_of_them_and_training_none(self, calls):
        model, ids = tiny_model(num_hidden_layers=1), random_ids(2, 5)
        trained = model(ids, attention_mask=self.MASK).logits
        assert calls == []
        with torch.no_grad():
            inferred = model(ids, attention_mask=self.MASK).logits
        real = self.MASK.bool()
        torch.testing.assert_close(inferred[real], trained[real], rtol=1e-4, atol=1e-5)
        assert calls == [*["mix_tokens"] * 6, "time_mix", "mix_tokens", "squared_relu"]

    @torch.no_grad()
    def test_a_watched_norm_runs_as_a_module(self, calls):
        model, seen = tiny_model(num_hidden_layers=1), []
        model.model.layers[0].attn.g_norm.register_forward_hook(lambda *_: seen.append(True))
        model(random_ids(2, 5))
        assert seen == [True] and "mix_tokens" in calls and "time_mix" not in calls

    @torch.no_grad()
    def test_a_norm_of_another_dtype_runs_as_a_module(self, calls):
        model = tiny_model(num_hidden_layers=1)
        expected = model(random_ids(2, 5)).logits
        model.model.layers[0].attn.g_norm.double()
        with pytest.raises(RuntimeError, match="dtype|type"):  # torch's own norm refuses it too
            model(random_ids(2, 5))
        model.model.layers[0].attn.g_norm.float()
        assert torch.equal(model(random_ids(2, 5)).logits, expected)

    @torch.no_grad()
    def test_another_backend_of_the_recurrence_is_respected(self, calls, monkeypatch):
        model, ids = tiny_model(num_hidden_layers=1), random_ids(2, 5)
        expected = model(ids).logits
        monkeypatch.setenv("RWKV7_BACKEND", "reference")
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)
        assert "mix_tokens" in calls and "time_mix" not in calls

    @torch.no_grad()
    def test_float64_takes_the_plain_way(self, calls):
        tiny_model(dtype=torch.float64)(random_ids(1, 4))
        assert calls == []

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The fused operators of a layer against the same in plain PyTorch, and the model that runs on them.

All of it runs where there is a GPU, and in Triton's interpreter (`test_triton_interpreter.py`).
"""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.wkv7_inputs import largest_difference
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
from rwkv7_world.kernels.triton import fused as fused_triton
from rwkv7_world.kernels.triton import wkv7 as wkv7_triton


TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}

reason = wkv7_triton.why_not_here()
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no Triton: {reason}")
DEVICE = "cpu" if wkv7_triton.is_interpreted() or not torch.cuda.is_available() else "cuda"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs_and_gradients(function, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    loss = sum((normal(*x.shape, seed=n).to(x.device) * x).sum() for n, x in enumerate(outputs))
    return [*outputs, *torch.autograd.grad(loss, inputs)]


def assert_same(fused, plain, inputs, dtype):
    """`fused` in a dtype against `plain` in float64 on the same numbers, outputs and all gradients."""
    inputs = [x.to(dtype) for x in inputs]
    actual = outputs_and_gradients(fused, [x.to(DEVICE) for x in inputs])
    expected = outputs_and_gradients(plain, [x.double() for x in inputs])
    assert len(actual) == len(expected)
    for number, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        assert found.dtype == dtype and found.shape == wanted.shape
        difference = largest_difference(found.cpu(), wanted)
        assert difference <= TOLERANCES[dtype], f"result {number} differs by {difference:.2g} of its largest number"


dtypes = pytest.mark.parametrize("dtype", TOLERANCES)


def plain_mix(x, previous, *mixes):
    return [torch.addcmul(x, previous - x, mix) for mix in mixes]


@dtypes
@pytest.mark.parametrize("shape", [(2, 11, 48), (1, 1, 16), (1, 3, 144)])
@pytest.mark.parametrize("count", [1, 6])
def test_tokens_are_mixed_as_in_plain_pytorch(dtype, shape, count):
    mixes = [normal(1, 1, shape[-1], seed=n) for n in range(count)]
    assert_same(fused_triton.mix_tokens, plain_mix, [normal(*shape, seed=10), normal(*shape, seed=11), *mixes], dtype)


def plain_keys(k, a, k_k, k_a, head_dim):
    kk = F.normalize((k * k_k).unflatten(-1, (-1, head_dim)), dim=-1).flatten(2)
    return k * (1 + (a - 1) * k_a), -kk, kk * a


@dtypes
@pytest.mark.parametrize(("time", "head_dim"), [(1, 16), (7, 48), (70, 64)])
def test_keys_are_prepared_as_in_plain_pytorch(dtype, time, head_dim):
    shape = (2, time, 2 * head_dim)
    inputs = [normal(*shape), normal(*shape, seed=1).sigmoid(), normal(shape[-1], seed=2), normal(shape[-1], seed=3)]
    fused, plain = (lambda *i, f=f: f(*i, head_dim) for f in (fused_triton.prepare_keys, plain_keys))
    assert_same(fused, plain, inputs, dtype)


def test_a_key_of_zero_has_no_direction_and_finite_gradients():
    inputs = [torch.zeros(1, 2, 16), torch.full((1, 2, 16), 0.5), torch.ones(16), torch.ones(16)]
    results = outputs_and_gradients(lambda *i: fused_triton.prepare_keys(*i, 16)[0], [x.to(DEVICE) for x in inputs])
    assert all(x.isfinite().all() for x in results)
    _, removal, replacement = fused_triton.prepare_keys(*(x.to(DEVICE) for x in inputs), 16)
    assert (removal == 0).all() and (replacement == 0).all()


def plain_output(y, r, k, v, g, r_k, weight, bias):
    heads, head_dim = y.shape[2:]
    normalized = F.group_norm(y.flatten(0, 1).flatten(1), heads, weight, bias, eps=1e-3).view_as(g)
    return (normalized + ((r * k * r_k).sum(dim=-1, keepdim=True) * v).flatten(2)) * g


@dtypes
@pytest.mark.parametrize(("time", "head_dim"), [(1, 16), (7, 48), (70, 64)])
def test_outputs_are_normalized_and_gated_as_in_plain_pytorch(dtype, time, head_dim):
    heads = [normal(2, time, 2, head_dim, seed=n) for n in range(4)]
    parameters = [normal(2, head_dim, seed=5), normal(2 * head_dim, seed=6), normal(2 * head_dim, seed=7)]
    inputs = [*heads, normal(2, time, 2 * head_dim, seed=4), *parameters]
    assert_same(lambda *i: fused_triton.gated_output(*i, 1e-3), plain_output, inputs, dtype)


@dtypes
@pytest.mark.parametrize("shape", [(2, 11, 48), (1, 1, 2000), (0, 3)])
def test_relu_is_squared_as_in_plain_pytorch(dtype, shape):
    assert_same(fused_triton.squared_relu, lambda x: torch.relu(x).square(), [normal(*shape)], dtype)


def test_relu_squared_keeps_nan():
    x = torch.tensor([math.nan, -1.0, 2.0], device=DEVICE)
    assert fused_triton.squared_relu(x)[0].isnan()


def test_results_are_the_same_every_time_and_for_any_strides():
    heads = [normal(2, 70, 2, 16, seed=n).float() for n in range(4)]
    inputs = [*heads, normal(2, 70, 32).float(), *(normal(32, seed=n).float() for n in (1, 2, 3))]
    inputs[5] = inputs[5].view(2, 16)
    inputs = [x.to(DEVICE) for x in inputs]
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x for x in inputs]
    results = [
        outputs_and_gradients(lambda *i: fused_triton.gated_output(*i, 1e-3), x) for x in (inputs, inputs, strided)
    ]
    for first, again, other in zip(*results, strict=True):
        assert torch.equal(first, again) and torch.equal(first, other)


def test_operators_pass_the_checks_of_torch():
    x = torch.randn(2, 3, 32, device=DEVICE, requires_grad=True)
    channels = torch.randn(32, device=DEVICE, requires_grad=True)
    heads = torch.randn(2, 3, 2, 16, device=DEVICE, requires_grad=True)
    r_k = torch.randn(2, 16, device=DEVICE, requires_grad=True)
    for operator, arguments in (
        (fused_triton._mix, (x, x.detach().requires_grad_(), torch.randn(6, 32, device=DEVICE, requires_grad=True))),
        (fused_triton._prepare_keys, (x, x, channels, channels, 16)),
        (fused_triton._gated_output, (heads, heads, heads, heads, x, r_k, channels, channels, 1e-3)),
        (fused_triton._squared_relu, (x,)),
    ):
        names = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator, arguments, test_utils=names)


def small_model():
    config = RWKV7Config(
        vocab_size=20, hidden_size=32, num_hidden_layers=2, head_dim=16, intermediate_size=64, use_cache=False
    )
    torch.manual_seed(0)
    model = RWKV7ForCausalLM(config)
    for parameter in model.parameters():  # the official initialisation has many zeros
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(DEVICE)


def loss_and_gradients(model, **inputs):
    loss = model(**inputs).loss
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("time", [5, 20])
def test_the_model_on_fused_operators_equals_the_model_in_plain_pytorch(time, monkeypatch):
    model = small_model()
    ids = torch.randint(20, (2, time), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    monkeypatch.setenv("RWKV7_BACKEND", "triton")
    assert fused_triton.is_fused(model.model.embeddings(ids), 16)
    fused = loss_and_gradients(model, **inputs)
    monkeypatch.setenv("RWKV7_BACKEND", "reference")
    assert not fused_triton.is_fused(model.model.embeddings(ids), 16)
    plain = loss_and_gradients(model.double(), **inputs)
    for found, wanted in zip(fused, plain, strict=True):
        assert largest_difference(found.cpu(), wanted.cpu()) < 1e-4

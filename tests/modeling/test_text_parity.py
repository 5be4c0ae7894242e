# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`RWKV7ForCausalLM` against BlinkDL's own `rwkv` package on the same random weights, through both backends."""

from typing import NamedTuple

import pytest
import torch

from helpers.blinkdl import (
    Sizes,
    config_of,
    fla_state_dict,
    greedy_in_rwkv_package,
    load_in_rwkv_package,
    random_checkpoint,
)
from rwkv7_world import RWKV7Cache, RWKV7ForCausalLM


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in

PROMPT_TOKENS, NEW_TOKENS = 200, 50
TOLERANCE = 1e-4  # absolute, on float32 logits of order 1 to 10

SHAPES = {
    "one-layer": Sizes(layers=1, hidden=64, vocab=70, decay_rank=3, a_rank=5, v_rank=7, gate_rank=9, ffn=96, seed=1),
    "deep": Sizes(layers=4, hidden=128, vocab=90, decay_rank=24, a_rank=40, v_rank=8, gate_rank=56, ffn=512, seed=1),
    "wide": Sizes(
        layers=2,
        hidden=256,
        vocab=300,
        decay_rank=72,
        a_rank=16,
        v_rank=33,
        gate_rank=300,
        ffn=640,
        layer_0_has_v=True,
        seed=1,
    ),
}


class Answer(NamedTuple):
    """What the `rwkv` package says to a prompt, and our model with the same weights."""

    model: RWKV7ForCausalLM
    prompt: torch.Tensor
    logits: torch.Tensor
    state: list[torch.Tensor]
    continuation: list[int]


@pytest.fixture(scope="module", params=SHAPES)
def answer(request, tmp_path_factory) -> Answer:
    sizes = SHAPES[request.param]
    checkpoint = random_checkpoint(sizes)
    model = RWKV7ForCausalLM(config_of(checkpoint)).eval()
    model.load_state_dict(fla_state_dict(checkpoint), strict=True)

    path = tmp_path_factory.mktemp("blinkdl") / "checkpoint.pth"
    torch.save(checkpoint, path)
    package = load_in_rwkv_package(path)
    prompt = torch.randint(sizes.vocab, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(sizes.seed))
    logits, state = package.forward(prompt[0].tolist(), None, full_output=True)
    after_prompt = [tensor.clone() for tensor in state]
    continuation = greedy_in_rwkv_package(package, logits[-1], state, NEW_TOKENS)
    return Answer(model, prompt, logits, after_prompt, continuation)


@pytest.fixture(params=["reference", "chunked"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("RWKV7_BACKEND", request.param)


@torch.no_grad()
def test_logits_equal_those_of_the_rwkv_package_at_every_position(answer):
    logits = answer.model(answer.prompt).logits[0]
    assert logits.shape == answer.logits.shape == (PROMPT_TOKENS, answer.model.config.vocab_size)
    assert 1 < answer.logits.abs().max() < 20
    torch.testing.assert_close(logits, answer.logits, atol=TOLERANCE, rtol=0)


def test_greedy_continuation_equals_that_of_the_rwkv_package(answer):
    every_token_is_real = torch.ones_like(answer.prompt)  # else `generate` takes the id 0 for padding
    generated = answer.model.generate(
        answer.prompt, attention_mask=every_token_is_real, max_new_tokens=NEW_TOKENS, do_sample=False
    )
    assert generated[0, PROMPT_TOKENS:].tolist() == answer.continuation
    assert len(set(answer.continuation)) > 10, "the continuation repeats itself and shows little"


@torch.no_grad()
def test_final_state_equals_that_of_the_rwkv_package(answer):
    cache = RWKV7Cache(answer.model.config)
    answer.model(answer.prompt, past_key_values=cache)
    for layer in range(answer.model.config.num_hidden_layers):
        time_mix, wkv, channel_mix = answer.state[3 * layer : 3 * layer + 3]
        torch.testing.assert_close(cache.get_conv_state(layer, 0)[0, :, 0], time_mix, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(cache.get_recurrent_state(layer)[0], wkv, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(cache.get_conv_state(layer, 1)[0, :, 0], channel_mix, atol=TOLERANCE, rtol=0)

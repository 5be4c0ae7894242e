# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7a against its equations in float64, however its tokens come."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from helpers.blinkdl import Sizes
from helpers.deep_embed import DeepSizes, deep_checkpoint, greedy, read_all
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM


SHAPES = {
    "7a small": DeepSizes(Sizes(layers=2, hidden=64, vocab=50, ffn=96, seed=1), side=5),
    "7a deep": DeepSizes(Sizes(layers=4, hidden=64, vocab=70, ffn=224, seed=2), side=8, row_vectors=True),
    "7b small": DeepSizes(Sizes(layers=2, hidden=64, vocab=50, ffn=96, seed=4), side=5, attn_dim=20),
    "7b deep": DeepSizes(
        Sizes(layers=3, hidden=64, vocab=70, ffn=224, seed=5), side=8, attn_dim=36, attn_rank=7, row_vectors=True
    ),
    "7b wide": DeepSizes(Sizes(layers=1, hidden=192, vocab=90, ffn=448, seed=6), side=32, attn_dim=256, attn_rank=32),
    "7a wide": DeepSizes(Sizes(layers=1, hidden=192, vocab=90, ffn=448, seed=3), side=32),
}
PROMPT, NEW_TOKENS = [5, 6, 7, 5, 9, 40, 6], 50


def load(sizes: DeepSizes, folder, dtype=torch.float64) -> RWKV7ForCausalLM:
    torch.save(deep_checkpoint(sizes), folder / "model.pth")
    return RWKV7ForCausalLM.from_pretrained(folder / "model.pth", dtype=dtype, eos_token_id=None).eval()


@pytest.fixture(scope="module", params=SHAPES)
def sizes(request) -> DeepSizes:
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def model(sizes, tmp_path_factory) -> RWKV7ForCausalLM:
    return load(sizes, tmp_path_factory.mktemp("model"))


class TestEquations:
    @torch.no_grad()
    def test_logits_are_those_of_the_loop(self, model, sizes):
        logits = model(torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(logits, read_all(deep_checkpoint(sizes), PROMPT), atol=1e-11, rtol=0)

    @torch.no_grad()
    def test_greedy_tokens_are_those_of_the_loop(self, model, sizes):
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        found = model.generate(torch.tensor([PROMPT]), **options)[0, len(PROMPT) :].tolist()
        assert found == greedy(deep_checkpoint(sizes), PROMPT, NEW_TOKENS)

    @torch.no_grad()
    def test_float32_is_as_near_as_that_of_plain_rwkv7(self, sizes, tmp_path):
        logits = load(sizes, tmp_path, torch.float32)(torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(logits.double(), read_all(deep_checkpoint(sizes), PROMPT), atol=1e-4, rtol=0)


class TestTokenIds:
    def test_embeddings_need_the_tokens_that_stand_there(self, model):
        ids = torch.tensor([PROMPT])
        embeds = model.get_input_embeddings()(ids)
        with pytest.raises(ValueError, match="inputs_embeds alone are not enough: .* or also token_ids"):
            model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match=r"token_ids have the shape \(1, 3\), expected \(1, 7\)"):
            model(inputs_embeds=embeds, token_ids=ids[:, :3])
        with torch.no_grad():
            assert torch.equal(model(inputs_embeds=embeds, token_ids=ids).logits, model(ids).logits)


def test_bad_sizes_are_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="deep_embed_dim=0 must be positive"):
        RWKV7Config(deep_embed_dim=0)

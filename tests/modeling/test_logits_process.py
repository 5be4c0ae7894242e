# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The fading penalties against the `rwkv` package's own sampler, and top-a against its definition."""

import pytest
import torch

from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKVPenaltyLogitsProcessor, RWKVWorldTokenizer, TopALogitsProcessor


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in


class RandomTalker:
    """Takes the place of the package's model: logits that depend on nothing but the token before."""

    # " ", a digit, a digit more, two digits, " the", " fox", line break: small differences, so that penalties decide
    FAVOURITES = torch.tensor([33, 49, 50, 255, 4811, 31231, 11])

    def logits(self, token: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(token)
        logits = torch.full((65536,), -10.0)
        logits[self.FAVOURITES] = torch.rand(len(self.FAVOURITES), generator=generator)
        return logits

    def forward(self, tokens: list[int], state: None):
        return self.logits(tokens[-1]), state


@pytest.fixture(scope="module")
def package():
    """The `rwkv` package's module of samplers."""
    return pytest.importorskip("rwkv.utils")


@pytest.fixture(scope="module")
def pipeline(package):
    return package.PIPELINE(RandomTalker(), "rwkv_vocab_v20230424")


@pytest.fixture(scope="module")
def uncounted() -> list[int]:
    return RWKVPenaltyLogitsProcessor.uncounted_tokens(RWKVWorldTokenizer())


@pytest.mark.parametrize(
    ("presence", "frequency", "decay"), [(0.2, 0.2, 0.996), (0.0, 0.5, 0.9), (0.3, 0.0, 0.5), (0.1, 0.2, 1.0)]
)
def test_greedy_tokens_are_those_of_the_package(package, pipeline, uncounted, monkeypatch, presence, frequency, decay):
    expected, choose = [], pipeline.sample_logits
    monkeypatch.setattr(pipeline, "sample_logits", lambda *a, **k: expected.append(choose(*a, **k)) or expected[-1])
    penalties = {"alpha_presence": presence, "alpha_frequency": frequency, "alpha_decay": decay}
    pipeline.generate("fox", token_count=60, args=package.PIPELINE_ARGS(temperature=0, **penalties))

    ids = torch.tensor([pipeline.encode("fox")])
    penalise = RWKVPenaltyLogitsProcessor(presence, frequency, decay, ids.shape[1], uncounted)
    prompt_length = ids.shape[1]
    for _ in range(60):
        scores = penalise(ids, pipeline.model.logits(int(ids[0, -1]))[None])
        ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
    assert ids[0, prompt_length:].tolist() == expected
    assert len(set(expected)) >= 3


def test_uncounted_tokens_are_those_that_the_package_does_not_count(pipeline, uncounted):
    tokens = {token: text.decode(errors="replace") for token, text in pipeline.tokenizer.idx2token.items()}
    assert uncounted == sorted(token for token, text in tokens.items() if text in " \t0123456789")
    assert len(uncounted) > 12


def test_counts_fade_from_token_to_token():
    penalise = RWKVPenaltyLogitsProcessor(presence=1.0, frequency=2.0, decay=0.5, prompt_length=1)
    scores = penalise(torch.tensor([[9, 3, 5, 3]]), torch.zeros(1, 10))
    expected = torch.zeros(1, 10)
    expected[0, 3] = -1 - 2 * (1 + 0.25)
    expected[0, 5] = -1 - 2 * 0.5
    torch.testing.assert_close(scores, expected)


def test_rows_are_penalised_each_for_its_own_and_nothing_before_the_first_token():
    penalise = RWKVPenaltyLogitsProcessor(prompt_length=2)
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]])
    scores = penalise(ids, torch.zeros(2, 6))
    assert scores[0].nonzero().tolist() == [[3]] and scores[1].nonzero().tolist() == [[4]]
    assert not penalise(ids[:, :2], torch.zeros(2, 6)).any()


@pytest.mark.parametrize("top_a", [0.0, 0.02, 0.2, 1.0])
def test_top_a_keeps_what_its_definition_keeps(top_a):
    scores = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    kept = TopALogitsProcessor(top_a)(torch.zeros(4, 1, dtype=torch.long), scores)
    for row, probabilities in enumerate(scores.softmax(dim=-1).tolist()):
        largest = max(probabilities)
        for token, probability in enumerate(probabilities):
            expected = scores[row, token] if probability >= top_a * largest**2 else -torch.inf
            assert kept[row, token] == expected
    assert (kept.argmax(dim=-1) == scores.argmax(dim=-1)).all()


def test_generate_takes_both():
    model, ids = tiny_model(seed=1), random_ids(2, 9)
    processors = [RWKVPenaltyLogitsProcessor(presence=50.0, prompt_length=9), TopALogitsProcessor(0.2)]
    torch.manual_seed(0)
    answers = model.generate(ids, do_sample=True, max_new_tokens=20, logits_processor=processors)[:, 9:]
    assert all(len(set(answer.tolist())) == 20 for answer in answers), "nothing is said twice at such a penalty"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RWKVPenaltyLogitsProcessor(decay=1.1), "decay is 1.1, expected 0 to 1"),
        (lambda: RWKVPenaltyLogitsProcessor(prompt_length=-1), "prompt_length is -1, expected at least 0"),
        (lambda: TopALogitsProcessor(1.5), "top_a is 1.5, expected 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

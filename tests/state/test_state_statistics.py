# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""States as embeddings: what `encode_state` returns, and its z-scores."""

import pytest
import torch
from safetensors.torch import load_file, save

from helpers.text_models import random_ids, tiny_model
from rwkv7_world.state.statistics import StateStatistics


@pytest.fixture(scope="module")
def model():
    return tiny_model().model


@torch.no_grad()
def test_the_encoding_is_what_the_cache_holds(model):
    ids = random_ids(3, 7)
    states, cache = model.encode_state(ids), model(ids, use_cache=True).past_key_values
    for layer in range(2):
        assert torch.equal(states.time_mix[:, layer], cache.get_conv_state(layer, 0).squeeze(-1))
        assert torch.equal(states.channel_mix[:, layer], cache.get_conv_state(layer, 1).squeeze(-1))
        assert torch.equal(states.recurrent[:, layer], cache.get_recurrent_state(layer))


@torch.no_grad()
def test_padding_does_not_change_the_encoding(model):
    ids = random_ids(1, 5)
    padded = torch.nn.functional.pad(ids, (2, 3))
    mask = torch.tensor([[0] * 2 + [1] * 5 + [0] * 3])
    for alone, beside in zip(model.encode_state(ids), model.encode_state(padded, attention_mask=mask), strict=True):
        torch.testing.assert_close(alone, beside)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(20,), (3, 1, 16), (1, 19)])
def test_statistics_do_not_depend_on_the_batches(model, sizes, tmp_path):
    states, statistics, first = model.encode_state(random_ids(20, 6)), StateStatistics(), 0
    for size in sizes:
        statistics.update(type(states)(*(tensor[first : first + size] for tensor in states)))
        first += size
    statistics.save(tmp_path / "statistics.safetensors")
    features = StateStatistics.load(tmp_path / "statistics.safetensors").normalize(states)
    assert features.shape == (20, sum(tensor[0].numel() for tensor in states))
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(features.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(dim=0), torch.ones(features.shape[1]), atol=1e-2, rtol=0)


@torch.no_grad()
def test_a_linear_classifier_reads_the_first_token_off_the_state(model):
    ids = random_ids(1200, 4, seed=5)
    labels, statistics = (ids[:, 0] % 2).double() * 2 - 1, StateStatistics()
    states = model.encode_state(ids)
    statistics.update(states)
    features = statistics.normalize(states, parts=("recurrent",)).double()
    train, test = slice(1000), slice(1000, 1200)
    kernel = features[train] @ features[train].T + 10 * torch.eye(1000, dtype=torch.float64)
    weights = features[train].T @ torch.linalg.solve(kernel, labels[train])
    assert ((features[test] @ weights).sign() == labels[test]).double().mean() > 0.8


@torch.no_grad()
def test_misuse_is_refused(model, tmp_path):
    statistics, states = StateStatistics(), model.encode_state(random_ids(2, 4))
    with pytest.raises(ValueError, match="at least 2 texts, 0 were seen"):
        statistics.normalize(states)
    statistics.update(states)
    with pytest.raises(ValueError, match="Unknown part 'pp'"):
        statistics.normalize(states, parts=("pp",))
    with pytest.raises(ValueError, match="those seen before"):
        statistics.update(tiny_model(num_hidden_layers=3).model.encode_state(random_ids(2, 4)))
    torch.save({}, tmp_path / "x")
    with pytest.raises(OSError):
        StateStatistics.load(tmp_path / "missing.safetensors")


def test_a_file_of_something_else_is_refused_by_name(model, tmp_path):
    statistics, path = StateStatistics(), tmp_path / "statistics.safetensors"
    with torch.no_grad():
        statistics.update(model.encode_state(random_ids(2, 4)))
    statistics.save(path)
    whole, tensors = path.read_bytes(), load_file(path)
    changed = tensors | {"squares.recurrent": torch.zeros(3)}
    for junk in (b"", b"junk", whole[:-1], save({"a": torch.zeros(1)}), save(changed)):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"statistics\.safetensors: "):
            StateStatistics.load(path)

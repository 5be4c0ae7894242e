# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The state goes in and comes out as `cache` and as `past_key_values`, whichever of them transformers uses itself."""

import copy
import inspect
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

from helpers.composites import tiny_composite
from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForSequenceClassification
from rwkv7_world.modeling_rwkv7_world.cache_names import CACHE_NAME


NEAR = {"atol": 1e-4, "rtol": 1e-4}
NAMES = ("cache", "past_key_values")
MODELS = {
    "text": tiny_model,
    "text without head": lambda: tiny_model().model,
    "composite": lambda: tiny_composite("siglip"),
    "composite without head": lambda: tiny_composite("siglip").model,
}


@pytest.fixture(autouse=True)
def warnings_are_errors(monkeypatch):
    def refuse(self, message, *args, **kwargs):
        raise AssertionError(message)

    monkeypatch.setattr(logging.logging.Logger, "warning_once", refuse)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", FutureWarning)
        yield


def features(output) -> torch.Tensor:
    return getattr(output, "logits", getattr(output, "last_hidden_state", None))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_forward_pass_continues_the_state_under_either_name(make, name):
    model, ids = make().eval(), random_ids(2, 9)
    whole = features(model(ids))
    first = model(ids[:, :5], use_cache=True)
    assert name in first and first[name] is first.get(name) is getattr(first, name) is first.cache
    torch.testing.assert_close(features(model(ids[:, 5:], **{name: first[name]})), whole[:, 5:], **NEAR)
    assert model(ids, use_cache=False).get(name) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}, {"prefill_chunk_size": 2}], ids=str)
def test_generation_continues_the_state_under_either_name(options, name):
    model, ids = tiny_model(), random_ids(2, 7)
    options = {"max_new_tokens": 4, "return_dict_in_generate": True, "pad_token_id": 0, **options}
    torch.manual_seed(0)
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    state = model(ids[:, :5], use_cache=True)[name]
    if "num_beams" in options:
        state.batch_repeat_interleave(2)
    torch.manual_seed(0)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), **{name: state}, **options)
    assert torch.equal(output.sequences, expected.sequences)
    assert output[name] is getattr(output, name) is state


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_continues_the_state_under_either_name(name):
    config = tiny_model().config
    config.pad_token_id, config.num_labels = 0, 3
    model, ids = RWKV7ForSequenceClassification(config).eval(), random_ids(1, 6).clamp(min=1)
    state = getattr(model(ids[:, :4], use_cache=True), name)
    torch.testing.assert_close(model(ids[:, 4:], **{name: state}).logits, model(ids).logits, **NEAR)


def test_two_different_states_are_refused():
    model, ids = tiny_model(), random_ids(1, 3)
    first, second = (model(ids, use_cache=True).cache for _ in range(2))
    with pytest.raises(ValueError, match="Different states were given as cache and as past_key_values"):
        model(ids, cache=first, past_key_values=second)
    assert model(ids, cache=first, past_key_values=first).cache is first


def test_signatures_show_the_name_that_transformers_uses():
    own = inspect.signature(LlamaForCausalLM.forward).parameters
    assert [name for name in NAMES if name in own] == [CACHE_NAME]
    for make in MODELS.values():
        shown = inspect.signature(make().forward).parameters
        assert [name for name in NAMES if name in shown] == [CACHE_NAME]


def test_outputs_are_changed_copied_and_pickled():
    output = tiny_model()(random_ids(1, 3), use_cache=True)
    twin = copy.deepcopy(output)
    assert twin.cache is twin.past_key_values is not output.cache
    assert pickle.loads(pickle.dumps(output)).past_key_values.get_seq_length() == 3
    for name in NAMES:
        setattr(output, name, twin.cache)
        assert output.cache is output.past_key_values is twin.cache


def test_importing_the_package_prints_nothing():
    command = [sys.executable, "-c", "import rwkv7_world"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout == process.stderr == ""

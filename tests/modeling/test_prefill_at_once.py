# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Many tokens through all layers at once give what the model gives in float64, and only where nobody can tell."""

import copy

import pytest
import torch
from torch import nn

from helpers.text_models import assert_near, cache_tensors, random_ids, randomize, tiny_config, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVQuantizationConfig
from rwkv7_world.kernels.cpu import prefill as prefill_cpu
from rwkv7_world.modeling_rwkv7_world import layers_at_once, modeling_rwkv7


TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of the largest number
TIME = 11

reason = prefill_cpu.why_not_built()
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no C++ library: {reason}")


@pytest.fixture
def taken(monkeypatch) -> list[bool]:
    """Whether each forward pass took all layers at once, in turn."""
    passes = []

    def record(*args):
        output = layers_at_once.run_layers(*args)
        passes.append(output is not None)
        return output

    monkeypatch.setattr(modeling_rwkv7, "run_layers", record)
    return passes


@torch.no_grad()
def results(model: nn.Module, ids: torch.Tensor, cache=None, **kwargs) -> dict[str, torch.Tensor]:
    """Logits, and the state after them."""
    outputs = model(ids, past_key_values=cache, use_cache=True, **kwargs)
    return {"logits": outputs.logits, **cache_tensors(outputs.past_key_values)}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "batch, changes",
    [
        (1, {}),
        (2, {"hidden_size": 96, "head_dim": 48, "intermediate_size": 33, "num_hidden_layers": 3}),
        (3, {"norm_bias": False, "norm_first": False}),
        (2, {"hidden_size": 128, "head_dim": 64, "decay_low_rank_dim": 64, "gate_low_rank_dim": 96}),
        (1, {"hidden_size": 64, "head_dim": 64, "num_hidden_layers": 1}),  # fewer heads than threads
    ],
)
def test_equals_the_model_in_float64(dtype, batch, changes, taken):
    model, ids = tiny_model(dtype=dtype, **changes), random_ids(batch, TIME)
    actual = results(model, ids)
    assert taken == [True]
    assert_near(actual, results(copy.deepcopy(model).double(), ids), TOLERANCES[dtype])


def test_goes_on_from_a_state(taken):
    model, ids = tiny_model(), random_ids(3, 4 * TIME)
    whole = results(model, ids)
    cache = model.forward(ids[:, :TIME], use_cache=True).past_key_values  # with gradients: layer by layer
    cache.replace_states([x.detach() for x in cache.state_tensors()])
    with torch.no_grad():
        for part in ids[:, TIME : 3 * TIME].split(TIME, dim=1):
            model(part, past_key_values=cache)
    last = results(model, ids[:, 3 * TIME :], cache)
    assert taken == [True, False, True, True, True]
    last["logits"] = torch.cat([whole["logits"][:, : 3 * TIME], last["logits"]], dim=1)
    assert_near(last, whole, 1e-6)


def test_needs_no_cache(taken):
    model, ids = tiny_model(), random_ids(2, TIME)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    assert taken == [True] and torch.equal(logits, results(model, ids)["logits"])


def test_one_token_of_many_rows(taken):
    model, ids = tiny_model(), random_ids(12, TIME)
    with torch.no_grad():
        cache = model(ids[:, :-1], use_cache=True).past_key_values
    actual = results(model, ids[:, -1:], cache)
    assert taken == [True, True]
    expected = results(copy.deepcopy(model).double(), ids)
    assert_near(actual, {**expected, "logits": expected["logits"][:, -1:]}, 1e-6)


def test_starts_from_what_was_learned(taken):
    model = RWKV7ForCausalLM(tiny_config(learned_initial_state=True, learned_initial_tokens=True)).eval()
    randomize(model)
    ids = random_ids(2, TIME)
    actual = results(model, ids)
    assert taken == [True]
    assert_near(actual, results(copy.deepcopy(model).double(), ids), 1e-6)


def test_generate_gives_the_same_tokens(monkeypatch, taken):
    model, ids = tiny_model(), random_ids(2, TIME)
    kwargs = {"max_new_tokens": 9, "do_sample": False, "prefill_chunk_size": 4}
    generated = model.generate(ids, **kwargs)
    assert all(taken[-8:])
    monkeypatch.setattr(modeling_rwkv7, "run_layers", lambda *args: None)
    assert torch.equal(generated, model.generate(ids, **kwargs))


def test_repeated_runs_are_bit_equal():
    model, ids = tiny_model(), random_ids(2, 50)
    first, second = results(model, ids), results(model, ids)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_embeddings_may_be_given_and_are_left_as_they_were(taken):
    model, ids = tiny_model(norm_first=False), random_ids(1, TIME)
    embeddings = model.model.embeddings(ids).detach()
    before = embeddings.clone()
    with torch.no_grad():
        model(inputs_embeds=embeddings)
    assert taken == [True] and torch.equal(embeddings, before)


# ------------------------------------------------------------------------------------------- who keeps it from running


def test_padding_runs_the_layers_one_by_one(taken):
    ids, mask = random_ids(2, TIME), torch.ones(2, TIME, dtype=torch.long)
    mask[0, :3] = 0
    results(tiny_model(), ids, attention_mask=mask)
    assert taken == [False]


def test_packed_rows_run_the_layers_one_by_one(taken):
    results(tiny_model(), random_ids(1, TIME), position_ids=torch.tensor([[*range(5), *range(6)]]))
    assert taken == [False]


def test_quantised_layers_run_one_by_one(tmp_path, taken):
    tiny_model().save_pretrained(tmp_path)
    model = RWKV7ForCausalLM.from_pretrained(tmp_path, quantization_config=RWKVQuantizationConfig(8))
    results(model, random_ids(2, TIME))
    assert taken == [False]


def test_a_hook_is_called(taken):
    model, seen = tiny_model(), []
    model.model.layers[1].attn.k_proj.register_forward_hook(lambda *_: seen.append(True))
    results(model, random_ids(2, TIME))
    assert taken == [False] and seen == [True]


def test_hidden_states_are_given_when_asked_for(taken):
    model = tiny_model()
    with torch.no_grad():
        outputs = model(random_ids(2, TIME), output_hidden_states=True)
    assert taken == [False] and len(outputs.hidden_states) == 3


def test_gradients_flow(taken):
    model = tiny_model()
    model(random_ids(2, TIME)).logits.sum().backward()
    assert taken == [False] and all(p.grad is not None for p in model.model.layers.parameters())


def test_another_backend_of_the_recurrence_is_respected(monkeypatch, taken):
    monkeypatch.setenv("RWKV7_BACKEND", "chunked")
    results(tiny_model(), random_ids(2, TIME))
    assert taken == [False]


def test_a_state_of_another_dtype_is_left_to_the_layers(taken):
    ids = random_ids(2, TIME)
    with torch.no_grad():
        cache = tiny_model(dtype=torch.bfloat16)(ids, use_cache=True).past_key_values
    results(tiny_model(), ids, cache)
    assert taken == [True, False]


def test_runs_without_a_compiler(monkeypatch, tmp_path, taken):
    model, ids = tiny_model(), random_ids(2, TIME)
    expected = results(model, ids)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("RWKV7_BUILD", "0")
    prefill_cpu._library.cache_clear()
    try:
        assert_near(results(model, ids), expected, 1e-6)
        assert taken == [True, False]
    finally:
        prefill_cpu._library.cache_clear()

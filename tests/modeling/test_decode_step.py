# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One token through all layers at once gives what the layers give one by one, and only where nobody can tell."""

import copy
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from helpers.text_models import assert_near, cache_tensors, random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVQuantizationConfig
from rwkv7_world.kernels.cpu import decode as decode_cpu
from rwkv7_world.modeling_rwkv7_world import layers_at_once, modeling_rwkv7
from rwkv7_world.modeling_rwkv7_world.token_layout import TokenLayout


TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}  # of the largest number
PROMPT, STEPS = 7, 3

reason = decode_cpu.why_not_built()
pytestmark = pytest.mark.skipif(reason is not None, reason=f"no C++ library: {reason}")


@pytest.fixture
def taken(monkeypatch) -> list[bool]:
    """Whether each forward pass over a single token took all layers at once, in turn."""
    passes = []

    def record(layers, hidden_states, *args):
        output = layers_at_once.run_layers(layers, hidden_states, *args)
        if hidden_states.shape[1] == 1:
            passes.append(output is not None)
        return output

    monkeypatch.setattr(modeling_rwkv7, "run_layers", record)
    return passes


@pytest.fixture
def layer_by_layer(monkeypatch):
    """Calls a function with that switched off for single tokens."""

    def run_prompts(layers, hidden_states, *args):
        return None if hidden_states.shape[1] == 1 else layers_at_once.run_layers(layers, hidden_states, *args)

    def call(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(modeling_rwkv7, "run_layers", run_prompts)
            return function(*args, **kwargs)

    return call


@torch.no_grad()
def decode(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor | None = None, **kwargs) -> dict[str, torch.Tensor]:
    """Logits of all tokens after the prompt, given one by one, and the state after them."""
    outputs = model(ids[:, :PROMPT], attention_mask=mask, use_cache=True)
    cache, logits = outputs.past_key_values, []
    for position in range(PROMPT, ids.shape[1]):
        logits.append(model(ids[:, position, None], past_key_values=cache, **kwargs).logits)
    return {"logits": torch.cat(logits, dim=1), **cache_tensors(cache), "seen": torch.tensor(cache.get_seq_length())}


def assert_agree(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert_near(actual, expected, tolerance)
    assert all(actual[name].dtype == tensor.dtype for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "batch, changes",
    [
        (1, {}),
        (2, {"hidden_size": 96, "head_dim": 48, "intermediate_size": 33, "num_hidden_layers": 3}),
        (3, {"norm_bias": False, "norm_first": False}),
        (7, {"hidden_size": 128, "head_dim": 64, "decay_low_rank_dim": 64, "gate_low_rank_dim": 96}),
        (1, {"hidden_size": 256, "head_dim": 256, "num_hidden_layers": 1}),
    ],
)
def test_equals_the_model_in_float64(dtype, batch, changes, taken):
    model, ids = tiny_model(dtype=dtype, **changes), random_ids(batch, PROMPT + STEPS)
    actual = decode(model, ids)
    assert taken == [True] * STEPS
    exact = decode(copy.deepcopy(model).double(), ids)
    assert_agree(actual, {name: exact[name].to(tensor.dtype) for name, tensor in actual.items()}, TOLERANCES[dtype])


def quantized_model(folder, bits: int, dtype=torch.float32, left_alone=None, **changes) -> nn.Module:
    tiny_model(**changes).save_pretrained(folder)
    config = RWKVQuantizationConfig(bits, modules_to_not_convert=left_alone)
    return RWKV7ForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "batch, bits, changes",
    [
        (1, 8, {}),
        (5, 8, {"hidden_size": 96, "head_dim": 48, "intermediate_size": 33, "num_hidden_layers": 3}),
        (3, 4, {"hidden_size": 96, "intermediate_size": 33}),
        (1, 4, {"left_alone": ["k_proj", "ffn.value"]}),
    ],
)
def test_quantised_it_equals_the_layers_one_by_one(dtype, batch, bits, changes, tmp_path, taken, layer_by_layer):
    model, ids = quantized_model(tmp_path, bits, dtype, **changes), random_ids(batch, PROMPT + STEPS)
    actual = decode(model, ids)
    assert taken == [True] * STEPS
    assert_agree(actual, layer_by_layer(decode, model, ids), TOLERANCES[dtype])


def test_continues_after_a_padded_prompt(taken, layer_by_layer):
    model, ids = tiny_model(), random_ids(3, PROMPT + STEPS)
    mask = torch.ones(3, PROMPT, dtype=torch.long)
    mask[0, :4] = mask[1, 5:] = 0
    actual = decode(model, ids, mask)
    assert taken == [True] * STEPS
    assert_agree(actual, layer_by_layer(decode, model, ids, mask), TOLERANCES[torch.float32])


def test_a_row_comes_out_as_it_does_alone():
    model, ids = tiny_model(), random_ids(4, PROMPT + STEPS)
    with torch.no_grad():
        state = model(ids[:, :PROMPT], use_cache=True).past_key_values
        for layer in state.layers:  # the prompt may round otherwise in a batch
            layer.conv_states = {index: x[:1].repeat(4, 1, 1) for index, x in layer.conv_states.items()}
            layer.recurrent_states[0] = layer.recurrent_states[0][:1].repeat(4, 1, 1, 1)
        together = model(ids[:1, PROMPT, None].repeat(4, 1), past_key_values=state).logits
    assert all(torch.equal(together[0], row) for row in together)


def test_number_of_threads_does_not_change_a_bit():
    model, ids, threads = tiny_model(hidden_size=128), random_ids(2, PROMPT + STEPS), torch.get_num_threads()
    with torch.no_grad():
        prompt = model(ids[:, :PROMPT], use_cache=True).past_key_values
        results = []
        try:
            for number in (1, 2, 3):
                torch.set_num_threads(number)
                results.append(model(ids[:, PROMPT, None], past_key_values=copy.deepcopy(prompt)).logits)
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_generate_takes_it_and_gives_the_same_tokens(taken, layer_by_layer):
    model, ids = tiny_model(), random_ids(2, PROMPT)
    for kwargs in ({}, {"num_beams": 3}):
        taken.clear()
        generated = model.generate(ids, max_new_tokens=9, **kwargs)
        assert taken == [True] * 8
        assert torch.equal(generated, layer_by_layer(model.generate, ids, max_new_tokens=9, **kwargs))


def test_generate_makes_no_positions_and_carries_given_ones_through_the_prompt_alone(monkeypatch):
    model, seen = tiny_model(), []
    build = TokenLayout.build

    def record(inputs_embeds, attention_mask, position_ids, *others):
        seen.append(position_ids)
        return build(inputs_embeds, attention_mask, position_ids, *others)

    monkeypatch.setattr(TokenLayout, "build", record)
    model.generate(random_ids(1, PROMPT), max_new_tokens=3)
    assert seen == [None, None, None]
    seen.clear()
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])  # two packed sequences
    model.generate(random_ids(1, PROMPT), max_new_tokens=3, position_ids=positions)
    assert torch.equal(seen[0], positions) and seen[1:] == [None, None]


def test_embeddings_may_be_given_and_are_left_as_they_were(taken, layer_by_layer):
    model, ids = (
        tiny_model(norm_first=False),
        random_ids(1, PROMPT + 1),
    )  # without a norm the embeddings go in directly
    with torch.no_grad():
        cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
        embeddings = model.model.embeddings(ids[:, PROMPT:])
        before = embeddings.clone()
        model(inputs_embeds=embeddings, past_key_values=cache)
    assert taken == [True] and torch.equal(embeddings, before)


# ------------------------------------------------------------------------------------------- who keeps it from running


def hook_a_projection(model):
    model.model.layers[1].attn.r_proj.register_forward_hook(lambda module, args, output: 2 * output)


def hook_an_activation(model):
    model.model.layers[0].attn.w_lora.lora[1].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def hook_a_layer(model):
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (2 * args[0], *args[1:]))


def give_a_forward(model):
    norm = model.model.layers[1].ffn_norm
    forward = norm.forward
    norm.forward = lambda x: forward(x) + 1


class LoRA(nn.Module):
    """As PEFT wraps a linear layer."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.update = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x):
        return self.base(x) + self.update(x)


def wrap_a_projection(model):
    ffn = model.model.layers[1].ffn
    ffn.value = LoRA(ffn.value).eval()


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def parametrize_a_weight(model):
    parametrize.register_parametrization(model.model.layers[0].attn.k_proj, "weight", Doubled())


def replace_an_activation(model):
    model.model.layers[1].attn.g_lora.lora[1] = nn.Tanh()


def compile_a_layer(model):
    model.model.layers[0].compile(backend="eager")


@pytest.mark.parametrize(
    "change",
    [
        hook_a_projection,
        hook_an_activation,
        hook_a_layer,
        give_a_forward,
        wrap_a_projection,
        parametrize_a_weight,
        replace_an_activation,
        compile_a_layer,
        nn.Module.train,
    ],
)
def test_a_change_of_the_model_is_noticed(change, taken, layer_by_layer):
    model, ids = tiny_model(), random_ids(2, PROMPT + STEPS)
    decode(model, ids)
    assert taken.pop()
    change(model)
    taken.clear()
    actual = decode(model, ids)
    assert not any(taken)
    assert_agree(actual, layer_by_layer(decode, model, ids), 0)


def test_it_runs_again_once_a_hook_is_gone(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    expected = decode(model, ids)
    handle = model.model.layers[1].register_forward_hook(lambda *args: None)
    decode(model, ids)
    assert not taken[-1]
    handle.remove()
    assert_agree(decode(model, ids), expected, 0)
    assert taken[-1]


def change_in_place(model):
    with torch.no_grad():
        model.model.layers[1].attn.o_proj.weight.mul_(2)


def replace_a_parameter(model):
    key = model.model.layers[0].ffn.key
    key.weight = nn.Parameter(2 * key.weight.detach())


def swap_the_data(model):
    model.model.layers[1].attn.x_r.data = torch.rand(1, 1, 32)


def replace_a_layer(model):
    model.model.layers[1] = tiny_model(seed=5).model.layers[1]


def drop_a_layer(model):
    del model.model.layers[1]
    model.config.num_hidden_layers = 1


def to_half(model):
    model.to(torch.bfloat16)


def change_the_head_norms(model):
    for layer in model.model.layers:
        layer.attn.g_norm.eps = 0.3


def change_the_norms(model):
    for layer in model.model.layers:
        layer.attn_norm.eps = layer.ffn_norm.eps = 0.3


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        replace_a_parameter,
        swap_the_data,
        replace_a_layer,
        drop_a_layer,
        to_half,
        change_the_head_norms,
        change_the_norms,
    ],
)
def test_new_weights_and_settings_are_used(change, taken, layer_by_layer):
    model, ids = tiny_model(), random_ids(2, PROMPT + STEPS)
    old = decode(model, ids)
    change(model)
    actual = decode(model, ids)
    assert taken[-1]
    assert_agree(actual, layer_by_layer(decode, model, ids), TOLERANCES[model.dtype])
    assert not torch.allclose(actual["logits"].float(), old["logits"], rtol=1e-3)


def transpose_the_data(model):
    weight = model.model.layers[1].attn.o_proj.weight
    weight.data = weight.data.t()  # the same memory


def change_one_norm(model):
    model.model.layers[1].attn.g_norm.eps = 0.3  # the kernel takes one epsilon for all layers


@pytest.mark.parametrize("change", [transpose_the_data, change_one_norm])
def test_what_the_kernel_cannot_take_is_left_to_the_layers(change, taken, layer_by_layer):
    model, ids = tiny_model(), random_ids(2, PROMPT + STEPS)
    old = decode(model, ids)
    change(model)
    actual = decode(model, ids)
    assert not taken[-1]
    assert_agree(actual, layer_by_layer(decode, model, ids), 0)
    assert not torch.allclose(actual["logits"], old["logits"], rtol=1e-3)


def replace_a_low_rank_map(model):
    model.model.layers[1].attn.g_lora = tiny_model(seed=5).model.layers[1].attn.g_lora


@pytest.mark.parametrize("change", [replace_a_layer, replace_a_parameter, replace_a_low_rank_map])
def test_what_was_replaced_leaves_memory_at_once(change):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    decode(model, ids)
    weights = [weakref.ref(weight) for weight in model.model.layers.parameters()]
    change(model)
    still_there = {id(weight) for weight in model.model.layers.parameters()}
    assert {id(ref()) for ref in weights if ref() is not None} <= still_there
    assert any(ref() is None for ref in weights)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_another_backend_decodes_where_it_is_asked_for(backend, taken, monkeypatch):
    model, ids = tiny_model(), random_ids(2, PROMPT + STEPS)
    expected = decode(model, ids)
    monkeypatch.setenv("RWKV7_BACKEND", backend)
    taken.clear()
    assert_agree(decode(model, ids), expected, TOLERANCES[torch.float32])
    assert not any(taken)


def test_a_backend_that_there_is_not_is_refused_while_decoding(monkeypatch):
    model, ids = tiny_model(), random_ids(1, PROMPT + 1)
    with torch.no_grad():
        cache = model(ids[:, :PROMPT], use_cache=True).cache
        monkeypatch.setenv("RWKV7_BACKEND", "nonsense")
        with pytest.raises(ValueError, match="Unknown wkv7 backend 'nonsense'"):
            model(ids[:, PROMPT:], cache=cache)


def quantised_in_place(layer):
    layer.weight.mul_(-1)


def quantised_weight_replaced(layer):
    layer.weight = -layer.weight


def quantised_scales_replaced(layer):
    layer.scales = 2 * layer.scales


def quantised_scales_moved(layer):
    layer.scales.data = layer.scales * 3


@pytest.mark.parametrize(
    "change",
    [quantised_in_place, quantised_weight_replaced, quantised_scales_replaced, quantised_scales_moved],
)
def test_new_quantised_weights_are_used(change, tmp_path, taken, layer_by_layer):
    model, ids = quantized_model(tmp_path, 8), random_ids(2, PROMPT + STEPS)
    old = decode(model, ids)
    change(model.model.layers[1].ffn.value)
    actual = decode(model, ids)
    assert taken[-1]
    assert_agree(actual, layer_by_layer(decode, model, ids), TOLERANCES[torch.float32])
    assert not torch.allclose(actual["logits"], old["logits"], rtol=1e-3)


def test_a_quantised_layer_with_a_hook_or_short_of_weights_runs_itself(tmp_path, taken, layer_by_layer):
    model, ids = quantized_model(tmp_path, 4), random_ids(1, PROMPT + STEPS)
    decode(model, ids)
    assert taken.pop()
    taken.clear()
    layer = model.model.layers[1].attn.o_proj
    handle = layer.register_forward_hook(lambda module, args, output: 2 * output)
    assert_agree(decode(model, ids), layer_by_layer(decode, model, ids), 0)
    handle.remove()
    layer.scales = layer.scales[:5]
    with pytest.raises(RuntimeError):
        decode(model, ids)
    assert not any(taken)


def test_weights_that_are_cut_short_are_never_overrun(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    decode(model, ids)
    key = model.model.layers[0].ffn.key
    key.weight.data = key.weight.data[:5]
    taken.clear()
    for tokens in (ids, ids.repeat(3, 1)):  # few rows and many
        with pytest.raises(RuntimeError):
            decode(model, tokens)
    assert not any(taken)


def test_gradients_flow(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + 1)
    cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
    model(ids[:, PROMPT:], past_key_values=cache).logits.sum().backward()
    assert not any(taken)
    assert all(p.grad is not None for p in model.model.layers.parameters())


def test_a_state_with_gradients_is_left_to_autograd(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + 1)
    cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
    with torch.no_grad():
        model(ids[:, PROMPT:], past_key_values=cache)
    assert not any(taken)


def test_padding_in_the_step_leaves_the_state_as_it_was(taken):
    model, ids = tiny_model(), random_ids(2, PROMPT + 1)
    with torch.no_grad():
        cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
        before = cache_tensors(cache, row=0)
        model(ids[:, PROMPT:], attention_mask=torch.tensor([[0], [1]]), past_key_values=cache)
    assert not any(taken)
    assert_agree(cache_tensors(cache, row=0), before, 0)


def test_hidden_states_are_given_when_asked_for(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + 1)
    with torch.no_grad():
        cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
        outputs = model(ids[:, PROMPT:], past_key_values=cache, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert not any(taken)


def test_compiled_models_decode(layer_by_layer):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    expected = decode(model, ids)
    with torch.no_grad():
        cache = model(ids[:, :PROMPT], use_cache=True).past_key_values
        step = torch.compile(model.forward, backend="eager")
        logits = step(ids[:, PROMPT, None], past_key_values=cache).logits
    assert torch.allclose(logits, expected["logits"][:, :1], rtol=1e-4, atol=1e-4)


def test_a_model_that_was_decoded_with_can_be_copied_and_freed(taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    expected = decode(model, ids)
    twin = copy.deepcopy(model)
    layers = weakref.ref(model.model.layers)
    del model
    assert layers() is None
    assert_agree(decode(twin, ids), expected, 0)
    assert taken[-1]


def test_runs_without_a_compiler(monkeypatch, tmp_path, taken):
    model, ids = tiny_model(), random_ids(1, PROMPT + STEPS)
    expected = decode(model, ids)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("RWKV7_BUILD", "0")
    decode_cpu._library.cache_clear()
    taken.clear()
    try:
        assert_agree(decode(model, ids), expected, TOLERANCES[torch.float32])
        assert not any(taken)
    finally:
        decode_cpu._library.cache_clear()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`RWKV7Config`, `RWKV7Model` and `RWKV7ForCausalLM` behave as any model of transformers does."""

import copy
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache, StaticCache
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from helpers.text_models import VOCAB_SIZE, cache_tensors, random_ids, randomize, tiny_config, tiny_model
from rwkv7_world import RWKV7Cache, RWKV7Config, RWKV7ForCausalLM, RWKV7Model


@pytest.fixture(scope="module")
def model() -> RWKV7ForCausalLM:
    return tiny_model(seed=1)  # its greedy continuations do not repeat one token


@pytest.fixture
def ids() -> torch.Tensor:
    return random_ids(2, 9)


class TestForward:
    def test_loss_is_cross_entropy_of_the_next_token(self, model, ids):
        labels = ids.clone()
        labels[0, :4] = -100
        outputs = model(ids, labels=labels)
        expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(outputs.loss, expected)

    def test_loss_may_be_averaged_over_a_given_number_of_tokens(self, model, ids):
        outputs = model(ids, labels=ids, num_items_in_batch=5)
        expected = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum") / 5
        torch.testing.assert_close(outputs.loss, expected)

    def test_tuple_holds_what_the_output_holds(self, model, ids):
        outputs = model(ids, labels=ids)
        loss, logits, cache = model(ids, labels=ids, return_dict=False)
        assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits)
        assert isinstance(cache, RWKV7Cache)
        assert len(model(ids, use_cache=False, return_dict=False)) == 1

    def test_hidden_states_are_embeddings_and_the_output_of_every_layer(self, model, ids):
        outputs = model(ids, output_hidden_states=True)
        assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
        assert all(x.shape == (2, 9, 32) for x in outputs.hidden_states)
        assert torch.equal(outputs.hidden_states[0], model.model.embeddings(ids))
        assert torch.equal(outputs.hidden_states[-1], model.model(ids).last_hidden_state)
        assert model(ids).hidden_states is None

    @pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 5])], ids=["last", "last three", "chosen"])
    def test_logits_are_computed_only_where_asked_for(self, model, ids, keep):
        expected = model(ids).logits
        expected = expected[:, -keep:] if isinstance(keep, int) else expected[:, keep]
        logits = model(ids, logits_to_keep=keep).logits
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits, expected)

    def test_embeddings_may_be_passed_in_place_of_ids(self, model, ids):
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, model(ids).logits)

    def test_exactly_one_of_ids_and_embeddings_is_needed(self, model, ids):
        for inputs in ({}, {"input_ids": ids, "inputs_embeds": model.get_input_embeddings()(ids)}):
            with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
                model(**inputs)

    def test_cache_is_made_unless_it_is_not_wanted(self, model, ids):
        with_cache, without = model(ids), model(ids, use_cache=False)
        assert isinstance(with_cache.past_key_values, RWKV7Cache)
        assert without.past_key_values is None
        torch.testing.assert_close(with_cache.logits, without.logits)

    def test_config_can_switch_the_cache_off(self, ids):
        assert tiny_model(use_cache=False)(ids).past_key_values is None

    @pytest.mark.parametrize("bad", [-1, VOCAB_SIZE, 65535])
    def test_token_id_out_of_range_is_refused_with_the_range(self, model, bad):
        with pytest.raises(ValueError) as error:
            model(torch.tensor([[1, bad, 2]]))
        assert str(error.value) == f"Token id {bad} is out of range: the model has ids 0 to {VOCAB_SIZE - 1}."

    def test_base_model_is_the_causal_model_without_head(self, model, ids):
        hidden_states = model.model(ids).last_hidden_state
        assert hidden_states.shape == (2, 9, 32)
        torch.testing.assert_close(model.lm_head(hidden_states), model(ids).logits)

    def test_pre_norm_applies_to_embeddings_however_they_come(self, ids):
        with_norm, without = tiny_model(), tiny_model(norm_first=False)
        missing, unexpected = without.load_state_dict(with_norm.state_dict(), strict=False)
        assert missing == [] and unexpected == [f"model.layers.0.pre_norm.{end}" for end in ("weight", "bias")]
        normed = with_norm.model.layers[0].pre_norm(with_norm.get_input_embeddings()(ids))
        torch.testing.assert_close(without(inputs_embeds=normed).logits, with_norm(ids).logits)


class TestGradients:
    def test_gradients_reach_every_parameter(self, model, ids):
        model = copy.deepcopy(model)
        model(ids, labels=ids).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name

    def test_gradients_reach_the_embeddings_passed_in(self, model, ids):
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embeddings, labels=ids).loss.backward()
        assert (embeddings.grad[:, :-1].abs().amax(dim=-1) > 0).all()

    def test_gradient_checkpointing_gives_the_same_gradients(self, ids):
        found = []
        for checkpointing in (False, True):
            model = tiny_model(dtype=torch.float64).train()
            calls = []
            model.model.layers[1].attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            if checkpointing:
                model.activation_checkpointing_enable()
            mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
            loss = model(ids, attention_mask=mask, labels=ids).loss
            loss.backward()
            assert len(calls) == (2 if checkpointing else 1)
            found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
        for plain, checkpointed in zip(*found, strict=True):
            torch.testing.assert_close(checkpointed, plain, atol=1e-13, rtol=1e-12)


def assert_same_logits(actual, expected, ids=None):
    ids = random_ids(1, 7) if ids is None else ids
    with torch.no_grad():
        assert torch.equal(actual.eval()(ids).logits, expected.eval()(ids).logits)


class TestSaving:
    def test_saved_model_loads_with_identical_logits(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
        assert_same_logits(RWKV7ForCausalLM.from_pretrained(tmp_path), model)

    def test_auto_classes_load_it(self, model, tmp_path, ids):
        model.save_pretrained(tmp_path)
        config = AutoConfig.from_pretrained(tmp_path)
        assert isinstance(config, RWKV7Config)
        assert config.to_diff_dict() == model.config.to_diff_dict()
        causal = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert isinstance(causal, RWKV7ForCausalLM)
        assert_same_logits(causal, model)
        base, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(base, RWKV7Model)
        assert not report["missing_keys"] and set(report["unexpected_keys"]) <= {"lm_head.weight"}
        assert torch.equal(base.eval()(ids).last_hidden_state, model.model(ids).last_hidden_state)

    def test_config_on_disk_has_the_names_of_the_fla_format(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        expected = {
            "model_type": "rwkv7",
            "architectures": ["RWKV7ForCausalLM"],
            "hidden_size": 32,
            "head_dim": 16,
            "num_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "decay_low_rank_dim": 5,
            "a_low_rank_dim": 6,
            "v_low_rank_dim": 7,
            "gate_low_rank_dim": 9,
            "vocab_size": VOCAB_SIZE,
            "norm_eps": 1e-5,
            "norm_first": True,
            "norm_bias": True,
            "layer_types": ["linear_attention"] * 2,
        }
        assert {name: saved[name] for name in expected} == expected

    def test_bfloat16_loads_runs_and_saves(self, model, tmp_path, ids):
        model.save_pretrained(tmp_path)
        rounded = RWKV7ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert all(parameter.dtype == torch.bfloat16 for parameter in rounded.parameters())
        logits, expected = rounded(ids).logits, model(ids).logits
        assert logits.dtype == torch.bfloat16
        assert 0 < (logits - expected).abs().max() < 0.05 * expected.abs().max()
        rounded.save_pretrained(tmp_path / "again")
        again = RWKV7ForCausalLM.from_pretrained(tmp_path / "again", dtype="auto")
        assert again.dtype == torch.bfloat16
        assert_same_logits(again, rounded)

    def test_resized_vocabulary_keeps_the_old_tokens(self, model, ids):
        resized = copy.deepcopy(model)
        resized.resize_token_embeddings(VOCAB_SIZE + 6)
        assert resized.config.vocab_size == VOCAB_SIZE + 6
        logits = resized(ids).logits
        assert logits.shape[-1] == VOCAB_SIZE + 6
        torch.testing.assert_close(logits[..., :VOCAB_SIZE], model(ids).logits)


class TestTiedEmbeddings:
    def test_embeddings_and_head_are_separate_by_default(self, model):
        assert RWKV7Config().tie_word_embeddings is False
        assert model.lm_head.weight is not model.model.embeddings.weight

    def test_tied_head_is_the_embeddings_also_after_saving(self, tmp_path):
        model = tiny_model(tie_word_embeddings=True)
        assert model.lm_head.weight is model.model.embeddings.weight
        model.save_pretrained(tmp_path)
        loaded = RWKV7ForCausalLM.from_pretrained(tmp_path)
        assert loaded.lm_head.weight is loaded.model.embeddings.weight
        assert_same_logits(loaded, model)


LAYER_PARAMETERS = """
attn_norm.weight attn_norm.bias ffn_norm.weight ffn_norm.bias
attn.x_r attn.x_w attn.x_k attn.x_v attn.x_a attn.x_g attn.k_k attn.k_a attn.r_k
attn.r_proj.weight attn.k_proj.weight attn.v_proj.weight attn.o_proj.weight
attn.w_lora.lora.0.weight attn.w_lora.lora.2.weight attn.w_lora.lora.2.bias
attn.a_lora.lora.0.weight attn.a_lora.lora.2.weight attn.a_lora.lora.2.bias
attn.g_lora.lora.0.weight attn.g_lora.lora.2.weight
attn.g_norm.weight attn.g_norm.bias
ffn.x_k ffn.key.weight ffn.value.weight
""".split()
VALUE_MIX_PARAMETERS = [f"attn.v_lora.lora.{end}" for end in ("0.weight", "2.weight", "2.bias")]
PARAMETERS = {
    "model.embeddings.weight",
    "model.layers.0.pre_norm.weight",
    "model.layers.0.pre_norm.bias",
    "model.norm.weight",
    "model.norm.bias",
    "lm_head.weight",
    *(f"model.layers.{layer}.{name}" for layer in (0, 1) for name in LAYER_PARAMETERS),
    *(f"model.layers.1.{name}" for name in VALUE_MIX_PARAMETERS),
}


class TestArchitecture:
    def test_parameters_have_exactly_the_names_of_the_fla_format(self, model):
        assert set(model.state_dict()) == PARAMETERS

    def test_shapes_are_those_of_the_fla_format(self, model):
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        expected = {
            "model.embeddings.weight": (VOCAB_SIZE, 32),
            "lm_head.weight": (VOCAB_SIZE, 32),
            "model.layers.1.attn.x_r": (1, 1, 32),
            "model.layers.1.attn.k_k": (32,),
            "model.layers.1.attn.r_k": (2, 16),
            "model.layers.1.ffn.x_k": (32,),
            "model.layers.1.ffn.key.weight": (48, 32),
            "model.layers.1.ffn.value.weight": (32, 48),
        }
        for letter, width in zip("wavg", (5, 6, 7, 9), strict=True):
            expected[f"model.layers.1.attn.{letter}_lora.lora.0.weight"] = (width, 32)
            expected[f"model.layers.1.attn.{letter}_lora.lora.2.weight"] = (32, width)
        assert {name: shapes[name] for name in expected} == expected

    def test_number_of_parameters_is_that_of_the_formula(self):
        config = RWKV7Config(hidden_size=1024, num_hidden_layers=24)
        with torch.device("meta"):
            model = RWKV7ForCausalLM(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == 450_767_872  # published size of the 0.4B

    @pytest.mark.parametrize(
        ("hidden_size", "decay_and_a", "v", "gate"),
        [(768, 64, 32, 128), (1024, 64, 32, 128), (2048, 96, 64, 256), (2560, 96, 64, 320)],
    )
    def test_default_low_rank_widths_are_those_of_the_released_models(self, hidden_size, decay_and_a, v, gate):
        config = RWKV7Config(hidden_size=hidden_size)
        assert config.decay_low_rank_dim == config.a_low_rank_dim == decay_and_a
        assert (config.v_low_rank_dim, config.gate_low_rank_dim) == (v, gate)
        assert config.intermediate_size == 4 * hidden_size

    @pytest.mark.parametrize(("head_dim", "norm_eps"), [(64, 1e-5), (16, 1e-5), (16, 1e-3)])
    def test_group_norm_epsilon_is_head_dim_times_norm_eps_unless_given(self, head_dim, norm_eps):
        model = RWKV7ForCausalLM(tiny_config(hidden_size=64, head_dim=head_dim, norm_eps=norm_eps))
        for layer in model.model.layers:
            assert layer.attn.g_norm.eps == pytest.approx(head_dim * norm_eps)
            assert layer.attn.g_norm.num_groups == 64 // head_dim
            assert layer.attn_norm.eps == layer.ffn_norm.eps == norm_eps
        assert model.model.norm.eps == model.model.layers[0].pre_norm.eps == norm_eps
        given = RWKV7ForCausalLM(tiny_config(head_dim=head_dim // 2, norm_eps=norm_eps, group_norm_eps=0.01))
        assert given.model.layers[0].attn.g_norm.eps == 0.01


class TestConfig:
    def test_wrong_num_heads_is_corrected_with_a_warning(self):
        with CaptureLogger(logging.get_logger("rwkv7_world.configuration.configuration_rwkv7")) as captured:
            config = RWKV7Config(hidden_size=320, num_heads=32)
        assert config.num_heads == config.num_attention_heads == 5
        assert "num_heads=32" in captured.out and "using 5" in captured.out

    def test_right_num_heads_is_not_warned_about(self):
        with CaptureLogger(logging.get_logger("rwkv7_world.configuration.configuration_rwkv7")) as captured:
            assert RWKV7Config(hidden_size=448, num_heads=7).num_heads == 7
        assert captured.out == ""

    @pytest.mark.parametrize("value_dim", [None, 128, [128, 128]])
    def test_value_dim_may_be_the_hidden_size(self, value_dim):
        RWKV7Config(hidden_size=128, num_hidden_layers=2, value_dim=value_dim)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"attn": {"layers": [1], "num_heads": 4}}, "hybrid models with softmax-attention layers"),
            ({"value_dim": 64}, r"value_dim=64 must equal hidden_size=128"),
            ({"value_dim": [128, 256]}, r"value_dim=\[128, 256\] must equal hidden_size=128"),
            ({"head_dim": 48}, "hidden_size=128 is not a multiple of head_dim=48"),
            ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ],
    )
    def test_what_rwkv_7_cannot_have_is_refused(self, wrong, message):
        with pytest.raises(Exception, match=message):
            RWKV7Config(hidden_size=128, num_hidden_layers=2, **wrong)

    def test_config_survives_a_round_trip(self, tmp_path):
        config = tiny_config(norm_eps=1e-4, tie_word_embeddings=True)
        config.save_pretrained(tmp_path)
        assert RWKV7Config.from_pretrained(tmp_path).to_dict() == config.to_dict()


def greedy(model, ids, new_tokens=10, **kwargs):
    return model.generate(ids, max_new_tokens=new_tokens, do_sample=False, **kwargs)


def greedy_without_cache(model, ids, new_tokens=10):
    """The definition of greedy decoding: the whole sequence again for every token."""
    for _ in range(new_tokens):
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return ids


@pytest.fixture(params=["reference", "chunked"])
def backend(request, monkeypatch):
    monkeypatch.setenv("RWKV7_BACKEND", request.param)


LEFT_PADDING = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [1] * 9])


@pytest.mark.usefixtures("backend")
class TestGenerate:
    def test_greedy_decoding_equals_the_whole_sequence_again_for_every_token(self, model, ids):
        expected = greedy_without_cache(model, ids)
        assert torch.equal(greedy(model, ids), expected)
        assert torch.equal(greedy(model, ids, use_cache=False), expected)
        assert len(set(expected[0, 9:].tolist())) > 3

    def test_every_step_after_the_prompt_is_one_token_with_a_cache(self, model, ids):
        lengths = []
        hook = model.model.layers[0].register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
        greedy(model, ids)
        hook.remove()
        assert lengths == [9] + [1] * 9

    def test_batch_with_left_padding_equals_single_rows(self, model, ids):
        generated = greedy(model, ids, attention_mask=LEFT_PADDING)
        assert torch.equal(generated[:1, 4:], greedy(model, ids[:1, 4:]))
        assert torch.equal(generated[1:], greedy(model, ids[1:]))

    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize("chunk", [1, 2, 5])
    def test_prefill_in_chunks_changes_nothing(self, model, ids, chunk, padded):
        mask = LEFT_PADDING if padded else torch.ones_like(ids)
        expected = greedy(model, ids, attention_mask=mask)
        assert torch.equal(greedy(model, ids, attention_mask=mask, prefill_chunk_size=chunk), expected)

    @pytest.mark.parametrize("returned", [1, 3])
    def test_beam_search_equals_beam_search_without_cache(self, model, ids, returned):
        beams = {"num_beams": 3, "num_return_sequences": returned}
        with_cache = greedy(model, ids, **beams)
        assert with_cache.shape == (2 * returned, 19)
        assert torch.equal(with_cache, greedy(model, ids, use_cache=False, **beams))

    def test_beam_search_with_left_padding_equals_single_rows(self, model, ids):
        generated = greedy(model, ids, attention_mask=LEFT_PADDING, num_beams=3)
        assert torch.equal(generated[:1, 4:], greedy(model, ids[:1, 4:], num_beams=3))

    def test_sampling_repeats_with_its_seed_and_without_cache(self, model, ids):
        def sample(seed, **kwargs):
            torch.manual_seed(seed)
            return model.generate(ids, do_sample=True, max_new_tokens=10, num_return_sequences=2, **kwargs)

        first = sample(0)
        assert first.shape == (4, 19)
        assert torch.equal(first, sample(0)) and torch.equal(first, sample(0, use_cache=False))
        assert not torch.equal(first, sample(1)) and not torch.equal(first[0], first[1])

    @pytest.mark.parametrize("implementation", ["static", "dynamic"])
    def test_kinds_of_cache_for_attention_models_are_replaced_by_ours(self, model, ids, implementation):
        outputs = greedy(model, ids, cache_implementation=implementation, return_dict_in_generate=True)
        assert type(outputs.past_key_values) is RWKV7Cache
        assert torch.equal(outputs.sequences, greedy(model, ids))

    @pytest.mark.parametrize("kind", [DynamicCache, lambda config: StaticCache(config, max_cache_len=64)])
    def test_empty_cache_for_attention_models_is_replaced_by_ours(self, model, ids, kind):
        assert torch.equal(greedy(model, ids, past_key_values=kind(config=model.config)), greedy(model, ids))

    def test_conversation_continues_from_the_returned_cache_with_all_its_ids(self, model, ids):
        first = greedy(model, ids, return_dict_in_generate=True)
        turn = torch.cat([first.sequences, random_ids(2, 4, seed=1)], dim=1)
        assert first.past_key_values.get_seq_length() == first.sequences.shape[1] - 1
        lengths = []
        hook = model.model.layers[0].register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
        continued = greedy(model, turn, past_key_values=first.past_key_values)
        hook.remove()
        assert lengths[0] == 5  # the last generated token and the turn
        assert torch.equal(continued, greedy(model, turn))

    def test_padded_conversation_continues_from_the_returned_cache(self, model, ids):
        first = greedy(model, ids, attention_mask=LEFT_PADDING, return_dict_in_generate=True)
        turn = torch.cat([first.sequences, random_ids(2, 4, seed=1)], dim=1)
        mask = torch.cat([LEFT_PADDING, torch.ones(2, 14, dtype=torch.long)], dim=1)
        continued = greedy(model, turn, past_key_values=first.past_key_values, attention_mask=mask)
        assert torch.equal(continued[:1, 4:], greedy(model, turn[:1, 4:]))

    def test_one_prefix_serves_many_continuations(self, model, ids):
        cache = RWKV7Cache(model.config)
        with torch.no_grad():
            model(ids[:, :6], past_key_values=cache)
        for seed in (1, 2):
            full = torch.cat([ids[:, :6], random_ids(2, 3, seed=seed)], dim=1)
            assert torch.equal(greedy(model, full, past_key_values=copy.deepcopy(cache)), greedy(model, full))

    @pytest.mark.parametrize("padded", [False, True])
    def test_generation_from_embeddings_equals_generation_from_ids(self, model, ids, padded):
        mask = LEFT_PADDING if padded else torch.ones_like(ids)
        embeddings = model.get_input_embeddings()(ids)
        generated = greedy(model, None, inputs_embeds=embeddings, attention_mask=mask)
        assert torch.equal(generated, greedy(model, ids, attention_mask=mask)[:, 9:])

    def test_generation_stops_at_the_end_token_and_pads(self, model, ids):
        free = greedy(model, ids)
        end = int(free[0, 11])
        stopped = greedy(model, ids, eos_token_id=end, pad_token_id=0)
        length = 9 + free[0, 9:].tolist().index(end) + 1
        assert torch.equal(stopped[0, :length], free[0, :length])
        assert (stopped[0, length:] == 0).all()

    def test_scores_are_the_logits_of_a_forward_pass(self, model, ids):
        outputs = greedy(model, ids, return_dict_in_generate=True, output_logits=True)
        expected = model(outputs.sequences[:, :-1]).logits[:, 8:]
        torch.testing.assert_close(torch.stack(outputs.logits, dim=1), expected, atol=1e-5, rtol=1e-4)

    def test_bfloat16_model_generates(self, model, ids):
        assert greedy(copy.deepcopy(model).bfloat16(), ids).shape == (2, 19)


class TestCache:
    def test_reset_cache_is_as_a_new_one(self, model, ids):
        used, new = RWKV7Cache(model.config), RWKV7Cache(model.config)
        with torch.no_grad():
            model(random_ids(2, 5, seed=3), past_key_values=used)
            used.reset()
            assert used.get_seq_length() == 0
            logits = model(ids, past_key_values=used).logits
            assert torch.equal(logits, model(ids, past_key_values=new).logits)
        assert used.get_seq_length() == 9
        assert all(torch.equal(x, cache_tensors(new)[name]) for name, x in cache_tensors(used).items())

    def test_rows_of_a_cache_can_be_reordered(self, model, ids):
        with torch.no_grad():
            cache = model(ids).past_key_values
            before = cache_tensors(cache)
            cache.reorder_cache(torch.tensor([1, 1]))
            assert all(torch.equal(x, before[name][[1, 1]]) for name, x in cache_tensors(cache).items())

    def test_cache_counts_tokens_once_a_forward_pass(self, model, ids):
        cache = RWKV7Cache(model.config)
        assert cache.get_seq_length() == 0
        for seen in (9, 18):
            model(ids, past_key_values=cache)
            assert cache.get_seq_length() == seen
        assert cache.get_mask_sizes(4, 0) == (22, 0)


def test_randomised_model_differs_from_the_initialisation_everywhere():
    """The tests above mean little for a parameter that `randomize` leaves as it was."""
    model = RWKV7ForCausalLM(tiny_config())
    before = copy.deepcopy(model.state_dict())
    randomize(model)
    for name, tensor in model.state_dict().items():
        assert (tensor != before[name]).any() and tensor.unique().numel() > 1, name
        assert not re.search("nan|inf", str(tensor.abs().max())), name

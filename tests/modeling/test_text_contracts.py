# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What every model of transformers can do beside running: be copied, moved, resized, checkpointed, adapted by PEFT."""

import copy
import inspect
import pickle

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaForCausalLM

from helpers.text_models import VOCAB_SIZE, random_ids, tiny_config, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKV7ForSequenceClassification


IDS = random_ids(2, 7)


@pytest.fixture
def model():
    return tiny_model()


@torch.no_grad()
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_computes_the_same_and_shares_nothing(model, duplicate):
    twin, expected = duplicate(model), model(IDS).logits
    assert torch.equal(twin(IDS).logits, expected)
    twin.model.layers[0].attn.r_proj.weight.zero_()
    assert torch.equal(model(IDS).logits, expected) and not torch.equal(twin(IDS).logits, expected)


@torch.no_grad()
def test_after_a_change_of_dtype_it_runs_in_that_dtype_and_back(model):
    expected = model(IDS).logits
    model.to(torch.bfloat16)
    assert model.generate(IDS, max_new_tokens=3).shape == (2, 10) and model(IDS).logits.dtype == torch.bfloat16
    model.to(torch.float32)
    torch.testing.assert_close(model(IDS).logits, expected, atol=0.5, rtol=0)
    assert model(IDS).logits.dtype == torch.float32


@torch.no_grad()
def test_autocast_to_bfloat16_runs_and_generates(model):
    expected = model(IDS).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IDS).logits
        assert model.generate(IDS, max_new_tokens=3).shape == (2, 10)
    assert (logits.float() - expected).norm() / expected.norm() < 0.05


def test_a_state_dict_goes_into_another_model(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = RWKV7ForCausalLM(tiny_config()).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(IDS).logits, model(IDS).logits)


def test_mismatched_sizes_are_refused_unless_ignored(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch|mismatched"):
        AutoModelForCausalLM.from_pretrained(tmp_path, vocab_size=VOCAB_SIZE + 3)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, vocab_size=VOCAB_SIZE + 3, ignore_mismatched_sizes=True)
    assert loaded.lm_head.weight.shape[0] == VOCAB_SIZE + 3
    assert torch.equal(loaded.model.layers[1].ffn.key.weight, model.model.layers[1].ffn.key.weight)


def test_generation_settings_are_saved_with_it(model, tmp_path):
    model.generation_config = GenerationConfig(max_new_tokens=4, do_sample=True, top_k=3)
    model.save_pretrained(tmp_path)
    loaded = RWKV7ForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.top_k == 3 and loaded.generate(IDS).shape == (2, 11)


def test_arguments_of_forward_begin_as_those_of_llama():
    arguments = list(inspect.signature(RWKV7ForCausalLM.forward).parameters)
    *expected, kwargs = inspect.signature(LlamaForCausalLM.forward).parameters
    assert arguments[: len(expected)] == expected and arguments[-1] == kwargs


@pytest.mark.parametrize("tied", [False, True])
def test_resized_embeddings_train_and_generate(tied):
    model = tiny_model(tie_word_embeddings=tied)
    model.resize_token_embeddings(VOCAB_SIZE + 5)
    assert (model.lm_head.weight is model.model.embeddings.weight) == tied
    ids = torch.full((1, 4), VOCAB_SIZE + 4)
    model(ids, labels=ids).loss.backward()
    assert model.model.embeddings.weight.grad[VOCAB_SIZE + 4].abs().sum() > 0
    assert model.generate(ids, max_new_tokens=2).max() < VOCAB_SIZE + 5


@pytest.mark.parametrize("reentrant", [False, True])
def test_both_kinds_of_gradient_checkpointing_give_the_same_gradients(model, reentrant):
    twin = copy.deepcopy(model).train()
    twin.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for each in (model.train(), twin):
        embeddings = each.get_input_embeddings()(IDS)
        each(inputs_embeds=embeddings, labels=IDS, use_cache=False).loss.backward()
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


@pytest.mark.parametrize(
    "problem, labels",
    [
        ("regression", torch.tensor([[0.5], [1.5]])),
        ("single_label_classification", torch.tensor([0, 2])),
        ("multi_label_classification", torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])),
    ],
)
def test_a_classifier_knows_the_three_kinds_of_problems(problem, labels):
    count = 1 if problem == "regression" else 3
    config = tiny_config(num_labels=count, problem_type=problem, pad_token_id=0)
    RWKV7ForSequenceClassification(config)(IDS, labels=labels).loss.backward()


class TestPeft:
    @pytest.fixture
    def adapted(self, model):
        torch.manual_seed(0)
        targets = ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"]
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
        return adapted.eval()

    @torch.no_grad()
    def test_generation_goes_through_the_adapter(self, adapted):
        """Also one token at a time, where a plain model takes another way."""
        ids = adapted.generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
        logits = adapted(ids).logits
        assert torch.equal(logits[:, IDS.shape[1] - 1 : -1].argmax(-1), ids[:, IDS.shape[1] :])
        with adapted.disable_adapter():
            assert not torch.allclose(adapted(ids).logits, logits, atol=1e-2)

    @torch.no_grad()
    def test_merged_weights_compute_the_same(self, adapted):
        expected = adapted(IDS).logits
        torch.testing.assert_close(adapted.merge_and_unload()(IDS).logits, expected, atol=1e-4, rtol=1e-4)

    def test_only_the_adapter_is_trained_saved_and_loaded(self, adapted, tmp_path):
        adapted(IDS, labels=IDS).loss.backward()
        trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
        assert trained and all("lora_A" in name or "lora_B" in name for name in trained)
        adapted.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
        assert torch.equal(loaded(IDS).logits, adapted(IDS).logits)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What PEFT runs on Llama it runs on RWKV-7: trains, answers, generates, merges, saves and loads, in any precision.

`docs/adapters.md` has the table of all methods.
"""

import contextlib

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.text_models import tiny_model
from rwkv7_world.modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForSequenceClassification


MATRICES = ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"]
RANK = {"r": 4}
METHODS = {
    "AdaLora": RANK | {"total_step": 10},
    "BOFT": {"boft_block_size": 8},
    "C3A": {"block_size": 8},
    "FourierFT": {"n_frequency": 10},
    "Glora": RANK,
    "Gralora": RANK,
    "HRA": RANK,
    "IA3": {"feedforward_modules": []},
    "LoHa": RANK,
    "LoKr": RANK,
    "Lora": RANK,
    "Miss": RANK,
    "OFT": {"oft_block_size": 8},
    "RandLora": RANK,
    "Road": {"group_size": 16},
    "Shira": {"r": 2},
    "VBLoRA": {"vector_length": 16, "num_vectors": 8, "topk": 2},
    "Vera": RANK,
    "WaveFT": {"n_frequency": 10},
}
PRECISIONS = {
    "float32": (torch.float32, None),
    "bfloat16 autocast": (torch.float32, torch.bfloat16),
    "float16 autocast": (torch.float32, torch.float16),
    "bfloat16": (torch.bfloat16, None),
}
IDS = torch.arange(2 * 20).view(2, 20) % 36 + 1


def config_of(method: str) -> peft.PeftConfig:
    return getattr(peft, f"{method}Config")(task_type="CAUSAL_LM", target_modules=MATRICES, **METHODS[method])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_answers_merges_and_is_loaded_again(method, precision, tmp_path):
    dtype, autocast = PRECISIONS[precision]
    tolerance = 1e-4 if autocast is None and dtype is torch.float32 else 3e-2

    def as_configured() -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", dtype=autocast, enabled=autocast is not None)

    torch.manual_seed(0)
    model = peft.get_peft_model(tiny_model(dtype=dtype), config_of(method)).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with as_configured():
        model(input_ids=IDS, labels=IDS).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    optimizer.step()

    model.eval()
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(dtype=dtype), tmp_path).eval()
    with torch.no_grad(), as_configured():
        expected = model(input_ids=IDS).logits
        tokens = model.generate(input_ids=IDS, max_new_tokens=3, do_sample=False)
        scale = expected.abs().max()
        assert (loaded(input_ids=IDS).logits - expected).abs().max() <= tolerance * scale
        assert tokens.shape == (2, 23)
        merged = model.merge_and_unload().eval()
        assert (merged(input_ids=IDS).logits - expected).abs().max() <= tolerance * scale


class TestEmbeddings:
    @pytest.mark.parametrize(
        "options", [{"target_modules": ["embeddings", "lm_head"]}, {"trainable_token_indices": [3]}]
    )
    def test_adapters_on_them_train_and_generate(self, options):
        options = {"target_modules": ["r_proj"]} | options
        model = peft.get_peft_model(tiny_model(), peft.LoraConfig(task_type="CAUSAL_LM", r=2, **options))
        model(input_ids=IDS, labels=IDS).loss.backward()
        assert model.generate(input_ids=IDS, max_new_tokens=2).shape == (2, 22)

    def test_adapters_on_them_train_a_classifier(self):
        config = tiny_model().config
        config.num_labels = 3
        config.pad_token_id = 0
        lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["embeddings", "r_proj"])
        model = peft.get_peft_model(RWKV7ForSequenceClassification(config), lora)
        model(input_ids=IDS, labels=torch.tensor([0, 2])).loss.backward()
        assert any(p.grad is not None for name, p in model.named_parameters() if "lora_embedding" in name)


class TestLearnedPrompts:
    @pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PromptEncoderConfig])
    def test_generation_with_the_state_equals_that_of_whole_prompts(self, config):
        base = tiny_model()
        torch.manual_seed(1)
        model = peft.get_peft_model(base, config(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
        torch.nn.init.normal_(model.prompt_encoder.default.embedding.weight)
        ids = IDS[:1, :9]
        for _ in range(6):
            embeds = torch.cat([model.get_prompt(1), base.get_input_embeddings()(ids)], dim=1)
            with torch.no_grad():
                token = base(inputs_embeds=embeds, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], dim=1)
        options = {"max_new_tokens": 6, "do_sample": False}
        prompt = {"input_ids": IDS[:1, :9], "attention_mask": torch.ones(1, 9)}
        assert torch.equal(model.generate(**prompt, **options), ids)
        padded = {
            "input_ids": torch.stack([IDS[0, :9], torch.cat([IDS[1, :3] * 0, IDS[1, :6]])]),
            "attention_mask": torch.tensor([[1] * 9, [0] * 3 + [1] * 6]),
        }
        assert torch.equal(model.generate(**padded, **options)[0], ids[0])

    @pytest.mark.parametrize("config", [peft.PrefixTuningConfig, peft.CartridgeConfig])
    def test_keys_and_values_in_front_are_refused(self, config):
        model = peft.get_peft_model(tiny_model(), config(task_type="CAUSAL_LM", num_virtual_tokens=4))
        with pytest.raises(ValueError, match="continues the state in an RWKV7Cache, got a DynamicCache"):
            model(input_ids=IDS, labels=IDS)


def test_a_key_of_zeros_leaves_gradients_finite_in_float16(monkeypatch):
    monkeypatch.setenv("RWKV7_BACKEND", "chunked")  # through PyTorch, layer by layer
    model = tiny_model(dtype=torch.float16).train()
    with torch.no_grad():
        model.model.layers[0].attn.k_proj.weight.zero_()
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_auto_classes_load_adapters_with_and_without_a_task(tmp_path):
    base = tiny_model()
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = {"r": 2, "target_modules": ["r_proj"], "init_lora_weights": False}
    model = peft.get_peft_model(base, peft.LoraConfig(**lora)).eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        model.save_pretrained(tmp_path / "adapter")
        again = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter", import_allowlist=["rwkv7_world"]).eval()
        torch.testing.assert_close(again(input_ids=IDS).logits, expected)
        model.peft_config["default"].task_type = "CAUSAL_LM"
        model.save_pretrained(tmp_path / "adapter")
        again = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
        torch.testing.assert_close(again(input_ids=IDS).logits, expected)

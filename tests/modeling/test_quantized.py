# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantised models: which layers are, how far their logits are off, and that files hold all of them bit for bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from helpers import composites
from helpers.text_models import random_ids, tiny_model
from rwkv7_world import (
    RWKV7ForCausalLM,
    RWKV7ForSequenceClassification,
    RWKVQuantizationConfig,
    RWKVWorldForConditionalGeneration,
)
from rwkv7_world.kernels.cpu import decode as decode_cpu
from rwkv7_world.kernels.cpu import linear as linear_cpu
from rwkv7_world.kernels.cpu.quantized_linear import dequantize
from rwkv7_world.modeling_rwkv7_world.quantized_linear import QuantizedLinear


LARGE = {"r_proj", "k_proj", "v_proj", "o_proj", "key", "value"}
ERRORS = {8: 0.02, 4: 0.25}  # of the norm of the logits of a random model, whose weights have no structure at all


@pytest.fixture
def folder(tmp_path):
    """A text model, wide enough that its rows have more than a group."""
    tiny_model(hidden_size=96, intermediate_size=80).save_pretrained(tmp_path / "float")
    return tmp_path / "float"


def load(folder, bits: int | None = None, auto_class=RWKV7ForCausalLM, **kwargs) -> nn.Module:
    """The model, quantised unless it is already; nothing may be missing or left over."""
    dtype = kwargs.pop("dtype", torch.float32)
    config = {} if bits is None else {"quantization_config": RWKVQuantizationConfig(bits, **kwargs)}
    model, report = auto_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **config)
    assert not any(report.values()), report
    return model


def quantized_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def with_the_same_numbers(model: nn.Module, folder) -> nn.Module:
    """The model in ordinary layers, whose weights are the numbers that the quantised weights stand for."""
    twin = RWKV7ForCausalLM.from_pretrained(folder)
    for name in quantized_names(model):
        twin.get_submodule(name).weight.data = dequantize(model.get_submodule(name).quantized_weight)
    return twin


def assert_same(actual: nn.Module, expected: nn.Module) -> None:
    tensors = actual.state_dict()
    assert tensors.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


@pytest.mark.parametrize("bits", [8, 4])
def test_large_layers_are_quantised_and_no_others(bits, folder):
    model = load(folder, bits)
    expected = {name for name, module in model.named_modules() if name.split(".")[-1] in LARGE and "lora" not in name}
    assert quantized_names(model) == expected | {"lm_head"} and len(expected) == 6 * 2
    for name in quantized_names(model):
        assert model.get_submodule(name).quantized_weight.bits == bits
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_some_can_be_left_alone(folder):
    model = load(folder, 8, modules_to_not_convert=["lm_head", "v_proj"])
    assert {name.split(".")[-1] for name in quantized_names(model)} == LARGE - {"v_proj"}


def test_a_head_that_is_tied_to_the_embeddings_stays_as_they_are(tmp_path):
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    model = load(tmp_path, 8)
    assert "lm_head" not in quantized_names(model) and quantized_names(model)
    assert model.lm_head.weight is model.model.embeddings.weight


def test_a_classifier_keeps_its_own_head(tmp_path):
    RWKV7ForSequenceClassification(tiny_model().config).save_pretrained(tmp_path)
    model = load(tmp_path, 8, RWKV7ForSequenceClassification)
    assert type(model.score) is nn.Linear and len(quantized_names(model)) == 6 * 2


@torch.no_grad()
@pytest.mark.parametrize("bits, group_size", [(8, None), (8, 32), (4, None), (4, 64)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_logits_are_those_of_the_numbers_and_near_those_before(bits, group_size, dtype, tolerance, folder):
    model, ids = load(folder, bits, group_size=group_size), random_ids(2, 9)
    before, expected = load(folder)(ids).logits, with_the_same_numbers(model, folder)(ids).logits
    actual = model.to(dtype)(ids).logits
    assert actual.dtype == dtype
    assert (actual - expected).norm() <= tolerance * expected.norm()
    assert 1e-4 * before.norm() < (expected - before).norm() <= ERRORS[bits] * before.norm()


@torch.no_grad()
@pytest.mark.parametrize("bits, group_size", [(8, None), (4, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_is_the_same_bit_for_bit(bits, group_size, dtype, folder, tmp_path):
    model, ids = load(folder, bits, group_size=group_size, dtype=dtype), random_ids(2, 9)
    model.save_pretrained(tmp_path / "saved")
    for auto_class in (RWKV7ForCausalLM, AutoModelForCausalLM):
        again = load(tmp_path / "saved", auto_class=auto_class, dtype="auto")
        assert_same(again, model)
        assert torch.equal(again(ids).logits, model(ids).logits)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert config["bits"] == bits and config["group_size"] == (group_size or (None if bits == 8 else 32))
    sizes = [path.stat().st_size for path in (tmp_path / "saved" / "model.safetensors", folder / "model.safetensors")]
    assert sizes[0] < 0.7 * sizes[1]


def test_another_dtype_does_not_touch_the_weights(folder):
    model, twin = load(folder, 4), load(folder, 4)
    model.to(torch.float16).to(torch.float32)
    for name in quantized_names(model):
        assert_same(model.get_submodule(name), twin.get_submodule(name))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 2}])
def test_generate_gives_the_tokens_of_the_same_numbers(bits, kwargs, folder):
    model, ids = load(folder, bits), random_ids(2, 5)
    actual = model.generate(ids, max_new_tokens=8, **kwargs)
    assert torch.equal(actual, with_the_same_numbers(model, folder).generate(ids, max_new_tokens=8, **kwargs))


def test_runs_without_a_compiler(folder, monkeypatch):
    model, ids = load(folder, 4), random_ids(1, 5)
    expected = model.generate(ids, max_new_tokens=6)
    for library in (linear_cpu, decode_cpu):
        monkeypatch.setattr(library, "why_not_built", lambda: "no C++ compiler")
    assert torch.equal(model.generate(ids, max_new_tokens=6), expected)


def test_adapters_can_be_trained_around_it(folder):
    model, ids = load(folder, 4), random_ids(2, 9)
    model.requires_grad_(False)
    update = model.model.embeddings.weight.requires_grad_()  # the farthest from the loss
    loss = model(ids, labels=ids).loss
    loss.backward()
    twin = with_the_same_numbers(model, folder)
    twin(ids, labels=ids).loss.backward()
    assert torch.allclose(update.grad, twin.model.embeddings.weight.grad, rtol=1e-3, atol=1e-6)
    assert model.hf_quantizer.is_trainable


@torch.no_grad()
def test_a_composite_keeps_its_encoders_and_projectors(tmp_path):
    model = composites.tiny_composite("siglip", "whisper")
    model.save_pretrained(tmp_path / "float")
    quantized = load(tmp_path / "float", 8, RWKVWorldForConditionalGeneration)
    names = quantized_names(quantized)
    assert names == {"lm_head"} | {n for n in names if n.startswith("model.language_model.layers.")}
    assert len(names) == 1 + 6 * 2
    quantized.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved", auto_class=RWKVWorldForConditionalGeneration)
    assert_same(again, quantized)
    conversation = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
    processor = composites.tiny_processor("siglip", "whisper")
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[composites.random_image()], return_tensors="pt")
    before, after = model(**inputs).logits, again(**inputs).logits
    assert (after - before).norm() < 0.2 * before.norm()
    assert again.generate(**inputs, max_new_tokens=3).shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize("kwargs", [{"bits": 3}, {"bits": 4, "group_size": 20}, {"quant_method": "gptq"}])
def test_what_cannot_be_is_refused(kwargs):
    with pytest.raises(ValueError, match="bits is 3|group_size is 20|quant_method is 'gptq'"):
        RWKVQuantizationConfig(**kwargs)


def test_a_model_of_another_family_is_refused(tmp_path):
    config = LlamaConfig(
        vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="LlamaForCausalLM has no layers of RWKV-7"):
        LlamaForCausalLM.from_pretrained(tmp_path, quantization_config=RWKVQuantizationConfig(8))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_of_another_shape_is_refused(bits, folder):
    name = "model.layers.0.attn.k_proj.weight"
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name][:, :64].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError):
        load(folder, bits)

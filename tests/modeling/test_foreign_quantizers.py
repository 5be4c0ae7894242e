# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""torchao and bitsandbytes quantise the model as they do any other, where they are installed."""

import peft
import pytest
import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM


SIZES = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 64, "decay_low_rank_dim": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(**SIZES).save_pretrained(folder)
    return folder


@torch.no_grad()
def check(folder, quantised, most_error):
    ids, expected = random_ids(2, 9), RWKV7ForCausalLM.from_pretrained(folder)(random_ids(2, 9)).logits
    assert type(quantised.model.layers[0].ffn.key.weight) is not torch.nn.Parameter
    assert (quantised(ids).logits.float() - expected).norm() / expected.norm() < most_error
    assert quantised.generate(ids, max_new_tokens=4).shape == (2, 13)


def test_torchao_int8(folder):
    quantization = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    check(folder, RWKV7ForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16), 0.1)


@pytest.mark.parametrize(
    "options, most_error",
    [
        ({"load_in_8bit": True}, 0.1),
        # Its blocks of 64 do not fit low-rank maps that are narrower
        ({"load_in_4bit": True, "llm_int8_skip_modules": ["lora.0", "lora.2", "lm_head"]}, 0.5),
    ],
)
def test_bitsandbytes(folder, options, most_error):
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    check(folder, RWKV7ForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu"), most_error)


@torch.no_grad()
@pytest.mark.parametrize("double", [False, True])
def test_four_bits_of_bitsandbytes_survive_being_saved_after_inference(folder, double, tmp_path):
    pytest.importorskip("bitsandbytes")
    options = {"load_in_4bit": True, "llm_int8_skip_modules": ["lora.0", "lora.2", "lm_head"]}
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant=double, **options)
    model = RWKV7ForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.bfloat16
    ).eval()
    ids = random_ids(2, 9)
    expected = model(ids).logits.float()
    most = 2e-2 * expected.abs().max() if double else 0  # its scales are rounded anew
    model.save_pretrained(tmp_path / "model")
    assert (model(ids).logits - expected).abs().max() <= most
    loaded = RWKV7ForCausalLM.from_pretrained(tmp_path / "model", device_map="cpu").eval()
    assert (loaded(ids).logits - expected).abs().max() <= most
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["r_proj"], r=2)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    assert (adapted(ids).logits - expected).abs().max() <= most

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters of every method: only they are trained, on the language model alone; saved, loaded, merged, refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, Trainer, TrainingArguments

from helpers.adapters import cached_logits, logits_of, randomize_adapter, train, trained
from helpers.composites import tiny_composite
from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVQuantizationConfig
from rwkv7_world.adapters import attach_adapter, build_peft_config, language_model_targets, load_adapter


TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
IDS = random_ids(2, 9, vocab_size=15)
SPECS = {
    "state": {"method": "state", "tokens": True},
    "lora": {"method": "lora", "r": 4, "alpha": 6, "dropout": 0.1},
    "lora with norms and state": {"method": "lora", "r": 2, "norms": True, "state": True},
    "lora with the head": {"method": "lora", "r": 2, "targets": ["ffn.key"], "modules_to_save": ["lm_head"]},
    "dora": {"method": "dora", "r": 3, "rslora": True},
    "pissa": {"method": "pissa", "r": 4},
    "miss": {"method": "miss", "r": 5},
    "bat": {"method": "bone", "r": 4, "init": "bat"},
    "mini": {"method": "disha", "r": 4, "init": "mini", "mini_r": 8},
}
METHODS = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
LOAD_IN_NEW_PROCESS = """
import sys
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
import rwkv7_world

ids, logits = load_file("ids.safetensors")["ids"], {}
for name in sys.argv[1:]:
    model = AutoPeftModelForCausalLM.from_pretrained(name)
    with torch.no_grad():
        logits[name] = model(input_ids=ids).logits
save_file(logits, "logits.safetensors")
"""


@METHODS
@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_composite("siglip", "whisper")], ids=["text", "composite"])
def test_only_the_adapter_of_the_language_model_is_trained(make, spec):
    model = attach_adapter(make(), spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = train(model, IDS)
    assert losses[-1] < losses[0] - 0.05
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and changed <= trained(model).keys()
    assert not any("tower" in name or "projector" in name for name in changed)


@METHODS
def test_cached_and_merged_compute_the_same(spec):
    """Wrapped layers are left to PEFT, also where plain ones run in C++: few rows, single tokens."""
    model = randomize_adapter(attach_adapter(tiny_model(), spec), scale=0.1)
    expected = logits_of(model, IDS)
    assert not torch.allclose(expected, logits_of(tiny_model(), IDS), atol=1e-2)
    torch.testing.assert_close(cached_logits(model, IDS, prompt=4), expected, **TOLERANCE)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, IDS), expected, **TOLERANCE)
    torch.testing.assert_close(cached_logits(merged, IDS, prompt=4), expected, **TOLERANCE)


def test_saved_adapters_load_in_a_new_process(tmp_path):
    """After `import rwkv7_world`, by PEFT's own class, which finds the base model."""
    tiny_model().save_pretrained(tmp_path / "base")
    expected = {}
    for name, spec in SPECS.items():
        base = RWKV7ForCausalLM.from_pretrained(tmp_path / "base")
        model = attach_adapter(base, spec)
        train(model, IDS, steps=1)
        model.save_pretrained(tmp_path / name)
        expected[name] = logits_of(model, IDS)
    save_file({"ids": IDS}, tmp_path / "ids.safetensors")
    command = [sys.executable, "-c", LOAD_IN_NEW_PROCESS, *SPECS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    logits = load_file(tmp_path / "logits.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(logits[name], tensor, **TOLERANCE, msg=name)


@pytest.mark.parametrize("name", ["state", "lora with norms and state"])
def test_the_trainer_of_transformers_resumes_it_bit_for_bit(tmp_path, name):
    """Also with gradient checkpointing below a frozen model."""
    rows = [{"input_ids": ids, "labels": ids} for ids in random_ids(8, 9)]
    options = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.05}
    arguments = TrainingArguments(
        tmp_path, **options, gradient_checkpointing=True, use_cpu=True, report_to="none", disable_tqdm=True
    )
    results = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        torch.manual_seed(0)
        trainer = Trainer(attach_adapter(tiny_model(), SPECS[name]), arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=checkpoint)
        results.append(trained(trainer.model))
    whole, resumed = results
    assert all(torch.equal(parameter, resumed[key]) for key, parameter in whole.items())
    loaded = load_adapter(tiny_model(), tmp_path / "checkpoint-4")
    assert torch.equal(logits_of(loaded, IDS), logits_of(trainer.model.eval(), IDS))


def test_targets_of_the_default_miss_the_encoders():
    composite = tiny_composite("siglip", "whisper")
    layers = [f"model.language_model.layers.{i}" for i in range(2)]
    ends = ("attn.r_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj", "ffn.key", "ffn.value")
    expected = {f"{layer}.{end}" for layer in layers for end in ends}
    for config in (LoraConfig(), MissConfig(r=2), LoraConfig(target_modules=language_model_targets(composite))):
        adapted = get_peft_model(tiny_composite("siglip", "whisper"), config)
        assert set(adapted.base_model.targeted_module_names) == expected
    headless = get_peft_model(
        tiny_model().model, LoraConfig(target_modules=language_model_targets(tiny_model().model))
    )
    assert len(headless.base_model.targeted_module_names) == 12


class TestFewBits:
    @pytest.fixture(params=[8, 4])
    def quantized(self, request, tmp_path) -> RWKV7ForCausalLM:
        tiny_model().save_pretrained(tmp_path)
        return RWKV7ForCausalLM.from_pretrained(tmp_path, quantization_config=RWKVQuantizationConfig(request.param))

    @pytest.mark.parametrize("method", ["qlora", "miss", "state"])
    def test_adapters_train_on_it(self, quantized, method, tmp_path):
        spec = {"method": method} if method == "state" else {"method": method, "r": 4}
        model = attach_adapter(quantized, spec)
        losses = train(model, IDS)
        assert losses[-1] < losses[0] - 0.05
        expected = logits_of(model, IDS)
        torch.testing.assert_close(cached_logits(model, IDS, prompt=4), expected, atol=1e-4, rtol=1e-4)
        if method == "state":
            torch.testing.assert_close(logits_of(model.merge_and_unload(), IDS), expected, **TOLERANCE)
            return
        with pytest.raises(TypeError, match="nothing can be merged into them"):
            model.merge_and_unload()
        model.unload()

    @pytest.mark.parametrize(
        "config",
        [
            LoraConfig(target_modules=["key"], init_lora_weights=False),
            MissConfig(target_modules=["key"], r=4, init_weights=False),
            MissConfig(target_modules=["key"], r=5, init_weights=False),  # no divisor of the width
            MissConfig(target_modules=["key"], r=4, init_weights="bat"),
        ],
    )
    def test_peft_alone_cannot_merge_into_it_either(self, quantized, config):
        before = logits_of(quantized, IDS)
        model = get_peft_model(quantized, config)
        randomize_adapter(model)
        with pytest.raises(TypeError, match="nothing can be merged into them"):
            model.merge_and_unload()
        torch.testing.assert_close(logits_of(model.unload(), IDS), before, rtol=0, atol=0)

    @pytest.mark.parametrize("spec", [{"method": "dora"}, {"method": "pissa"}, {"method": "bone", "init": "bat"}])
    def test_methods_that_read_the_weights_are_refused(self, quantized, spec):
        with pytest.raises(ValueError, match="reads the weights, which RWKVQuantizationConfig left 8 or 4 bits"):
            attach_adapter(quantized, spec)

    def test_lora_on_bitsandbytes(self, tmp_path):
        pytest.importorskip("bitsandbytes")
        sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 64, "decay_low_rank_dim": 32}
        tiny_model(**sizes).save_pretrained(tmp_path)
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            # Its blocks of 64 do not fit low-rank maps that are narrower
            llm_int8_skip_modules=["lora.0", "lora.2", "lm_head"],
        )
        base = RWKV7ForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
        model = attach_adapter(base, {"method": "qlora", "r": 4})
        losses = train(model, IDS)
        assert losses[-1] < losses[0] - 0.05


class TestRefusals:
    @pytest.mark.parametrize(
        "spec, message",
        [
            ({}, "adapter method None: expected one of state, lora, qlora, dora, pissa, miss, bone, disha"),
            ({"method": "lora", "lr": 1}, "adapter method lora has no 'lr': it takes method, targets"),
            ({"method": "state", "r": 4}, "adapter method state has no 'r'"),
            ({"method": "miss", "alpha": 4}, "adapter method miss has no 'alpha'"),
            ({"method": "lora", "r": 0}, "adapter r is 0, expected a whole number of at least 1"),
            ({"method": "lora", "r": True}, "adapter r is True"),
            ({"method": "lora", "alpha": "8"}, "adapter alpha is '8', expected a number above 0"),
            ({"method": "lora", "dropout": 1}, "adapter dropout is 1, expected a number from 0 to below 1"),
            ({"method": "lora", "state": 1}, "adapter state is 1, expected true or false"),
            ({"method": "lora", "init": "best"}, "adapter init 'best': expected true, false or gaussian"),
            ({"method": "lora", "init": "pissa_niter_4"}, "a random decomposition comes out differently"),
            ({"method": "miss", "init": "row"}, "adapter init 'row': expected one of balance, bat, mini"),
            ({"method": "miss", "mini_r": 2}, "mini_r goes with init: mini, not with init: balance"),
            ({"method": "lora", "targets": ["k_proj"]}, "targets: k_proj given, expected some of attn.r_proj"),
            ({"method": "lora", "targets": []}, "targets: none given"),
            ({"method": "lora", "targets": 3}, "adapter targets 3: expected a pattern, or a list"),
            ({"method": "lora", "modules_to_save": ["haed"]}, "no module of the model is called haed"),
            ({"method": "lora", "modules_to_save": "lm_head"}, "modules_to_save 'lm_head': expected a list"),
            ({"method": "qlora"}, "qlora is for a quantised model"),
        ],
    )
    def test_wrong_settings(self, spec, message):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            build_peft_config(tiny_model(), spec)

    def test_a_model_without_rwkv(self):
        with pytest.raises(ValueError, match="Linear has no RWKV-7 text model in it"):
            language_model_targets(torch.nn.Linear(1, 1))

    def test_adapters_of_another_model(self, tmp_path):
        attach_adapter(tiny_model(), {"method": "state"}).save_pretrained(tmp_path)
        for changes, message in (
            ({"num_hidden_layers": 3}, r"for example .*layers\.2\.attn\..*, which the adapter lacks"),
            ({"num_hidden_layers": 1}, r"for example .*layers\.1\.attn\..*, which the model has no place for"),
            ({"head_dim": 8}, r"size mismatch for .* torch\.Size\(\[2, 16, 16\]\)"),
        ):
            with pytest.raises(ValueError, match=f"an adapter of another model, {message}"):
                load_adapter(tiny_model(**changes), tmp_path)

    def test_an_adapter_of_a_composite_for_a_text_model(self, tmp_path):
        attach_adapter(tiny_composite("siglip"), {"method": "lora"}).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="an adapter of another model, which has none of the layers it changes"):
            load_adapter(tiny_model(), tmp_path)

    def test_folders_without_an_adapter(self, tmp_path):
        for source in (tmp_path, tmp_path / "none"):
            with pytest.raises(ValueError, match="no adapter of PEFT"):
                load_adapter(tiny_model(), source)


def test_a_second_adapter_is_loaded_beside_the_first(tmp_path):
    for name, seed in (("first", 1), ("second", 2)):
        randomize_adapter(attach_adapter(tiny_model(), {"method": "state"}), seed).save_pretrained(tmp_path / name)
    model = load_adapter(load_adapter(tiny_model(), tmp_path / "first"), tmp_path / "second", "second")
    assert isinstance(model, PeftModel) and model.active_adapters == ["second"]
    expected = logits_of(load_adapter(tiny_model(), Path(tmp_path / "second")), IDS)
    assert torch.equal(logits_of(model, IDS), expected)


def test_a_plain_lora_works_beside_a_state(tmp_path):
    """Each was trained by itself, the LoRA without any knowledge of states."""
    for name, method in (("style", "state"), ("task", "lora")):
        randomize_adapter(attach_adapter(tiny_model(), {"method": method}), scale=0.2).save_pretrained(tmp_path / name)
    model = load_adapter(load_adapter(tiny_model(), tmp_path / "style"), tmp_path / "task", "task")
    torch.testing.assert_close(logits_of(model, IDS), logits_of(load_adapter(tiny_model(), tmp_path / "task"), IDS))
    model.base_model.set_adapter(["default", "task"])
    both = logits_of(model, IDS)
    start = load_adapter(tiny_model(), tmp_path / "style").merge_and_unload()
    torch.testing.assert_close(both, logits_of(load_adapter(start, tmp_path / "task"), IDS), **TOLERANCE)
    torch.testing.assert_close(logits_of(model.merge_and_unload(), IDS), both, **TOLERANCE)

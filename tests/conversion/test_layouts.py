# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Every layout of RWKV-7 is loaded whole or refused by name, and becomes every other, bit for bit."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from helpers.blinkdl import (
    Sizes,
    assert_same_bytes,
    fla_state_dict,
    greedy_in_rwkv_package,
    load_in_rwkv_package,
    random_checkpoint,
)
from helpers.layouts import LAYOUTS, fla_config, goose_config, official_config, official_tensors, write_layout
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM, RWKV7ForSequenceClassification, RWKV7Model
from rwkv7_world.conversion import convert_to_blinkdl, convert_to_fla, convert_to_hub, convert_to_official
from rwkv7_world.conversion.text_checkpoint import UNUSED_VALUE_MIX


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in

# Widths that no formula gives
SHAPES = [
    Sizes(layers=2, seed=1),
    Sizes(layers=3, hidden=192, vocab=70, decay_rank=20, a_rank=36, v_rank=12, gate_rank=100, ffn=448, seed=2),
    Sizes(layers=4, hidden=64, decay_rank=33, a_rank=7, v_rank=31, gate_rank=65, ffn=100, layer_0_has_v=True, seed=3),
]
PROMPT, NEW_TOKENS = [5, 6, 7, 8, 9], 50
TO = {"hub": convert_to_hub, "fla": convert_to_fla, "official": convert_to_official}


class TestLoading:
    @torch.no_grad()
    @pytest.mark.parametrize("sizes", SHAPES, ids=lambda sizes: f"hidden {sizes.hidden}")
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_logits_and_tokens_are_those_of_the_rwkv_package(self, layout, sizes, tmp_path):
        checkpoint = random_checkpoint(sizes)
        torch.save(checkpoint, tmp_path / "a.pth")
        folder = write_layout(tmp_path / "model", layout, checkpoint, sizes, shards=1 + sizes.seed % 2)
        package = load_in_rwkv_package(tmp_path / "a.pth")
        expected, state = package.forward(PROMPT, None, full_output=True)
        tokens = greedy_in_rwkv_package(package, expected[-1], state, NEW_TOKENS)
        for model_class in (AutoModelForCausalLM, RWKV7ForCausalLM):
            model = model_class.from_pretrained(folder)
            assert type(model) is RWKV7ForCausalLM
            torch.testing.assert_close(
                model(torch.tensor([PROMPT])).logits[0], expected.view(len(PROMPT), -1), atol=1e-4, rtol=0
            )
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert model.generate(torch.tensor([PROMPT]), **options)[0, len(PROMPT) :].tolist() == tokens

    @torch.no_grad()
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_file_loads_too(self, suffix, tmp_path):
        checkpoint = random_checkpoint(SHAPES[2])
        if suffix == ".pth":
            torch.save(checkpoint, tmp_path / "model.pth")
        else:
            save_file(
                {name: tensor.contiguous() for name, tensor in checkpoint.items()}, tmp_path / "model.safetensors"
            )
        model, report = RWKV7ForCausalLM.from_pretrained(
            tmp_path / f"model{suffix}", eos_token_id=None, dtype=torch.float64, output_loading_info=True
        )
        assert not any(report.values())
        assert model.dtype == torch.float64 and model.config.eos_token_id is None
        assert model.config.name_or_path == str(tmp_path / f"model{suffix}")
        assert_same_bytes(dict(model.float().state_dict()), fla_state_dict(checkpoint))
        headless = RWKV7Model.from_pretrained(tmp_path / f"model{suffix}")
        assert torch.equal(headless.norm.weight, checkpoint["ln_out.weight"])
        with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
            RWKV7ForCausalLM.from_pretrained(tmp_path / "none.pth")

    @pytest.mark.parametrize("model_class", [RWKV7Model, AutoModel, RWKV7ForSequenceClassification])
    def test_other_heads_load_the_official_layout(self, model_class, tmp_path):
        checkpoint = random_checkpoint(SHAPES[0])
        folder = write_layout(tmp_path / "model", "official", checkpoint, SHAPES[0])
        weights = model_class.from_pretrained(folder).state_dict()
        for name, tensor in fla_state_dict(checkpoint).items():
            for kept in (name, name.removeprefix("model.")):
                assert kept not in weights or torch.equal(weights[kept], tensor), name
        assert len(weights) == len(fla_state_dict(checkpoint)) - (model_class is not RWKV7ForSequenceClassification)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_what_is_saved_has_our_names(self, layout, tmp_path):
        checkpoint = random_checkpoint(SHAPES[1])
        folder = write_layout(tmp_path / "model", layout, checkpoint, SHAPES[1])
        RWKV7ForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "saved")
        assert_same_bytes(load_file(tmp_path / "saved/model.safetensors"), fla_state_dict(checkpoint))
        config = json.loads((tmp_path / "saved/config.json").read_text())
        assert config["architectures"] == ["RWKV7ForCausalLM"]
        assert config["auto_map"]["AutoModelForCausalLM"] == "rwkv7_world_code/hub_classes.RWKV7ForCausalLM"

    def test_a_new_model_is_saved_with_our_names(self, tmp_path):
        RWKV7ForCausalLM(RWKV7Config.from_dict(official_config(SHAPES[0]))).save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            assert file.keys() == sorted(fla_state_dict(random_checkpoint(SHAPES[0])))

    def test_remote_code_loads_other_layouts(self, tmp_path):
        """Code of a saved folder, without this package, reads official weights and refuses half of them."""
        checkpoint = random_checkpoint(SHAPES[0])
        folder = write_layout(tmp_path / "model", "official", checkpoint, SHAPES[0])
        RWKV7Config.from_pretrained(folder).save_pretrained(folder)
        weights = official_tensors(checkpoint)
        program = (
            "import sys, torch, transformers\n"
            "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
            "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "assert 'transformers_modules' in type(model).__module__\n"
            "torch.save(model.state_dict(), sys.argv[2])\n"
        )
        command = [sys.executable, "-c", program, str(folder), str(tmp_path / "weights.pt")]
        subprocess.run(command, check=True, capture_output=True)
        assert_same_bytes(torch.load(tmp_path / "weights.pt"), fla_state_dict(checkpoint))
        del weights["rwkv7.blocks.1.ffn.key.weight"]
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 1 and "model.layers.1.ffn.key.weight" in run.stderr.splitlines()[-1]


# What is done to the tensors, and what a refusal names: in our model, and in the file
FAULTS = {
    "renamed": ("receptance.weight", "receptances.weight", ["model.layers.1.attn.r_proj.weight", "receptances"]),
    "missing": ("att.w2", None, ["model.layers.1.attn.w_lora.lora.2.weight"]),
    "too many": (None, "att.w3", ["model.layers.1.attn.w3"]),
}


class TestRefusals:
    @pytest.mark.parametrize("fault", FAULTS)
    @pytest.mark.parametrize("auto", [True, False], ids=["Auto class", "our class"])
    def test_a_folder_is_loaded_whole_or_refused(self, fault, auto, tmp_path):
        folder = write_layout(tmp_path / "model", "official", random_checkpoint(SHAPES[0]), SHAPES[0])
        weights = load_file(folder / "model.safetensors")
        lost, gained, named = FAULTS[fault]
        tensor = weights.pop(f"rwkv7.blocks.1.{'' if lost.startswith('att') else 'att.'}{lost}") if lost else None
        if gained:
            prefix = "rwkv7.blocks.1." + ("" if gained.startswith("att") else "att.")
            weights[prefix + gained] = torch.zeros(2) if tensor is None else tensor
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="not loaded, for not all weights fit") as refusal:
            (AutoModelForCausalLM if auto else RWKV7ForCausalLM).from_pretrained(folder)
        assert all(name in str(refusal.value) for name in [*named, str(folder), "BlinkDL's names"])
        for convert in (*TO.values(), convert_to_blinkdl):
            with pytest.raises(ValueError, match=r"blocks\.1\.att\.(receptance|w2|w3)"):
                convert(folder, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    def test_another_shape_is_refused_by_name(self, tmp_path):
        folder = write_layout(tmp_path / "model", "official", random_checkpoint(SHAPES[0]), SHAPES[0])
        weights = load_file(folder / "model.safetensors")
        weights["rwkv7.blocks.1.att.a1"] = torch.zeros(128, 41)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(RuntimeError, match="mismatch"):
            RWKV7ForCausalLM.from_pretrained(folder)
        with pytest.raises(ValueError, match=r"blocks\.1\.att\.a1 has the shape \(128, 41\), expected \(128, 40\)"):
            convert_to_fla(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        loaded = RWKV7ForCausalLM.from_pretrained(folder, ignore_mismatched_sizes=True)
        assert loaded.model.layers[1].attn.a_lora.lora[0].out_features == 40

    def test_no_folder_of_another_model_is_taken_for_one(self, tmp_path):
        folder = write_layout(tmp_path / "model", "official", random_checkpoint(SHAPES[0]), SHAPES[0])
        save_file({"transformer.h.0.attn.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"tensors of the model are missing: .* transformer\.h\.0\.attn\.weight"):
            AutoModelForCausalLM.from_pretrained(folder)
        with pytest.raises(ValueError, match="no RWKV-7 text model of any layout"):
            convert_to_hub(folder, tmp_path / "out")


class TestConversion:
    @pytest.mark.parametrize("to", TO)
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_becomes_every_other_and_a_pth_file_again(self, layout, to, tmp_path):
        sizes = SHAPES[(list(LAYOUTS).index(layout) + list(TO).index(to)) % len(SHAPES)]
        checkpoint = random_checkpoint(sizes)
        folder = write_layout(tmp_path / "model", layout, checkpoint, sizes, shards=sizes.seed)
        if "fla" in layout:  # which has no place for it
            checkpoint = {name: tensor for name, tensor in checkpoint.items() if name not in UNUSED_VALUE_MIX}
        TO[to](folder, tmp_path / "there", max_shard_size=100_000)
        convert_to_blinkdl(tmp_path / "there", tmp_path / "back.pth")
        assert_same_bytes(torch.load(tmp_path / "back.pth"), checkpoint)
        convert_to_blinkdl(tmp_path / "there", tmp_path / "back.safetensors")
        assert_same_bytes(load_file(tmp_path / "back.safetensors"), checkpoint)

    @pytest.mark.parametrize("sizes", SHAPES, ids=lambda sizes: f"hidden {sizes.hidden}")
    def test_the_official_layout_there_and_back(self, sizes, tmp_path):
        checkpoint = random_checkpoint(sizes)
        folder = write_layout(tmp_path / "model", "official", checkpoint, sizes)
        convert_to_hub(folder, tmp_path / "hub")
        convert_to_official(tmp_path / "hub", tmp_path / "back")
        assert_same_bytes(load_file(tmp_path / "back/model.safetensors"), official_tensors(checkpoint))
        config = official_config(sizes)
        del config["auto_map"]
        assert json.loads((tmp_path / "back/config.json").read_text()) == config

    def test_the_fla_folder_holds_nothing_of_ours(self, tmp_path):
        sizes = SHAPES[1]
        folder = write_layout(tmp_path / "model", "official", random_checkpoint(sizes), sizes)
        convert_to_fla(folder, tmp_path / "fla")
        names = {path.name for path in (tmp_path / "fla").iterdir()}
        assert names == {"config.json", "generation_config.json", "model.safetensors"}
        config, theirs = json.loads((tmp_path / "fla/config.json").read_text()), fla_config(sizes)
        assert {name: config.get(name) for name in theirs} == theirs
        assert "auto_map" not in config and "layer_types" not in config

    def test_a_tokenizer_that_is_not_ours_goes_along(self, tmp_path):
        sizes = SHAPES[0]
        folder = write_layout(tmp_path / "model", "Goose", random_checkpoint(sizes), sizes)
        (folder / "tokenizer.json").write_text("{}")
        (folder / "generation_config.json").write_text('{"temperature": 0.7}')
        convert_to_hub(folder, tmp_path / "hub")
        assert (tmp_path / "hub/tokenizer.json").read_text() == "{}"
        assert json.loads((tmp_path / "hub/generation_config.json").read_text()) == {"temperature": 0.7}

    def test_what_a_layout_has_no_place_for_is_refused(self, tmp_path):
        torch.save(random_checkpoint(Sizes(head_size=32)), tmp_path / "a.pth")
        for convert in (convert_to_fla, convert_to_official):
            with pytest.raises(ValueError, match="group_norm_eps is 0.00064, but"):
                convert(tmp_path / "a.pth", tmp_path / "out")
        states = {f"blocks.{layer}.att.time_state": torch.randn(2, 64, 64) for layer in range(2)}
        torch.save(random_checkpoint(Sizes()) | states, tmp_path / "b.pth")
        for convert in (convert_to_fla, convert_to_official):
            with pytest.raises(ValueError, match="starts from a learned state"):
                convert(tmp_path / "b.pth", tmp_path / "out")


class TestConfigurations:
    @pytest.mark.parametrize("hidden", [768, 1024, 2048, 2560, 4096])
    def test_widths_that_are_left_out_follow_the_formula_of_the_layout(self, hidden):
        """Values of RWKV-LM's train_temp and of the Goose models' code, computed by hand."""
        ranks = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
        official = {
            768: [64, 64, 32, 128],
            1024: [64, 64, 64, 160],
            2048: [128, 128, 64, 224],
            2560: [128, 128, 96, 256],
            4096: [160, 160, 96, 320],
        }
        goose = {
            768: [64, 64, 32, 128],
            1024: [64, 64, 32, 160],
            2048: [96, 96, 64, 256],
            2560: [96, 96, 64, 320],
            4096: [128, 128, 96, 480],
        }
        sizes = Sizes(hidden=hidden)
        config = RWKV7Config.from_dict(official_config(sizes, intermediate_size=None, **dict.fromkeys(ranks)))
        assert [getattr(config, name) for name in ranks] == official[hidden]
        assert config.intermediate_size == 4 * hidden
        left_out = {name: None for name in goose_config(sizes) if name.startswith("lora_rank")}
        config = RWKV7Config.from_dict(goose_config(sizes, intermediate_size=None, **left_out))
        assert [getattr(config, name) for name in ranks] == goose[hidden]
        assert config.num_heads == hidden // 64 and config.group_norm_eps == pytest.approx(64e-5)

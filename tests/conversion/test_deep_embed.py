# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7a and RWKV-7b files become folders and files again, bit for bit, or are refused by name."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.blinkdl import Sizes, assert_same_bytes
from helpers.deep_embed import DeepSizes, deep_checkpoint, deep_state_dict, read_all
from helpers.layouts import official_config
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.cli.main import main
from rwkv7_world.conversion import convert_to_blinkdl, convert_to_fla, convert_to_hub, convert_to_official


PLAIN = Sizes(layers=2, hidden=64, vocab=50, ffn=96, seed=7)
MODELS = {
    "7a": DeepSizes(PLAIN, side=5),
    "7a, rows": DeepSizes(PLAIN, side=6, row_vectors=True),
    "7b": DeepSizes(PLAIN, side=5, attn_dim=20, attn_rank=3),
    "7b, rows": DeepSizes(PLAIN, side=5, attn_dim=12, row_vectors=True),
}
IDS = [5, 6, 7, 5, 9]


@pytest.fixture(params=MODELS)
def sizes(request) -> DeepSizes:
    return MODELS[request.param]


@pytest.fixture
def checkpoint(sizes, tmp_path) -> dict[str, torch.Tensor]:
    """The tensors of `model.pth`, which lies in `tmp_path`."""
    checkpoint = deep_checkpoint(sizes)
    torch.save(checkpoint, tmp_path / "model.pth")
    return checkpoint


def config_fields(sizes: DeepSizes) -> dict:
    fields = {"deep_embed_dim": sizes.side, "deep_embed_attn_dim": sizes.attn_dim}
    return fields | {"deep_embed_attn_low_rank_dim": None if sizes.attn_dim is None else sizes.attn_rank}


class TestThereAndBack:
    def test_a_file_becomes_a_folder_and_the_same_file(self, checkpoint, sizes, tmp_path):
        convert_to_hub(tmp_path / "model.pth", tmp_path / "hub", max_shard_size=100_000)
        config = json.loads((tmp_path / "hub/config.json").read_text())
        assert {name: config[name] for name in config_fields(sizes)} == config_fields(sizes)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
        assert type(model) is RWKV7ForCausalLM
        assert_same_bytes(model.state_dict(), deep_state_dict(checkpoint))
        model.save_pretrained(tmp_path / "saved")
        assert_same_bytes(load_file(tmp_path / "saved/model.safetensors"), deep_state_dict(checkpoint))
        for folder in ("hub", "saved"):
            convert_to_blinkdl(tmp_path / folder, tmp_path / f"{folder}.pth")
            assert_same_bytes(torch.load(tmp_path / f"{folder}.pth"), checkpoint)

    @torch.no_grad()
    def test_files_and_folders_with_his_names_load_as_they_are(self, checkpoint, sizes, tmp_path):
        (tmp_path / "named").mkdir()
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.items()}
        save_file(tensors, tmp_path / "named/model.safetensors", {"format": "pt"})
        fields = official_config(PLAIN, **config_fields(sizes))
        (tmp_path / "named/config.json").write_text(json.dumps(fields))
        for source in ("model.pth", "named/model.safetensors", "named"):
            model = RWKV7ForCausalLM.from_pretrained(tmp_path / source).eval()
            logits = model(torch.tensor([IDS])).logits[0].double()
            torch.testing.assert_close(logits, read_all(checkpoint, IDS), atol=1e-4, rtol=0)

    def test_bfloat16_stays(self, sizes, tmp_path):
        checkpoint = {name: tensor.bfloat16() for name, tensor in deep_checkpoint(sizes).items()}
        torch.save(checkpoint, tmp_path / "half.pth")
        convert_to_hub(tmp_path / "half.pth", tmp_path / "hub")
        convert_to_blinkdl(tmp_path / "hub", tmp_path / "back.pth")
        assert_same_bytes(torch.load(tmp_path / "back.pth"), checkpoint)

    def test_a_folder_loads_where_this_package_is_not(self, checkpoint, tmp_path):
        """By the code that it carries."""
        convert_to_hub(tmp_path / "model.pth", tmp_path / "hub")
        program = (
            "import sys, torch, transformers\n"
            "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
            "model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
            "assert 'transformers_modules' in type(model).__module__\n"
            f"torch.save(model(torch.tensor([{IDS}])).logits.detach(), sys.argv[2])\n"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "hub"), str(tmp_path / "logits.pt")]
        subprocess.run(command, check=True, capture_output=True)
        logits = torch.load(tmp_path / "logits.pt")[0].double()
        torch.testing.assert_close(logits, read_all(checkpoint, IDS), atol=1e-4, rtol=0)


# What is done to the tensors of RWKV-7b, and what a refusal says of the file and of a folder
FAULTS = {
    "no table": ("blocks.1.ffn.s_emb.weight", None, "the tensor {} is missing"),
    "no residual": ("blocks.1.qkv.k_emb_x.weight", None, "the tensor {} is missing"),
    "no low rank": ("blocks.0.ffn.s1", None, "the tensor {} is missing"),
    "no attention in a layer": ("blocks.1.qkv.", None, "the tensor blocks.1.qkv.qq.weight is missing, and 17 more"),
    "unknown": ("blocks.1.qkv.zz", torch.zeros(3), "unexpected tensor {} in RWKV-7"),
    "short table": ("blocks.0.ffn.s_emb.weight", torch.zeros(49, 25), "{} has the shape (49, 25), expected (50, 25)"),
    "narrow": ("blocks.1.qkv.v2", torch.zeros(3, 60), "{} has the shape (3, 60), expected (3, 64)"),
    "vectors unlike": ("blocks.1.ffn.s0", torch.zeros(1, 1, 96), "{} has the shape (1, 1, 96), expected (96,)"),
}


class TestRefusals:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_files_are_loaded_whole_or_refused_by_name(self, fault, tmp_path):
        name, tensor, message = FAULTS[fault]
        checkpoint = deep_checkpoint(MODELS["7b"])
        if tensor is None:
            checkpoint = {other: x for other, x in checkpoint.items() if not other.startswith(name)}
        else:
            checkpoint[name] = tensor
        torch.save(checkpoint, tmp_path / "model.pth")
        for refuse in (RWKV7ForCausalLM.from_pretrained, lambda path: convert_to_hub(path, tmp_path / "out")):
            with pytest.raises(ValueError) as refusal:
                refuse(tmp_path / "model.pth")
            assert str(refusal.value) == f"{tmp_path / 'model.pth'}: {message.format(name)}"
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("lost", [True, False])
    def test_folders_are_loaded_whole_or_refused_by_name(self, lost, checkpoint, tmp_path):
        convert_to_hub(tmp_path / "model.pth", tmp_path / "hub")
        weights = load_file(tmp_path / "hub/model.safetensors")
        name = (
            "model.layers.1.ffn.deep_embed.s_emb_x.weight" if lost else "model.layers.1.ffn.deep_embed.s_emb_y.weight"
        )
        if lost:
            del weights[name]
        else:
            weights[name] = torch.zeros(3)
        save_file(weights, tmp_path / "hub/model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=f"not all weights fit; .*{name}"):
            RWKV7ForCausalLM.from_pretrained(tmp_path / "hub")
        with pytest.raises(ValueError, match=r"s_emb_[xy]"):
            convert_to_blinkdl(tmp_path / "hub", tmp_path / "back.pth")

    def test_a_plain_folder_is_not_completed(self, checkpoint, tmp_path):
        """A configuration with DeepEmbed beside weights without, and the other way round."""
        convert_to_hub(tmp_path / "model.pth", tmp_path / "hub")
        config = json.loads((tmp_path / "hub/config.json").read_text())
        plain = dict(config, deep_embed_dim=None, deep_embed_attn_dim=None)
        (tmp_path / "hub/config.json").write_text(json.dumps(plain))
        with pytest.raises(ValueError, match=r"files have no place in it: .*deep_embed"):
            RWKV7ForCausalLM.from_pretrained(tmp_path / "hub")
        (tmp_path / "hub/config.json").write_text(json.dumps(config))
        weights = load_file(tmp_path / "hub/model.safetensors")
        weights = {name: x for name, x in weights.items() if "deep_embed" not in name}
        save_file(weights, tmp_path / "hub/model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"tensors of the model are missing: .*deep_embed"):
            RWKV7ForCausalLM.from_pretrained(tmp_path / "hub")

    def test_other_layouts_have_no_place_for_it(self, sizes, checkpoint, tmp_path, capsys):
        kind = "an RWKV-7a model (DeepEmbed)" if sizes.attn_dim is None else "an RWKV-7b model (DEA)"
        for to, layout, convert in (
            ("fla", "the fla format", convert_to_fla),
            ("official", "the official layout", convert_to_official),
        ):
            message = f"{tmp_path / 'model.pth'}: {kind}, which {layout} has no place for"
            with pytest.raises(ValueError) as refusal:
                convert(tmp_path / "model.pth", tmp_path / "out")
            assert str(refusal.value) == message
            assert main(["convert", str(tmp_path / "model.pth"), str(tmp_path / "out"), "--to", to]) == 2
            out, err = capsys.readouterr()
            assert message in err and err.count("\n") == 1
        assert not (tmp_path / "out").exists()

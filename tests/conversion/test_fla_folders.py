# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders in the fla format, with the configuration files that people have, load as they are."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from helpers.blinkdl import Sizes, config_of, fla_state_dict, random_checkpoint
from rwkv7_world import RWKV7ForCausalLM


SIZES = Sizes(hidden=192, v_rank=16)

# Fields of `fla-hub/rwkv7-*` for these sizes; `num_heads` is wrong, as it is in several published repositories
FLA_CONFIG = {
    "architectures": ["RWKV7ForCausalLM"],
    "attn": None,
    "attn_mode": "chunk",
    "a_low_rank_dim": 40,
    "auto_map": {"AutoModelForCausalLM": "modeling_rwkv7.RWKV7ForCausalLM"},
    "bos_token_id": 1,
    "decay_low_rank_dim": 24,
    "eos_token_id": 2,
    "fuse_cross_entropy": True,
    "fuse_linear_cross_entropy": False,
    "fuse_norm": True,
    "gate_low_rank_dim": 56,
    "head_dim": 64,
    "hidden_act": "sqrelu",
    "hidden_ratio": 4.0,
    "hidden_size": 192,
    "initializer_range": 0.006,
    "intermediate_size": 320,
    "max_position_embeddings": 2048,
    "model_type": "rwkv7",
    "norm_bias": True,
    "norm_eps": 1e-05,
    "norm_first": True,
    "num_heads": 32,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.48.0",
    "use_cache": True,
    "use_l2warp": True,
    "v_low_rank_dim": 16,
    "value_dim": [192, 192],
    "vocab_size": 90,
}


def write_folder(folder: Path, **changes) -> dict[str, torch.Tensor]:
    """A folder in the fla format, and the checkpoint in it."""
    checkpoint = random_checkpoint(SIZES)
    save_file(fla_state_dict(checkpoint), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(FLA_CONFIG | changes))
    return checkpoint


@torch.no_grad()
@pytest.mark.parametrize("heads", [{}, {"head_dim": None, "num_heads": 3}], ids=["wrong num_heads", "no head_dim"])
def test_published_configuration_loads(tmp_path, heads):
    checkpoint = write_folder(tmp_path, **heads)
    with CaptureLogger(logging.get_logger("rwkv7_world.configuration.configuration_rwkv7")) as captured:
        model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    assert isinstance(model, RWKV7ForCausalLM) and model.config.num_heads == 3
    assert ("num_heads=32 does not fit" in captured.out) == (heads == {})
    expected = RWKV7ForCausalLM(config_of(checkpoint)).eval()
    expected.load_state_dict(fla_state_dict(checkpoint))
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(model(ids).logits, expected(ids).logits)


def test_heads_that_the_weights_contradict_are_refused(tmp_path):
    write_folder(tmp_path, head_dim=None, num_heads=6)
    with (
        CaptureLogger(logging.get_logger("transformers.modeling_utils")) as captured,
        pytest.raises(RuntimeError, match="mismatch"),
    ):
        RWKV7ForCausalLM.from_pretrained(tmp_path)
    assert "attn.r_k | MISMATCH" in captured.out
    assert "ckpt: torch.Size([3, 64]) vs model:torch.Size([6, 32])" in captured.out

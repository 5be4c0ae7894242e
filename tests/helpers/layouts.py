# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders of RWKV-7 in the layouts that others write, with random weights; names written apart from the library's."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers.blinkdl import Sizes, fla_state_dict


def official_config(sizes: Sizes, **changes) -> dict:
    """`config.json` of `RWKV/RWKV7-<size>-<date>`, field for field."""
    return {
        "architectures": ["Rwkv7ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_rwkv7.Rwkv7Config",
            "AutoModelForCausalLM": "modeling_rwkv7.Rwkv7ForCausalLM",
        },
        "model_type": "rwkv7",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "head_dim": sizes.head_size,
        "num_heads": sizes.hidden // sizes.head_size,
        "decay_low_rank_dim": sizes.decay_rank,
        "a_low_rank_dim": sizes.a_rank,
        "v_low_rank_dim": sizes.v_rank,
        "gate_low_rank_dim": sizes.gate_rank,
        "intermediate_size": sizes.ffn,
        "norm_eps": 1e-5,
        "norm_bias": True,
        "tie_word_embeddings": False,
        "use_cache": True,
        "wkv_state_dtype": "float32",
        "wkv_implementation": "eager",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "dtype": "float32",
        **changes,
    }


def goose_config(sizes: Sizes, **changes) -> dict:
    """`config.json` of `RWKV7-Goose-*-HF` (2025)."""
    return {
        "architectures": ["Rwkv7ForCausalLM"],
        "model_type": "rwkv7",
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "attention_hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "head_size": sizes.head_size,
        "head_size_divisor": 8,
        "intermediate_size": sizes.ffn,
        "lora_rank_decay": sizes.decay_rank,
        "lora_rank_iclr": sizes.a_rank,
        "lora_rank_value_residual_mix": sizes.v_rank,
        "lora_rank_gate": sizes.gate_rank,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "torch_dtype": "float32",
        **changes,
    }


def fla_config(sizes: Sizes, **changes) -> dict:
    """`config.json` of `fla-hub/rwkv7-*`."""
    fields = official_config(sizes)
    for name in ("auto_map", "wkv_state_dtype", "wkv_implementation"):
        del fields[name]
    fields |= {"architectures": ["RWKV7ForCausalLM"], "attn": None, "attn_mode": "chunk", "fuse_norm": True}
    return fields | {"hidden_act": "sqrelu", "hidden_ratio": 4.0, "norm_first": True, **changes}


def official_tensors(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Zeros stand for the unused value mix of layer 0, where the checkpoint has none."""
    hidden = checkpoint["emb.weight"].shape[1]
    rank = checkpoint["blocks.1.att.v1"].shape[1]
    shapes = {"v0": (1, 1, hidden), "v1": (hidden, rank), "v2": (rank, hidden)}
    unused = {f"blocks.0.att.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    return {
        name if name == "head.weight" else f"rwkv7.{name}": tensor for name, tensor in (unused | checkpoint).items()
    }


def goose_tensors(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What llama.cpp's converter undoes: other words for blocks and their parts."""
    words = [(r"^blocks\.", "layers."), (r"\.att\.", ".attention.time_mixer."), (r"\.ffn\.", ".feed_forward.")]
    tensors = {}
    for name, tensor in checkpoint.items():
        for pattern, word in words:
            name = re.sub(pattern, word, name)
        tensors[name if name == "head.weight" else f"model.{name}"] = tensor
    return tensors


def old_fla_tensors(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Older fla files hold the six mixes of a time mix in one tensor."""
    tensors = fla_state_dict(checkpoint)
    for layer in {int(name.split(".")[2]) for name in tensors if name.startswith("model.layers.")}:
        prefix = f"model.layers.{layer}.attn.x_"
        tensors[f"{prefix}x"] = torch.cat([tensors.pop(prefix + s).view(1, -1) for s in "rwkvag"])
    return tensors


def rwkv_rs_tensors(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """BlinkDL's names behind `model.`, as rwkv-rs/transformers-rwkv writes them."""
    return {name if name == "head.weight" else f"model.{name}": tensor for name, tensor in checkpoint.items()}


# What makes tensors and configuration of each layout
LAYOUTS = {
    "official": (official_tensors, official_config),
    "Goose": (goose_tensors, goose_config),
    "fla": (fla_state_dict, fla_config),
    "old fla": (old_fla_tensors, fla_config),
    "BlinkDL's names": (dict, official_config),
    "behind model.": (rwkv_rs_tensors, official_config),
}


def write_layout(
    folder: Path, layout: str, checkpoint: dict[str, torch.Tensor], sizes: Sizes, shards: int = 1, **changes
) -> Path:
    """A folder of a layout, its weights in one file or in several with an index."""
    folder.mkdir(parents=True)
    to_tensors, to_config = LAYOUTS[layout]
    tensors = {name: tensor.contiguous() for name, tensor in to_tensors(checkpoint).items()}
    (folder / "config.json").write_text(json.dumps(to_config(sizes, **changes)))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    names = [f"model-{shard + 1:05}-of-{shards:05}.safetensors" for shard in range(shards)]
    weight_map = {name: names[index % shards] for index, name in enumerate(tensors)}
    for file in names:
        save_file(
            {name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file, {"format": "pt"}
        )
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder

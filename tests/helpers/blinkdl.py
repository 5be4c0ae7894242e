# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Random RWKV-7 checkpoints in BlinkDL's `.pth` format, the `rwkv` package to run them, and their names in our model.

The mapping here is written for the tests, apart from the library's own conversion, so that each can catch the other.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from rwkv7_world import RWKV7Config


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint. The defaults of the widths are none that a formula gives."""

    layers: int = 2
    hidden: int = 128
    vocab: int = 90
    decay_rank: int = 24
    a_rank: int = 40
    v_rank: int = 8
    gate_rank: int = 56
    ffn: int = 320
    head_size: int = 64
    layer_0_has_v: bool = False
    seed: int = 0


def random_checkpoint(sizes: Sizes) -> dict[str, torch.Tensor]:
    """A float32 checkpoint in which no tensor is constant or zero, with logits of order 1 to 10."""
    generator = torch.Generator().manual_seed(sizes.seed)
    hidden = sizes.hidden

    def normal(*shape, mean=0.0, scale=1.0):
        return mean + scale * torch.randn(*shape, generator=generator)

    def uniform(low, high):
        return low + (high - low) * torch.rand(1, 1, hidden, generator=generator)

    def matrix(rows, columns, inputs, gain):
        return normal(rows, columns, scale=gain / inputs**0.5)

    def norm(name):
        return {f"{name}.weight": normal(hidden, mean=1, scale=0.2), f"{name}.bias": normal(hidden, scale=0.2)}

    tensors = {"emb.weight": normal(sizes.vocab, hidden)}
    for layer in range(sizes.layers):
        block, att, ffn = f"blocks.{layer}.", f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        for name in ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2"):
            tensors |= norm(block + name)
        tensors |= {att + f"x_{s}": uniform(0, 1) for s in "rwkvag"}
        ranks = {"w": sizes.decay_rank, "a": sizes.a_rank, "v": sizes.v_rank, "g": sizes.gate_rank}
        for s, rank in ranks.items():
            if s == "v" and layer == 0 and not sizes.layer_0_has_v:
                continue
            tensors[att + f"{s}1"] = matrix(hidden, rank, hidden, gain=0.5)
            tensors[att + f"{s}2"] = matrix(rank, hidden, rank, gain=1.0)
            if s != "g":
                tensors[att + f"{s}0"] = uniform(-6, 3) if s == "w" else uniform(-1, 1)
        tensors[att + "k_k"], tensors[att + "k_a"] = uniform(0.4, 1.0), uniform(0.7, 1.3)
        tensors[att + "r_k"] = normal(hidden // sizes.head_size, sizes.head_size, scale=0.1)
        for name in ("receptance", "key", "value", "output"):
            tensors[att + f"{name}.weight"] = matrix(hidden, hidden, hidden, gain=0.5)
        tensors |= norm(att + "ln_x")
        tensors[ffn + "x_k"] = uniform(0, 1)
        tensors[ffn + "key.weight"] = matrix(sizes.ffn, hidden, hidden, gain=1.0)
        tensors[ffn + "value.weight"] = matrix(hidden, sizes.ffn, sizes.ffn, gain=0.5)
    return tensors | norm("ln_out") | {"head.weight": matrix(sizes.vocab, hidden, hidden, gain=2.0)}


def config_of(checkpoint: dict[str, torch.Tensor]) -> RWKV7Config:
    """Our configuration of a checkpoint, all sizes read from its shapes; no token ends a generation."""
    vocab_size, hidden_size = checkpoint["emb.weight"].shape
    last = max(int(name.split(".")[1]) for name in checkpoint if name.startswith("blocks."))
    att = f"blocks.{last}.att."
    return RWKV7Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=last + 1,
        head_dim=checkpoint[att + "r_k"].shape[1],
        group_norm_eps=64e-5,  # written into the `rwkv` package
        intermediate_size=checkpoint["blocks.0.ffn.key.weight"].shape[0],
        decay_low_rank_dim=checkpoint[att + "w1"].shape[1],
        a_low_rank_dim=checkpoint[att + "a1"].shape[1],
        v_low_rank_dim=checkpoint[att + "v1"].shape[1] if last else None,
        gate_low_rank_dim=checkpoint[att + "g1"].shape[1],
        eos_token_id=None,
    )


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


# Pattern of a name, its name in the fla format, and what happens to the tensor; the first that fits applies
_RENAMINGS = [
    (r"emb\.weight", r"model.embeddings.weight", _same),
    (r"ln_out\.(\w+)", r"model.norm.\1", _same),
    (r"head\.weight", r"lm_head.weight", _same),
    (r"blocks\.0\.att\.v[012]", None, None),  # unused
    (r"blocks\.0\.ln0\.(\w+)", r"model.layers.0.pre_norm.\1", _same),
    (r"blocks\.(\d+)\.ln1\.(\w+)", r"model.layers.\1.attn_norm.\2", _same),
    (r"blocks\.(\d+)\.ln2\.(\w+)", r"model.layers.\1.ffn_norm.\2", _same),
    (r"blocks\.(\d+)\.att\.ln_x\.(\w+)", r"model.layers.\1.attn.g_norm.\2", _same),
    (r"blocks\.(\d+)\.att\.(x_\w|r_k)", r"model.layers.\1.attn.\2", _same),
    (r"blocks\.(\d+)\.att\.(k_k|k_a)", r"model.layers.\1.attn.\2", torch.flatten),
    (r"blocks\.(\d+)\.att\.([wav])0", r"model.layers.\1.attn.\2_lora.lora.2.bias", torch.flatten),
    (r"blocks\.(\d+)\.att\.([wavg])1", r"model.layers.\1.attn.\2_lora.lora.0.weight", torch.t),
    (r"blocks\.(\d+)\.att\.([wavg])2", r"model.layers.\1.attn.\2_lora.lora.2.weight", torch.t),
    (r"blocks\.(\d+)\.att\.([rkvo])\w+\.weight", r"model.layers.\1.attn.\2_proj.weight", _same),
    (r"blocks\.(\d+)\.ffn\.x_k", r"model.layers.\1.ffn.x_k", torch.flatten),
    (r"blocks\.(\d+)\.ffn\.(key|value)\.weight", r"model.layers.\1.ffn.\2.weight", _same),
]


def fla_state_dict(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint under the names of the fla format."""
    renamed = {}
    for name, tensor in checkpoint.items():
        pattern, new_name, change = next(rule for rule in _RENAMINGS if re.fullmatch(rule[0], name))
        if new_name is not None:
            renamed[re.sub(pattern, new_name, name)] = change(tensor).contiguous()
    return renamed


def assert_same_bytes(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and actual[name].shape == tensor.shape, name
        assert torch.equal(actual[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8)), name


def load_in_rwkv_package(path: Path):
    """A `.pth` file as a model of the `rwkv` package, float32 on the CPU."""
    os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")  # read when the module is imported
    from rwkv.model import RWKV

    return RWKV(model=str(path.with_suffix("")), strategy="cpu fp32")


def greedy_in_rwkv_package(package, logits: torch.Tensor, state: list[torch.Tensor], new_tokens: int) -> list[int]:
    """The continuation after the logits (vocab,) and the state of a prompt; the state is overwritten."""
    continuation = []
    for _ in range(new_tokens):
        continuation.append(int(logits.argmax()))
        logits, state = package.forward(continuation[-1:], state)
    return continuation

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7a and RWKV-7b written from their equations, one token after the other in float64, and random checkpoints.

It shares no code with the library: tensors have BlinkDL's names, tables are folded before the first token as in his
demos, and the attention of RWKV-7b goes through a list of all tokens before.
"""

import math
from dataclasses import dataclass

import torch

from helpers.blinkdl import Sizes, fla_state_dict, random_checkpoint


@dataclass(frozen=True)
class DeepSizes:
    """Sizes of what RWKV-7a and 7b add; `row_vectors` makes vectors (1, 1, size), as BlinkDL's others are."""

    plain: Sizes
    side: int = 5
    attn_dim: int | None = None  # of RWKV-7b
    attn_rank: int = 4
    row_vectors: bool = False


def deep_checkpoint(sizes: DeepSizes) -> dict[str, torch.Tensor]:
    """A random float32 checkpoint of RWKV-7a, or 7b, in BlinkDL's format; no new tensor is constant or zero."""
    generator = torch.Generator().manual_seed(100 + sizes.plain.seed)
    plain, side, dim, rank = sizes.plain, sizes.side, sizes.attn_dim, sizes.attn_rank
    hidden, vocab, ffn = plain.hidden, plain.vocab, plain.ffn

    def normal(*shape, mean=0.0, scale=1.0):
        return mean + scale * torch.randn(*shape, generator=generator)

    def vector(tensor):
        return tensor.view(1, 1, -1) if sizes.row_vectors else tensor

    tensors = random_checkpoint(plain)
    for layer in range(plain.layers):
        name = f"blocks.{layer}.ffn.s"
        tensors[f"{name}_emb.weight"] = normal(vocab, side**2)
        tensors[f"{name}_emb_x.weight"] = normal(side**2, hidden, scale=hidden**-0.5)
        tensors[f"{name}1"] = normal(hidden, side, scale=hidden**-0.5)
        tensors[f"{name}2"] = normal(side, ffn, scale=0.3 / side)
        tensors[f"{name}0"] = vector(normal(ffn, mean=1, scale=0.2))
        if dim is None:
            continue
        name = f"blocks.{layer}.qkv."
        tensors[f"{name}qq.weight"] = normal(dim, hidden, scale=hidden**-0.5)
        for s, width in (("k", dim), ("v", hidden)):
            tensors[f"{name}{s}1"] = normal(hidden, rank, scale=hidden**-0.5)
            tensors[f"{name}{s}2"] = normal(rank, width, scale=rank**-0.5)
            tensors[f"{name}{s}_emb.weight"] = normal(vocab, width)
            tensors[f"{name}{s}_emb_x.weight"] = normal(width, hidden, scale=hidden**-0.5)
        for s, width in (("q", dim), ("k", dim), ("v", hidden)):
            tensors[f"{name}x_{s}"] = vector(torch.rand(width, generator=generator))
            gain = 0.3 if s == "v" else 3.0  # keys that are told apart, values that do not drown the time mix
            tensors[f"{name}ln{s}.weight"] = normal(width, mean=gain, scale=0.2 * gain)
            tensors[f"{name}ln{s}.bias"] = normal(width, scale=0.1)
    return tensors


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def deep_state_dict(checkpoint: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint under their names in our folders, written apart from the library's own mapping."""
    plain, renamed = {}, {}
    for name, tensor in checkpoint.items():
        parts = name.split(".")
        if parts[0] == "blocks" and parts[2] == "ffn" and parts[3].startswith("s"):
            place = f"model.layers.{parts[1]}.ffn.deep_embed."
            ends = {
                "s_emb": ("s_emb.weight", _same),
                "s_emb_x": ("s_emb_x.weight", _same),
                "s1": ("s_lora.lora.0.weight", torch.t),
                "s2": ("s_lora.lora.2.weight", torch.t),
                "s0": ("s_lora.lora.2.bias", torch.flatten),
            }
            end, change = ends[parts[3]]
            renamed[place + end] = change(tensor).contiguous()
        elif parts[0] == "blocks" and parts[2] == "qkv":
            place = f"model.layers.{parts[1]}.deep_embed_attn."
            ends = {
                "qq": "q_proj.weight",
                **{f"{s}1": f"{s}_lora.lora.0.weight" for s in "kv"},
                **{f"{s}2": f"{s}_lora.lora.2.weight" for s in "kv"},
                **{f"{s}_emb": f"{s}_emb.weight" for s in "kv"},
                **{f"{s}_emb_x": f"{s}_emb_x.weight" for s in "kv"},
                **{f"x_{s}": f"x_{s}" for s in "qkv"},
                **{f"ln{s}": f"{s}_norm.{parts[-1]}" for s in "qkv"},
            }
            if parts[3] in ("k1", "k2", "v1", "v2"):
                tensor = tensor.t()
            elif parts[3].startswith("x_"):
                tensor = tensor.flatten()
            renamed[place + ends[parts[3]]] = tensor.contiguous()
        else:
            plain[name] = tensor
    return fla_state_dict(plain) | renamed


class DeepLoop:
    """A model that reads token after token: `logits = loop.read(token)`."""

    def __init__(self, checkpoint: dict[str, torch.Tensor]):
        z = self.z = {name: tensor.double().squeeze() for name, tensor in checkpoint.items()}
        self.layers = 1 + max(int(name.split(".")[1]) for name in z if name.startswith("blocks."))
        self.heads, self.size = checkpoint["blocks.0.att.r_k"].shape
        hidden = z["emb.weight"].shape[1]
        self.emb = norm(z["emb.weight"], z, "blocks.0.ln0")
        self.folded = {
            name: z[f"{name}.weight"] + self.emb @ z[f"{name}_x.weight"].T
            for name in (f"blocks.{i}.{part}" for i in range(self.layers) for part in ("ffn.s_emb", *KEYS_AND_VALUES))
            if f"{name}.weight" in z
        }
        self.time_x = [torch.zeros(hidden, dtype=torch.float64)] * self.layers
        self.channel_x = list(self.time_x)
        self.state = [torch.zeros(self.heads, self.size, self.size, dtype=torch.float64)] * self.layers
        self.tokens: list[int] = []
        self.queries = [0.0] * self.layers  # of the token before
        self.keys: list[list[torch.Tensor]] = [[] for _ in range(self.layers)]  # before the token shift
        self.values: list[list[torch.Tensor]] = [[] for _ in range(self.layers)]

    def read(self, token: int, embeds: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (vocab,) after one more token, in whose place other embeddings may stand."""
        z, x, v_first = self.z, self.emb[token], None
        if embeds is not None:
            x = norm(embeds.double(), z, "blocks.0.ln0")
        self.tokens.append(token)
        for i in range(self.layers):
            update, v_first = self.time_mix(i, norm(x, z, f"blocks.{i}.ln1"), v_first)
            if f"blocks.{i}.qkv.k1" in z:
                update = update + self.attention(i, x)
            x = x + update
            x = x + self.channel_mix(i, norm(x, z, f"blocks.{i}.ln2"))
        return z["head.weight"] @ norm(x, z, "ln_out")

    def time_mix(self, i, x, v_first):
        def at(name):
            return self.z[f"blocks.{i}.att.{name}"]

        def heads(vector):
            return vector.view(self.heads, self.size)

        delta, self.time_x[i] = self.time_x[i] - x, x
        r, w, k, v, a, g = (x + delta * at(f"x_{s}") for s in "rwkvag")
        r, xv = at("receptance.weight") @ r, v
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(at("w0") + torch.tanh(w @ at("w1")) @ at("w2")))
        k, v = at("key.weight") @ k, at("value.weight") @ v
        a = torch.sigmoid(at("a0") + a @ at("a1") @ at("a2"))
        g = torch.sigmoid(g @ at("g1")) @ at("g2")
        kk = heads(k * at("k_k"))
        kk = kk / kk.norm(dim=-1, keepdim=True)
        k = k * (1 + (a - 1) * at("k_a"))
        if i == 0:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(at("v0") + xv @ at("v1") @ at("v2"))
        r, w, k, v, a = (heads(vector) for vector in (r, w, k, v, a))
        out = torch.empty_like(v)
        state = self.state[i].clone()
        for h in range(self.heads):
            removed = torch.outer(state[h] @ kk[h], kk[h] * a[h])
            state[h] = state[h] * w[h] - removed + torch.outer(v[h], k[h])
            y = state[h] @ r[h]
            y = (y - y.mean()) / torch.sqrt(y.var(unbiased=False) + 64e-5)
            out[h] = y * heads(at("ln_x.weight"))[h] + heads(at("ln_x.bias"))[h]
            out[h] = out[h] + (r[h] * k[h] * at("r_k").view(self.heads, self.size)[h]).sum() * v[h]
        self.state[i] = state
        return at("output.weight") @ (out.flatten() * g), v_first

    def channel_mix(self, i, x):
        def at(name):
            return self.z[f"blocks.{i}.ffn.{name}"]

        shifted, self.channel_x[i] = x + (self.channel_x[i] - x) * at("x_k"), x
        k = torch.relu(at("key.weight") @ shifted) ** 2
        side = at("s1").shape[1]
        matrix = self.folded[f"blocks.{i}.ffn.s_emb"][self.tokens[-1]].view(side, side)
        k = k * ((x @ at("s1")) @ matrix @ at("s2") + at("s0"))
        return at("value.weight") @ k

    def attention(self, i, x):
        def at(name):
            return self.z[f"blocks.{i}.qkv.{name}"]

        token = self.tokens[-1]
        q, before = at("qq.weight") @ x, self.queries[i]
        self.queries[i] = q
        self.keys[i].append((x @ at("k1") @ at("k2")) * self.folded[f"blocks.{i}.qkv.k_emb"][token])
        self.values[i].append(torch.tanh(x @ at("v1") @ at("v2")) * self.folded[f"blocks.{i}.qkv.v_emb"][token])
        q = norm(q + (before - q) * at("x_q"), self.z, f"blocks.{i}.qkv.lnq")
        scores, mixed = [], []
        for j in range(len(self.tokens)):
            k, v = self.keys[i][j], self.values[i][j]
            k_before, v_before = (self.keys[i][j - 1], self.values[i][j - 1]) if j else (0.0, 0.0)
            k = norm(k + (k_before - k) * at("x_k"), self.z, f"blocks.{i}.qkv.lnk")
            mixed.append(norm(v + (v_before - v) * at("x_v"), self.z, f"blocks.{i}.qkv.lnv"))
            scores.append(64 * torch.tanh(q @ k / 1024))
        weights = torch.softmax(torch.stack(scores), dim=0)
        return sum(weight * v for weight, v in zip(weights, mixed, strict=True))


KEYS_AND_VALUES = ("qkv.k_emb", "qkv.v_emb")


def norm(x: torch.Tensor, z: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """LayerNorm over the last axis."""
    x = x - x.mean(dim=-1, keepdim=True)
    x = x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-5)
    return x * z[f"{name}.weight"] + z[f"{name}.bias"]


def read_all(checkpoint: dict[str, torch.Tensor], tokens: list[int]) -> torch.Tensor:
    """Logits (tokens, vocab) of the loop."""
    loop = DeepLoop(checkpoint)
    return torch.stack([loop.read(token) for token in tokens])


def greedy(checkpoint: dict[str, torch.Tensor], prompt: list[int], new_tokens: int) -> list[int]:
    """The loop's own continuation of a prompt."""
    loop, continuation = DeepLoop(checkpoint), []
    for token in prompt:
        logits = loop.read(token)
    for _ in range(new_tokens):
        continuation.append(int(logits.argmax()))
        logits = loop.read(continuation[-1])
    return continuation

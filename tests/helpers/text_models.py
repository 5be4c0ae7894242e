# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Small RWKV-7 text models with random weights, and what a cache holds."""

import torch

from rwkv7_world import RWKV7Cache, RWKV7Config, RWKV7ForCausalLM


VOCAB_SIZE = 37


def tiny_config(**changes) -> RWKV7Config:
    """Two layers of two heads, with low-rank widths that no formula gives; no token ends a generation or pads it."""
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "decay_low_rank_dim": 5,
        "a_low_rank_dim": 6,
        "v_low_rank_dim": 7,
        "gate_low_rank_dim": 9,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return RWKV7Config(**{**sizes, **changes})


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Random numbers in every parameter: in the official initialisation many are zero and hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        kind = name.split(".")[-1]
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if kind.startswith("x_"):
            value = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        elif kind in ("k_k", "k_a") or (kind == "weight" and parameter.dim() == 1):
            value = 1 + 0.2 * noise
        elif parameter.dim() == 2 and "embeddings" not in name:
            value = 0.7 * noise / parameter.shape[1] ** 0.5  # more makes an ill-conditioned model
        else:
            value = noise
        parameter.copy_(value)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, **changes) -> RWKV7ForCausalLM:
    """A random model of [`tiny_config`] in evaluation mode."""
    model = RWKV7ForCausalLM(tiny_config(**changes))
    randomize(model, seed)
    return model.to(dtype).eval()


def random_ids(*shape: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def cache_tensors(cache: RWKV7Cache, row: int | slice = slice(None)) -> dict[str, torch.Tensor]:
    """Copies of all states of a cache, or of one row of the batch, by name."""
    tensors = {}
    for index in range(len(cache.layers)):
        tensors[f"layer {index} time mix"] = cache.get_conv_state(index, 0)[row].clone()
        tensors[f"layer {index} channel mix"] = cache.get_conv_state(index, 1)[row].clone()
        tensors[f"layer {index} recurrent"] = cache.get_recurrent_state(index)[row].clone()
    return tensors


def assert_near(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every tensor as expected, within a tolerance in its largest number."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape
        difference = (actual[name].double() - tensor.double()).abs().max()
        assert difference <= tolerance * tensor.double().abs().max(), name

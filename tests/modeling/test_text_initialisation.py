# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The official initialisation (RWKV-LM, `train_temp`) of every parameter, against its formulas written out here."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.composites import vision_config
from helpers.text_models import tiny_config, tiny_model
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM, RWKV7Model, RWKVWorldConfig, RWKVWorldForConditionalGeneration


CONFIGS = {
    "usual": tiny_config(num_hidden_layers=3, vocab_size=77),
    "one layer": tiny_config(num_hidden_layers=1),
    "one head": tiny_config(num_hidden_layers=2, hidden_size=64, head_dim=64, intermediate_size=256),
    "small vocabulary and wide maps": tiny_config(
        num_hidden_layers=4,
        vocab_size=12,
        intermediate_size=16,
        decay_low_rank_dim=50,
        a_low_rank_dim=40,
        v_low_rank_dim=33,
        gate_low_rank_dim=70,
    ),
    "without norm biases": tiny_config(norm_bias=False),
}
ORTHOGONAL, ZERO = "orthogonal", "zero"


def closed_forms(config: RWKV7Config, layer: int) -> dict[str, np.ndarray | float]:
    """Values of the parameters of a layer that are not random, by name."""
    width, layers, head = config.hidden_size, config.num_hidden_layers, config.head_dim
    values = {name: np.zeros(width) for name in "rg wa kv w0 a0 v0 k_k ffn".split()}
    zero_to_one = layer / (layers - 1) if layers > 1 else 0.0
    one_to_zero = 1 - layer / layers
    for n in range(width):
        ratio = n / width
        values["rg"][n] = 1 - ratio ** (0.2 * one_to_zero)
        values["wa"][n] = 1 - ratio ** (0.9 * one_to_zero)
        values["kv"][n] = 1 - ratio ** (0.7 * one_to_zero)
        values["ffn"][n] = 1 - ratio ** (one_to_zero**4)
        linear = n / (width - 1) - 0.5
        q = ((n % head) - (head - 1) / 2) / ((head - 1) / 2)
        zigzag = q * abs(q)
        values["w0"][n] = -6 + 6 * (n / (width - 1)) ** (1 + zero_to_one**0.3) + 0.5 + 2.5 * zigzag
        values["a0"][n] = -0.19 + 0.3 * zigzag + 0.4 * linear
        values["v0"][n] = 0.73 - 0.4 * linear
        values["k_k"][n] = 0.71 - 0.1 * linear
    return {
        **{f"attn.x_{s}": values[kind] for kind in ("rg", "wa", "kv") for s in kind},
        "attn.w_lora.lora.2.bias": values["w0"],
        "attn.a_lora.lora.2.bias": values["a0"],
        "attn.v_lora.lora.2.bias": values["v0"],
        "attn.k_k": values["k_k"],
        "attn.k_a": 1.02,
        "attn.r_k": -0.04,
        "attn.g_norm.weight": ((1 + layer) / layers) ** 0.7,
        "attn.g_norm.bias": 0.0,
        "attn.o_proj.weight": 0.0,
        "ffn.x_k": values["ffn"],
        "ffn.value.weight": 0.0,
        **{f"attn.{s}_lora.lora.0.weight": 0.0 for s in "wavg"},
        **{f"{norm}.weight": 1.0 for norm in ("pre_norm", "attn_norm", "ffn_norm")},
        **{f"{norm}.bias": 0.0 for norm in ("pre_norm", "attn_norm", "ffn_norm")},
    }


def orthogonal_gain(config: RWKV7Config, name: str) -> float | None:
    """Gain of a parameter that is a random orthogonal matrix."""
    gains = {"attn.r_proj.weight": 1.0, "attn.v_proj.weight": 1.0, "attn.k_proj.weight": 0.1, "ffn.key.weight": 1.0}
    if name == "lm_head.weight":
        return 0.5 * max(config.vocab_size / config.hidden_size, 1) ** 0.5
    low_rank = re.fullmatch(r"attn\.(.)_lora\.lora\.2\.weight", name)
    if low_rank is None:
        return gains.get(name)
    widths = {
        "w": config.decay_low_rank_dim,
        "a": config.a_low_rank_dim,
        "v": config.v_low_rank_dim,
        "g": config.gate_low_rank_dim,
    }
    # BlinkDL's matrix is the transpose: its rows are the low-rank width
    return 0.1 * max(widths[low_rank[1]] / config.hidden_size, 1) ** 0.5


def assert_orthogonal(matrix: torch.Tensor, gain: float, name: str, tolerance: float):
    """All singular values are the gain."""
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(values, gain, rtol=tolerance, err_msg=name)


def check_initialisation(model: RWKV7ForCausalLM, names=None, tolerance: float = 1e-5) -> None:
    """Every parameter (of `names`) is as its formula says."""
    config = model.config
    for full_name, parameter in model.state_dict().items():
        if names is not None and full_name not in names:
            continue
        layer, name = (re.match(r"model\.layers\.(\d+)\.(.*)", full_name) or re.match("()(.*)", full_name)).groups()
        gain = orthogonal_gain(config, name)
        if name == "model.embeddings.weight":
            assert 0.9e-4 < parameter.abs().max() <= 1.01e-4, name
            assert parameter.double().std().item() == pytest.approx(1e-4 / 3**0.5, rel=0.15), name
        elif name.startswith("model.norm"):
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif gain is not None:
            assert_orthogonal(parameter, gain, full_name, tolerance)
        else:
            expected = np.broadcast_to(closed_forms(config, int(layer))[name], parameter.squeeze().shape)
            actual = parameter.squeeze().double().numpy()
            np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance, err_msg=full_name)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_every_parameter_is_as_the_official_formulas_say(config):
    torch.manual_seed(0)
    check_initialisation(RWKV7ForCausalLM(config))


def test_base_model_is_initialised_too():
    torch.manual_seed(0)
    model = RWKV7Model(CONFIGS["usual"])
    whole = RWKV7ForCausalLM(CONFIGS["usual"])
    whole.model = model
    check_initialisation(whole)


def test_language_model_and_head_of_a_composite_are_initialised_too():
    torch.manual_seed(0)
    composite = RWKVWorldForConditionalGeneration(
        RWKVWorldConfig(text_config=CONFIGS["usual"], vision_config=vision_config("siglip"))
    )
    whole = RWKV7ForCausalLM(CONFIGS["usual"])
    whole.model, whole.lm_head = composite.model.language_model, composite.lm_head
    check_initialisation(whole)


def test_layers_have_different_random_matrices():
    model = RWKV7ForCausalLM(CONFIGS["usual"])
    first, second = (layer.attn.r_proj.weight for layer in model.model.layers[:2])
    assert (first - second).abs().max() > 0.1


def test_seed_decides_the_random_numbers():
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(RWKV7ForCausalLM(CONFIGS["usual"]).lm_head.weight)
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_initialisation_works_in_other_dtypes(dtype):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["usual"], dtype=dtype)
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    check_initialisation(model, tolerance=2e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_missing_weights_are_initialised_and_loaded_ones_kept(tmp_path, dtype):
    model = tiny_model(dtype=dtype)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = [
        "model.embeddings.weight",
        "model.layers.0.attn.x_k",
        "model.layers.0.attn.g_norm.weight",
        "model.layers.1.attn.w_lora.lora.2.bias",
        "model.layers.1.attn.w_lora.lora.2.weight",
        "model.layers.1.attn.r_proj.weight",
        "model.layers.1.attn.o_proj.weight",
        "model.layers.1.ffn.x_k",
        "model.layers.0.ffn.key.weight",
        "lm_head.weight",
    ]
    kept = {name: tensor for name, tensor in weights.items() if name not in lost}
    options = {"config": model.config, "output_loading_info": True, "dtype": dtype}
    loaded, report = RWKV7ForCausalLM.from_pretrained(None, state_dict=kept, **options)
    assert set(report["missing_keys"]) == set(lost)
    check_initialisation(loaded, names=lost, tolerance=1e-5 if dtype == torch.float32 else 2e-2)
    for name, tensor in loaded.state_dict().items():
        assert name in lost or torch.equal(tensor, weights[name]), name


def test_new_layers_of_a_longer_model_are_initialised():
    model = tiny_model()
    longer = RWKV7ForCausalLM.from_pretrained(
        None, config=tiny_config(num_hidden_layers=3), state_dict=model.state_dict()
    )
    new = [name for name in longer.state_dict() if name.startswith("model.layers.2.")]
    assert new
    check_initialisation(longer, names=new)
    for name, tensor in model.state_dict().items():
        assert torch.equal(longer.state_dict()[name], tensor), name


def test_first_logits_of_a_new_model_are_those_of_a_model_that_knows_nothing():
    """Time mix and channel mix begin as zero, so the logits depend on the last token alone."""
    model = RWKV7ForCausalLM(CONFIGS["usual"]).eval()
    with torch.no_grad():
        one, other = model(torch.tensor([[1, 2, 3]])).logits, model(torch.tensor([[7, 8, 3]])).logits
    assert torch.equal(one[:, -1], other[:, -1])
    assert one.isfinite().all()

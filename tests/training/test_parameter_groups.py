# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Which parameter is trained, at which rate, and which decays."""

import pytest
import torch

from helpers.composites import tiny_composite
from helpers.text_models import tiny_model
from rwkv7_world.modeling_rwkv7_world.blinkdl_names import Sizes, all_entries
from rwkv7_world.training.adapted_model import modules_of_parts
from rwkv7_world.training.recipe.arguments import RWKVTrainingArguments
from rwkv7_world.training.trainer.parameter_groups import parameter_groups
from rwkv7_world.training.trainer.parameter_selectors import set_trainable


def rates_and_decays(model, **part_rates: float) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 1.0, 0.1, 2.0, part_rates)
    return {names[member]: (group["lr"], group["weight_decay"]) for group in groups for member in group["params"]}


def blinkdl_names(config) -> dict[str, str]:
    """BlinkDL's name of every parameter of a text model."""
    sizes = Sizes(
        layers=config.num_hidden_layers,
        vocab=config.vocab_size,
        hidden=config.hidden_size,
        heads=config.num_heads,
        head_dim=config.head_dim,
        ffn=config.intermediate_size,
        decay_rank=config.decay_low_rank_dim,
        a_rank=config.a_low_rank_dim,
        v_rank=config.v_low_rank_dim,
        gate_rank=config.gate_low_rank_dim,
        deep_embed=config.deep_embed_dim,
        deep_attn=config.deep_embed_attn_dim,
        deep_attn_rank=config.deep_embed_attn_low_rank_dim,
    )
    return {entry.fla_name: name for name, entry in all_entries(sizes).items() if entry.fla_name}


@pytest.mark.parametrize("changes", [{}, {"deep_embed_dim": 4, "deep_embed_attn_dim": 12}], ids=["7", "7b"])
def test_groups_are_those_of_rwkv_lm(changes):
    """The rule of `train_temp`, on BlinkDL's names: 2x for att.w0, decay for names with .weight and two dimensions."""
    model = tiny_model(**changes)
    found, theirs = rates_and_decays(model), blinkdl_names(model.config)
    assert found.keys() == theirs.keys()
    for name, parameter in model.named_parameters():
        decays = ".weight" in theirs[name] and parameter.squeeze().dim() >= 2
        assert found[name] == (2.0 if "att.w0" in theirs[name] else 1.0, 0.1 if decays else 0.0), theirs[name]


def test_parts_have_their_own_rates_and_the_narrowest_counts():
    found = rates_and_decays(tiny_composite("siglip", "wavlm"), projector=3.0, audio_projector=4.0, text=5.0, head=6.0)
    rates = {name: rate for name, (rate, _) in found.items()}
    assert rates["model.vision_projector.linear_1.weight"] == 3.0
    assert rates["model.audio_projector.conv.weight"] == 4.0
    assert rates["model.language_model.embeddings.weight"] == 5.0
    assert rates["model.language_model.layers.1.attn.w_lora.lora.2.bias"] == 10.0
    assert rates["lm_head.weight"] == 6.0
    assert {rate for name, rate in rates.items() if "tower" in name} == {1.0}


@pytest.mark.parametrize(
    ("train", "freeze", "prefixes"),
    [
        (["projector"], [], ("model.vision_projector", "model.audio_projector")),
        (["vision_projector"], [], ("model.vision_projector",)),
        (["encoder"], [], ("model.vision_tower", "model.audio_tower")),
        (
            ["projector", "text"],
            ["embeddings"],
            ("model.vision_pro", "model.audio_pro", "model.language_model.l", "model.language_model.norm", "lm_head"),
        ),
        (["text"], ["head"], ("model.language_model",)),
    ],
)
def test_only_the_parts_asked_for_are_trained(train, freeze, prefixes):
    model = tiny_composite("siglip", "wavlm")
    set_trainable(model, train, freeze)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(prefixes), name


def test_projectors_of_the_deepstack_are_projectors():
    model = tiny_composite("qwen3_vl", num_deepstack_projectors=2)
    set_trainable(model, ["vision_projector"])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith(("model.vision_pro", "model.deepstack_pro")), name
    deepstack = [f"model.deepstack_projectors.{index}" for index in range(2)]
    assert modules_of_parts(model, ["projector"]) == [*deepstack, "model.vision_projector"]


@pytest.mark.parametrize(
    ("train", "freeze"), [(["projectors"], []), (["text"], ["audio_encoder"]), (["head"], ["text"])]
)
def test_parts_that_there_are_not_are_refused(train, freeze):
    with pytest.raises(ValueError, match="no part of the model|nothing is left to train"):
        set_trainable(tiny_composite("siglip"), train, freeze)


def learning_rates(steps: int, **arguments) -> list[float]:
    from transformers import get_scheduler

    args = RWKVTrainingArguments(output_dir="unused", report_to="none", use_cpu=True, max_steps=steps, **arguments)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, args.lr_scheduler_kwargs
    )
    rates = []
    for _ in range(steps + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_schedules_end_at_the_final_rate(schedule):
    rates = learning_rates(40, lr_scheduler_type=schedule, final_learning_rate_ratio=0.25, warmup_steps=4)
    assert max(rates) == rates[4] == 1.0
    assert rates[-1] == pytest.approx(0.25)
    if schedule == "warmup_stable_decay":
        assert rates[4:37] == [1.0] * 33


def test_constant_schedule_stays():
    assert learning_rates(10, lr_scheduler_type="constant_with_warmup", warmup_steps=2)[2:] == [1.0] * 9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"loss_reduction": "mean"}, "loss_reduction is 'mean'"),
        ({"loss_chunk_size": 0}, "at least 1 token"),
        ({"lr_scheduler_type": "linear", "final_learning_rate_ratio": 0.1}, "not linear"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "needs max_steps"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        RWKVTrainingArguments(output_dir="unused", report_to="none", **arguments)


def test_training_the_encoder_leaves_the_sinusoids_of_whisper_frozen():
    model = tiny_composite(None, "whisper")
    set_trainable(model, ["encoder"])
    frozen = [name for name, weight in model.model.audio_tower.named_parameters() if not weight.requires_grad]
    assert frozen == ["embed_positions.weight"]

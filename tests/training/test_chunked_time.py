# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Samples in chunks of time: the same loss and gradients as at once, or truncated ones, whatever the samples hold."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint

from helpers import composites
from helpers.adapters import randomize_adapter
from helpers.text_models import random_ids, tiny_model
from helpers.training import QUIET_TRAINER
from rwkv7_world.adapters import attach_adapter
from rwkv7_world.modeling_rwkv7_world.causal_lm_loss import IGNORED_LABEL
from rwkv7_world.modeling_rwkv7_world.modeling_rwkv7 import RWKV7Attention, RWKV7Block
from rwkv7_world.training.recipe.arguments import RWKVTrainingArguments
from rwkv7_world.training.trainer.collator import ConversationCollator
from rwkv7_world.training.trainer.trainer import RWKVTrainer


LINES = ("the red circle", "what", "the red circle is what the red circle is", "red")


def words(count: int = 4) -> list[dict]:
    return [{"text": text} for text in LINES[:count]]


def conversations(**media) -> list[dict]:
    """Of two, one with media inside and a long answer, so that chunks hold all, a part and nothing of them."""
    blocks = [{"type": kind, kind: value} for kind, value in media.items()]
    said = [("what", "the red circle"), ("what the red circle is", "red")]
    contents = [[*blocks, {"type": "text", "text": said[0][0]}], [{"type": "text", "text": said[1][0]}, *blocks]]
    return [
        {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}
        for content, (_, answer) in zip(contents, said, strict=True)
    ]


def text_batch(model: dict | None = None, **collator) -> tuple[nn.Module, dict]:
    tokenizer = composites.tiny_tokenizer()
    return tiny_model(vocab_size=len(tokenizer), **model or {}), ConversationCollator(tokenizer, **collator)(words())


def masked_batch(**model) -> tuple[nn.Module, dict]:
    model, batch = text_batch(model)
    batch["labels"][:, 4:9] = IGNORED_LABEL
    return model, batch


def tuned_batch(**collator) -> tuple[nn.Module, dict]:
    model, batch = text_batch(**collator)
    adapter = {"method": "lora", "r": 2, "state": True, "tokens": True}
    return randomize_adapter(attach_adapter(model, adapter)), batch


def picture_batch() -> tuple[nn.Module, dict]:
    collator = ConversationCollator(composites.tiny_processor("siglip"))
    return composites.tiny_composite("siglip"), collator(conversations(image=composites.random_image()))


def grid_batch() -> tuple[nn.Module, dict]:
    options = {"num_deepstack_projectors": 2}
    collator = ConversationCollator(composites.tiny_processor("qwen3_vl", **options))
    return composites.tiny_composite("qwen3_vl", **options), collator(conversations(image=composites.random_image()))


def clip_batch() -> tuple[nn.Module, dict]:
    model = composites.tiny_composite(None, "wavlm")
    model.model.audio_tower.requires_grad_(False)  # else it drops out
    collator = ConversationCollator(composites.tiny_processor(None, "wavlm"))
    return model, collator(conversations(audio=composites.random_clip(samples=12_000)))


RWKV_7A, RWKV_7B = {"deep_embed_dim": 4}, {"deep_embed_dim": 4, "deep_embed_attn_dim": 12}

BATCHES: dict[str, Callable] = {
    "padding": text_batch,
    "packing": partial(text_batch, packing=True, max_length=19),
    "a chunk without labels": masked_batch,
    "learned states": tuned_batch,
    "learned states, packing": partial(tuned_batch, packing=True, max_length=19),
    "RWKV-7a": partial(masked_batch, **RWKV_7A),
    "RWKV-7b": partial(masked_batch, **RWKV_7B),
    "RWKV-7b, packing": partial(text_batch, RWKV_7B, packing=True, max_length=19),
    "pictures": picture_batch,
    "pictures and their DeepStack": grid_batch,
    "clips": clip_batch,
}


def step(tmp_path, model: nn.Module, batch: dict, **arguments) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a training step."""
    arguments = RWKVTrainingArguments(output_dir=str(tmp_path), **QUIET_TRAINER, **arguments)
    trainer = RWKVTrainer(model, arguments)
    counts = trainer._get_num_items_in_batch([batch], arguments.device)
    trainer.current_gradient_accumulation_steps = 1
    model.zero_grad()
    loss = trainer.training_step(model, dict(batch), counts)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients


def assert_same_gradients(found: dict, expected: dict, ratio: float = 1e-4) -> None:
    for name, gradient in expected.items():
        other = torch.zeros_like(gradient) if found[name] is None else found[name]
        bound = ratio * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(other, gradient, rtol=0, atol=bound, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize(
    ("name", "chunk_length"), [*((name, 5) for name in BATCHES), ("learned states, packing", 1), ("padding", 100)]
)
def test_chunks_not_detached_give_loss_and_gradients_of_the_whole(tmp_path, name, chunk_length):
    model, batch = BATCHES[name]()
    assert batch["input_ids"].shape[1] > 10
    options = {"l2wrap": 1e-2, "loss_reduction": "sample"}
    loss, gradients = step(tmp_path, model, batch, **options)
    gradients = {key: None if value is None else value.clone() for key, value in gradients.items()}
    given = {key: value for key, value in gradients.items() if value is not None}
    assert loss > 0
    chunked, found = step(tmp_path, model, batch, chunk_length=chunk_length, detach_state=False, **options)
    assert chunked == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(found, given)


def truncated_gradients(model: nn.Module, batch: dict, length: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients where each chunk follows a state that was read without gradients, in plain PyTorch."""
    model.zero_grad()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    next_labels = nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED_LABEL)
    items, total = (next_labels != IGNORED_LABEL).sum(), 0.0
    for start in range(0, ids.shape[1], length):
        part, state = slice(start, start + length), None
        if start:
            with torch.no_grad():
                state = model(ids[:, :start], attention_mask=mask[:, :start], use_cache=True).past_key_values
        logits = model(input_ids=ids[:, part], attention_mask=mask[:, part], past_key_values=state).logits
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), next_labels[:, part].flatten(), reduction="sum")
        (losses / items).backward()
        total += (losses / items).item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("make_batch", [masked_batch, tuned_batch, BATCHES["RWKV-7b"]])
def test_detached_chunks_give_truncated_gradients(tmp_path, make_batch):
    model, batch = make_batch()
    loss, gradients = truncated_gradients(model, batch, 4)
    found_loss, found = step(tmp_path, model, batch, chunk_length=4)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert_same_gradients(found, gradients)
    _, whole = step(tmp_path, model, batch)
    learned = [name for name in gradients if "initial_state" in name or "r_proj" in name]
    assert not all(torch.allclose(whole[name], gradients[name], rtol=1e-2) for name in learned)


@pytest.mark.parametrize("detach", [True, False])
def test_sample_without_labels_has_no_loss_and_no_gradient(tmp_path, detach):
    model, batch = text_batch()
    batch["labels"][:] = IGNORED_LABEL
    loss, gradients = step(tmp_path, model, batch, chunk_length=6, detach_state=detach)
    assert loss == 0
    assert all(gradient is None or not gradient.any() for gradient in gradients.values())


def test_dropout_is_the_same_whenever_a_chunk_is_computed(tmp_path):
    model, batch = text_batch()
    seen = []

    def drop_out(_, inputs):
        dropped = nn.functional.dropout(inputs[0], 0.5)
        seen.append(dropped == 0)
        return (dropped, *inputs[1:])

    model.model.layers[0].ffn.register_forward_pre_hook(drop_out)
    step(tmp_path, model, batch, chunk_length=5, detach_state=False)
    first, again = seen[: len(seen) // 2], seen[len(seen) // 2 :][::-1]
    assert len(seen) == 2 * len(again) - 1
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=False))
    assert not torch.equal(first[0], first[1])


def trained_weights(tmp_path, **arguments) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a short training on samples of various lengths, with evaluation."""
    torch.manual_seed(0)
    tokenizer = composites.tiny_tokenizer()
    model = tiny_model(vocab_size=len(tokenizer))
    options = {"max_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    options |= {"gradient_accumulation_steps": 2, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 3}
    settings = RWKVTrainingArguments(output_dir=str(tmp_path), **QUIET_TRAINER, **options, **arguments)
    data = {"train_dataset": words() * 4, "eval_dataset": words(3), "data_collator": ConversationCollator(tokenizer)}
    trainer = RWKVTrainer(model, settings, **data)
    trainer.train()
    logged = [entry.get("loss", entry.get("eval_loss")) for entry in trainer.state.log_history]
    return [value for value in logged if value is not None], model.state_dict()


def test_training_in_chunks_with_accumulation_and_evaluation_is_the_same(tmp_path):
    losses, weights = trained_weights(tmp_path)
    chunked, same = trained_weights(tmp_path, chunk_length=4, detach_state=False)
    assert len(losses) == 4
    assert chunked == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"chunk_length": 0}, "chunk_length is 0, expected at least 1 token"),
        ({"chunk_length": 8, "activation_checkpointing": True}, "chunk_length and activation_checkpointing"),
        (
            {"chunk_length": 8, "gradient_checkpointing": True},
            r"chunk_length and activation_.*\(gradient_checkpointing\)",
        ),
        (
            {"chunk_length": 8, "fsdp_config": {"activation_checkpointing": "true"}},
            "fsdp_config.activation_checkpointing",
        ),
        ({"chunk_length": 8, "fsdp_config": {"fsdp_activation_checkpointing": True}}, "fsdp_config.activation_check"),
        ({"chunk_length": 8, "fsdp_config": "fsdp.json"}, "fsdp_config.activation_checkpointing do not go together"),
    ],
)
def test_wrong_settings_are_told(tmp_path, arguments, complaint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fsdp.json").write_text('{"fsdp_activation_checkpointing": true}')
    with pytest.raises(ValueError, match=complaint):
        RWKVTrainingArguments(output_dir=str(tmp_path), **QUIET_TRAINER, **arguments)


@pytest.mark.parametrize("name", ["gradient_checkpointing_enable", "activation_checkpointing_enable"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_a_checkpointed_model_does_not_drop_a_state_in_silence(name):
    model, ids = tiny_model(), random_ids(1, 6)
    cache = model(ids, use_cache=True).cache
    getattr(model.train(), name)()
    with pytest.raises(ValueError, match="A state cannot be continued while activations are checkpointed"):
        model(ids, labels=ids, cache=cache)
    with torch.no_grad():  # nothing is run again, so the state is continued
        torch.testing.assert_close(model(ids, cache=cache).logits, model(ids.repeat(1, 2)).logits[:, 6:])


@pytest.mark.parametrize("which", ["one layer", "wrapped attention"])
def test_a_part_that_is_checkpointed_does_not_drop_a_state_in_silence(which):
    model, ids = tiny_model(), random_ids(1, 6)
    cache = model(ids, use_cache=True).cache
    if which == "one layer":
        model.model.layers[-1].gradient_checkpointing = True
    else:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, RWKV7Attention))
    with pytest.raises(ValueError, match="A state cannot be continued while activations are checkpointed"):
        model.train()(ids, labels=ids, cache=cache)


@pytest.mark.parametrize("which", ["model in a wrapper", "layers by hand"])
def test_modules_that_others_run_again_do_not_read_their_own_state(which):
    """Of which nothing is to be seen before the backward pass."""
    model, ids = tiny_model().train(), random_ids(1, 6)
    cache = model(ids, use_cache=True).cache
    if which == "model in a wrapper":
        model.model = checkpoint_wrapper(model.model)
    else:
        for layer in model.model.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    loss = model(ids, labels=ids, cache=cache).loss
    with pytest.raises(ValueError, match="A state cannot be continued while activations are checkpointed"):
        loss.backward()


def test_a_checkpointed_model_with_a_state_of_its_own_has_the_gradients_of_a_plain_one():
    ids, gradients = random_ids(1, 6), []
    for wrap in (False, True):
        model = tiny_model().train()
        logits = (checkpoint_wrapper(model) if wrap else model)(ids, use_cache=True).logits
        logits.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_same_gradients(*gradients)


@pytest.mark.parametrize("value", ["true", "yes"])
def test_checkpointing_that_accelerate_launch_was_told_of_is_refused_with_chunks(tmp_path, monkeypatch, value):
    monkeypatch.setenv("FSDP_ACTIVATION_CHECKPOINTING", value)
    with pytest.raises(ValueError, match="chunk_length and FSDP_ACTIVATION_CHECKPOINTING do not go together"):
        RWKVTrainingArguments(output_dir=str(tmp_path), **QUIET_TRAINER, chunk_length=8)


def test_deepspeed_that_accelerate_launch_was_told_of_is_refused_with_chunks(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="chunk_length does not work with DeepSpeed"):
        RWKVTrainingArguments(output_dir=str(tmp_path), **QUIET_TRAINER, chunk_length=8)


def test_layers_in_checkpoint_wrappers_give_the_gradients_of_plain_ones():
    """Also where `use_cache` is left at its default, and never with a state that they would write twice."""
    ids, gradients = random_ids(2, 9), []
    for wrap in (False, True):
        model = tiny_model().train()
        if wrap:
            apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, RWKV7Block))
        outputs = model(ids, labels=ids)
        outputs.loss.backward()
        gradients.append(
            {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        state = model(ids, use_cache=True).cache
    with pytest.raises(ValueError, match="A state cannot be continued while activations are checkpointed"):
        model(ids, cache=state)

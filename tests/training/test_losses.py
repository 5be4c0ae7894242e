# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The loss: its weights, chunks and L2Wrap against plain PyTorch, and what the chunks save."""

import pytest
import torch
from torch.nn import functional as F

from helpers.composites import tiny_composite
from helpers.text_models import random_ids, tiny_model
from rwkv7_world.modeling_rwkv7_world.causal_lm_loss import causal_lm_loss
from rwkv7_world.training.trainer.losses import BatchCounts, count_batch, token_weights


def random_labels(*shape: int, seed: int = 1) -> torch.Tensor:
    """Ids of which about a third are not predicted."""
    ids = random_ids(*shape, seed=seed)
    ids[torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = -100
    return ids


def gradients(model) -> dict[str, torch.Tensor]:
    found = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return found


def assert_same_gradients(first, second, tolerance=1e-6):
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(
            second[name], gradient, atol=tolerance, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunked_loss_and_gradients_are_those_of_transformers(chunk_size):
    model = tiny_model().train()
    ids, labels = random_ids(3, 11), random_labels(3, 11)
    plain = model(ids, labels=labels)
    plain.loss.backward()
    expected = gradients(model)
    chunked = model(ids, labels=labels, loss_chunk_size=chunk_size)
    chunked.loss.backward()
    assert chunked.logits is None
    torch.testing.assert_close(chunked.loss, plain.loss)
    assert_same_gradients(expected, gradients(model))


def test_plain_trainer_divisor_is_kept():
    model = tiny_model()
    ids, labels = random_ids(2, 9), random_labels(2, 9)
    expected = model(ids, labels=labels, num_items_in_batch=50).loss
    chunked = model(ids, labels=labels, num_items_in_batch=50, loss_chunk_size=4).loss
    torch.testing.assert_close(chunked, expected)


def reference_l2wrap(logits: torch.Tensor, loss: torch.Tensor, factor: float) -> torch.Tensor:
    """Gradient on the logits as RWKV-LM's `L2Wrap` makes it, for a batch without padding."""
    grad = torch.autograd.grad(loss, logits)[0]
    largest, ids = logits.detach().max(-1, keepdim=True)
    return grad + torch.zeros_like(logits).scatter_(-1, ids, largest * factor / (logits.shape[0] * logits.shape[1]))


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_l2wrap_is_the_published_formula(chunk_size):
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 8, 6), torch.nn.Linear(6, 13, bias=False)
    labels = random_ids(2, 8, vocab_size=13)
    logits = head(hidden).detach().requires_grad_()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    expected = reference_l2wrap(logits, loss, 1e-2)
    expected = torch.einsum("btv,btc->vc", expected, hidden)

    penalties = torch.full((2, 8), 1e-2 / 16)
    ours = causal_lm_loss(head, hidden, labels, loss_chunk_size=chunk_size, l2wrap=penalties)
    ours.backward()
    torch.testing.assert_close(ours, loss)
    torch.testing.assert_close(head.weight.grad, expected)


def test_batch_without_a_label_has_a_loss_of_zero_with_gradients():
    model = tiny_model().train()
    ids = random_ids(2, 5)
    loss = model(ids, labels=torch.full_like(ids, -100), loss_weights=torch.zeros(2, 5)).loss
    loss.backward()
    assert loss == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model).values())


def losses_by_hand(model, batch) -> list[torch.Tensor]:
    """The cross-entropies of each row's labels."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    rows = []
    for row_logits, labels in zip(logits, batch["labels"], strict=True):
        losses = F.cross_entropy(row_logits[:-1], labels[1:], reduction="none", ignore_index=-100)
        rows.append(losses[labels[1:] != -100])
    return rows


def micro_batches() -> list[dict[str, torch.Tensor]]:
    """Two of unequal shapes, in which one row has no label at all, and one of padding alone."""
    batches = []
    for seed, shape in enumerate([(3, 9), (2, 5)]):
        labels = random_labels(*shape, seed=seed + 3)
        labels[0, 3:] = -100
        labels[1] = -100
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, 4:] = 0
        batches.append({"input_ids": random_ids(*shape, seed=seed), "attention_mask": mask, "labels": labels})
    nothing = torch.zeros(1, 1, dtype=torch.long)
    return [*batches, {"input_ids": nothing, "attention_mask": nothing, "labels": nothing - 100}]


@pytest.mark.parametrize("reduction", ["token", "sample", "micro_batch"])
def test_accumulated_loss_is_the_mean_it_says(reduction):
    model, batches = tiny_model(), micro_batches()
    counts = BatchCounts(*sum(count_batch(batch, reduction) for batch in batches))
    ours = sum(
        model(**batch, loss_weights=token_weights(batch, reduction, counts.items)).loss.item() for batch in batches
    )
    by_batch = [losses_by_hand(model, batch) for batch in batches[:2]]
    rows = [row for batch in by_batch for row in batch if len(row)]
    expected = {
        "token": torch.cat(rows).mean(),
        "sample": torch.stack([row.mean() for row in rows]).mean(),
        "micro_batch": torch.stack([torch.cat(batch).mean() for batch in by_batch]).mean(),
    }[reduction]
    assert ours == pytest.approx(expected.item(), rel=1e-5)
    assert counts.tokens == sum(batch["attention_mask"].sum() for batch in batches)
    assert counts.samples == 5


def test_chunks_hold_a_fraction_of_the_logits():
    """The largest tensor that the loss keeps for backward, or makes, has the logits of one chunk."""
    tokens, vocabulary, chunk = 256, 512, 16
    hidden, head = torch.randn(1, tokens, 8, requires_grad=True), torch.nn.Linear(8, vocabulary, bias=False)
    labels = random_ids(1, tokens, vocab_size=vocabulary)
    saved: dict[int | None, int] = {}
    for size in (None, chunk):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            causal_lm_loss(head, hidden, labels, loss_chunk_size=size).backward()
        saved[size] = max(sizes)
    assert saved[None] >= (tokens - 1) * vocabulary
    assert saved[chunk] <= chunk * vocabulary


@pytest.mark.parametrize("make", [tiny_model, lambda: tiny_composite("siglip")], ids=["text", "composite"])
def test_l2wrap_counts_without_other_options_of_the_loss(make):
    gradients = {}
    for options in ({}, {"l2wrap": True}, {"l2wrap": True, "loss_chunk_size": 3}):
        model, ids = make(), random_ids(2, 7) % 30
        given = options | ({"l2wrap": torch.full(ids.shape, 1e-2)} if options else {})
        model(ids, labels=ids, **given).loss.backward()
        gradients[len(options)] = model.lm_head.weight.grad
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)
    torch.testing.assert_close(gradients[1], gradients[2])


@pytest.mark.parametrize("option", ["l2wrap", "loss_weights", "loss_chunk_size"])
def test_options_of_the_loss_without_labels_are_refused(option):
    with pytest.raises(ValueError, match="are of a loss, but there are no labels"):
        tiny_model()(random_ids(1, 4), **{option: 2 if option == "loss_chunk_size" else torch.ones(1, 4)})

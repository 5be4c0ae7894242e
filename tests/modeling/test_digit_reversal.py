# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The proof that every part of RWKV-7 learns: BlinkDL's toy, reversing numbers, with the official recipe, on a CPU.

Two layers, 30 thousand parameters, initialisation and weight decay of the official training code, AdamW, gradient
clipping, cosine schedule.
"""

import math
import zlib

import torch

from rwkv7_world import RWKV7Config, RWKV7ForCausalLM


EQUALS, END, VOCAB_SIZE = 10, 11, 12  # a digit is its own token
MOST_DIGITS, TOKENS, BATCH, STEPS = 6, 24, 64, 240
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.1
IGNORED = -100
HELD_OUT = 10  # one number of ten, whatever its digits, is never trained on


def tiny_model() -> RWKV7ForCausalLM:
    return RWKV7ForCausalLM(
        RWKV7Config(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            head_dim=16,
            num_hidden_layers=2,
            decay_low_rank_dim=8,
            a_low_rank_dim=8,
            v_low_rank_dim=8,
            gate_low_rank_dim=8,
            pad_token_id=END,
            bos_token_id=None,
            eos_token_id=END,
        )
    )


def is_held_out(number: str) -> bool:
    return zlib.crc32(number.encode()) % HELD_OUT == 0


def draw_number(generator: torch.Generator, held_out: bool) -> str:
    while True:
        digits = int(torch.randint(1, MOST_DIGITS + 1, (), generator=generator))
        number = "".join(str(d) for d in torch.randint(10, (digits,), generator=generator).tolist())
        if is_held_out(number) == held_out:
            return number


def question(number: str) -> list[int]:
    return [*map(int, number), EQUALS]


def answer(number: str) -> list[int]:
    return [*map(int, reversed(number)), END]


def training_batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of questions and answers one after the other, (batch, tokens), and labels for the answers only."""
    ids, labels = [], []
    for _ in range(BATCH):
        row, row_labels = [], []
        while len(row) < TOKENS:
            number = draw_number(generator, held_out=False)
            row += question(number) + answer(number)
            row_labels += [IGNORED] * len(question(number)) + answer(number)
        ids.append(row[:TOKENS])
        labels.append(row_labels[:TOKENS])
    return torch.tensor(ids), torch.tensor(labels)


def parameter_groups(model: RWKV7ForCausalLM) -> list[dict]:
    """Twice the learning rate for the bias of the decay; weight decay for embeddings, head and projections alone."""
    groups = [
        {"params": [], "lr": 2 * LEARNING_RATE, "weight_decay": 0.0},
        {"params": [], "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": [], "lr": LEARNING_RATE, "weight_decay": 0.0},
    ]
    for name, parameter in model.named_parameters():
        is_projection = name.endswith(".weight") and parameter.dim() == 2 and "lora" not in name
        groups[0 if name.endswith("w_lora.lora.2.bias") else 1 if is_projection else 2]["params"].append(parameter)
    return groups


def train(model: RWKV7ForCausalLM) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(parameter_groups(model), betas=(0.9, 0.99), eps=1e-18)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    )
    for _ in range(STEPS):
        ids, labels = training_batch(generator)
        model(ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def generated_answers(model: RWKV7ForCausalLM, numbers: list[str]) -> list[list[int]]:
    """What the model writes after each question, greedily, in one batch padded on the left."""
    longest = max(len(question(number)) for number in numbers)
    padding = [longest - len(question(number)) for number in numbers]
    ids = [[END] * pad + question(number) for pad, number in zip(padding, numbers, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    generated = model.generate(
        torch.tensor(ids), attention_mask=torch.tensor(mask), max_new_tokens=MOST_DIGITS + 1, do_sample=False
    )
    return generated[:, longest:].tolist()


def test_a_small_model_learns_to_reverse_numbers_it_has_not_seen():
    torch.manual_seed(0)
    model = tiny_model()
    assert 30_000 < sum(parameter.numel() for parameter in model.parameters()) < 32_000

    generator = torch.Generator().manual_seed(2)
    numbers = [draw_number(generator, held_out=True) for _ in range(400)]
    assert {len(number) for number in numbers} == set(range(1, MOST_DIGITS + 1))
    train(model.train())

    right_answers, right_digits, digits = 0, 0, 0
    for number, found in zip(numbers, generated_answers(model.eval(), numbers), strict=True):
        expected = answer(number)
        right_answers += found[: len(expected)] == expected
        right_digits += sum(x == y for x, y in zip(found, expected, strict=False))
        digits += len(expected)
    assert right_digits / digits >= 0.95
    assert right_answers / len(numbers) >= 0.95

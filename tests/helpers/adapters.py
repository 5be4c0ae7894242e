# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters on tiny models: random numbers into them, a few steps of training, what they read."""

import torch
from peft import PeftModel
from torch import nn


LEARNING_RATE = 0.05


@torch.no_grad()
def randomize_adapter(model: PeftModel, seed: int = 0, scale: float = 0.3) -> PeftModel:
    """Random numbers in everything that is trained, as a new adapter mostly changes nothing; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in trained(model).values():
        parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train(model: nn.Module, ids: torch.Tensor, steps: int = 4) -> list[float]:
    """The losses of a few steps on one batch; the model is in evaluation mode afterwards."""
    optimizer, losses = torch.optim.Adam(trained(model).values(), lr=LEARNING_RATE), []
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


@torch.no_grad()
def logits_of(model: nn.Module, ids: torch.Tensor, **kwargs) -> torch.Tensor:
    return model(input_ids=ids, **kwargs).logits


def cached_logits(model: nn.Module, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """As `logits_of`, but token by token after a prompt, with the state of the token before."""
    with torch.no_grad():
        outputs = model(input_ids=ids[:, :prompt], use_cache=True)
        logits = [outputs.logits]
        for position in range(prompt, ids.shape[1]):
            token = ids[:, position, None]
            logits.append(model(input_ids=token, past_key_values=outputs.past_key_values).logits)
    return torch.cat(logits, dim=1)

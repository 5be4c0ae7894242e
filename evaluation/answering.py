# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model says to samples: its greedy answers, or how likely it finds texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..processing.answers import encode_conversations, encode_texts, generate_answers
from .tasks.task import Sample


CHUNK_LENGTH = 1024  # tokens of a long text at once; the state carries over


class Answerer(Protocol):
    """Answers in two steps, so that samples that cannot be read are told from errors of the model."""

    def encode(self, samples: Sequence[Sample]) -> Any:
        """Inputs of a batch; raises `ValueError` or `OSError` if a sample cannot be read."""

    def answer(self, inputs: Any) -> list[str]:
        """An answer for each of the batch."""


@dataclass
class GreedyAnswers:
    """The likeliest answer, token by token.

    Args:
        model: A composite or a text model.
        processor: Its processor or tokenizer.
        max_new_tokens: Length of an answer at most.
        system: Instruction before every question.
        options: Of `generate`, in place of taking the likeliest token.
        template_options: Of the chat template, such as `thinking`.
        options_of: Further options of `generate`, by the inputs of a batch.
    """

    model: PreTrainedModel
    processor: ProcessorMixin | PreTrainedTokenizerBase
    max_new_tokens: int
    system: str | None = None
    options: dict[str, Any] = field(default_factory=lambda: {"do_sample": False})
    template_options: dict[str, Any] = field(default_factory=dict)
    options_of: Callable[[dict[str, torch.Tensor]], dict[str, Any]] = lambda inputs: {}

    def encode(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The questions with their media, padded on the left."""
        if not isinstance(self.processor, ProcessorMixin):
            prompts = [sample.prompt for sample in samples]
            return encode_texts(self.processor, prompts, self.system, **self.template_options)
        opening = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        conversations = [[*opening, {"role": "user", "content": list(sample.content)}] for sample in samples]
        return encode_conversations(self.processor, conversations, **self.template_options)

    def answer(self, inputs: dict[str, torch.Tensor]) -> list[str]:
        """Answers without special tokens, the strings that end them, and space around them."""
        options = {"max_new_tokens": self.max_new_tokens} | self.options | self.options_of(inputs)
        return generate_answers(self.model, self.processor, inputs, **options)


@dataclass
class TextLikelihoods:
    """The negative log-likelihood of whole texts in nats, written out to its last digit.

    Args:
        model: A text model or composite.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def encode(self, samples: Sequence[Sample]) -> list[torch.Tensor]:
        """Token ids of each text, (1, time) int64, after the token that begins texts."""
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise ValueError("the tokenizer has no token that begins or ends a text")
        texts = [self.tokenizer.encode(sample.reference, add_special_tokens=False) for sample in samples]
        return [torch.tensor([[start, *token_ids]], device=self.model.device) for token_ids in texts]

    @torch.inference_mode()
    def answer(self, inputs: list[torch.Tensor]) -> list[str]:
        """One number for each text."""
        return [repr(self._negative_log_likelihood(token_ids)) for token_ids in inputs]

    def _negative_log_likelihood(self, token_ids: torch.Tensor) -> float:
        total, state = 0.0, None
        for start in range(0, token_ids.shape[1] - 1, CHUNK_LENGTH):
            seen = token_ids[:, start : start + CHUNK_LENGTH]
            targets = token_ids[0, start + 1 : start + CHUNK_LENGTH + 1]
            output = self.model(input_ids=seen, cache=state, use_cache=True)
            state = output.cache
            logits = output.logits[0, : len(targets)].float()  # (time, vocabulary)
            total += F.cross_entropy(logits, targets, reduction="sum").item()
        return total

# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Two ways of the RWKV community to shape what is sampled, as `LogitsProcessor`s for `generate`."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation import LogitsProcessor


# BlinkDL's `rwkv` package does not count these for the frequency penalty, nor what is written with them alone
UNCOUNTED_TEXT = " \t0123456789"


class RWKVPenaltyLogitsProcessor(LogitsProcessor):
    r"""
    Presence and frequency penalties that fade: every token that was generated before loses `presence`, and `frequency`
    for each time, of which one that was `n` tokens ago counts `decay ** (n - 1)`. The numbers are those of
    `PIPELINE.generate` in the `rwkv` package.

    Args:
        presence (`float`, *optional*, defaults to 0.2):
            Taken from the logit of every token that was generated.
        frequency (`float`, *optional*, defaults to 0.2):
            Taken for each time that it was.
        decay (`float`, *optional*, defaults to 0.996):
            How much of a count is left after each further token, 0 to 1.
        prompt_length (`int`, *optional*, defaults to 0):
            Tokens at the start that are no answer: `input_ids.shape[1]` of the prompt. 0 penalises those of the prompt
            too. With `inputs_embeds`, 0 is right.
        uncounted_token_ids (`list[int]`, *optional*):
            Tokens without frequency penalty; see [`~RWKVPenaltyLogitsProcessor.uncounted_tokens`].

    Raises:
        ValueError: If `decay` or `prompt_length` is out of range.

    Example:

    ```python
    >>> penalty = RWKVPenaltyLogitsProcessor(prompt_length=ids.shape[1])
    >>> model.generate(ids, do_sample=True, logits_processor=[penalty])
    ```"""

    def __init__(
        self,
        presence: float = 0.2,
        frequency: float = 0.2,
        decay: float = 0.996,
        prompt_length: int = 0,
        uncounted_token_ids: list[int] | None = None,
    ):
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}, expected 0 to 1.")
        if prompt_length < 0:
            raise ValueError(f"prompt_length is {prompt_length}, expected at least 0.")
        self.presence = presence
        self.frequency = frequency
        self.decay = decay
        self.prompt_length = prompt_length
        self.uncounted_token_ids = torch.tensor(uncounted_token_ids or [], dtype=torch.long)

    @staticmethod
    def uncounted_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The ids that the `rwkv` package does not count: space, tab, digits, and tokens of "0123456789" in a row."""
        last = len(UNCOUNTED_TEXT)
        texts = {UNCOUNTED_TEXT[i:j] for i in range(last) for j in range(i + 1, last + 1)}
        encoded = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        return sorted(ids[0] for ids in encoded if len(ids) == 1)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(batch, time) ids so far and (batch, vocab) scores to scores."""
        generated = input_ids[:, self.prompt_length :]
        age = torch.arange(generated.shape[1] - 1, -1, -1, device=scores.device)
        counted = ~torch.isin(generated, self.uncounted_token_ids.to(generated.device))
        counts = counted.to(scores.dtype) * self.decay**age  # (B, T), 0 ** 0 is 1
        penalty = torch.zeros_like(scores).scatter_(1, generated, self.presence)
        return scores - penalty.scatter_add_(1, generated, self.frequency * counts)


class TopALogitsProcessor(LogitsProcessor):
    r"""
    Top-a sampling of RWKV-LM: only tokens of probability at least `top_a` times the square of the largest one are
    left, so that a sure model is cut to few and an unsure one is left to choose.

    Args:
        top_a (`float`):
            0 to 1; 0 leaves all tokens. RWKV-LM recommends 0.2.

    Raises:
        ValueError: If `top_a` is out of range.
    """

    def __init__(self, top_a: float):
        if not 0 <= top_a <= 1:
            raise ValueError(f"top_a is {top_a}, expected 0 to 1.")
        self.top_a = top_a

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """(batch, time) ids so far and (batch, vocab) scores to scores, -inf for tokens that are cut."""
        probabilities = scores.softmax(dim=-1)
        threshold = self.top_a * probabilities.amax(dim=-1, keepdim=True).square()
        return scores.masked_fill(probabilities < threshold, -torch.inf)


__all__ = ["RWKVPenaltyLogitsProcessor", "TopALogitsProcessor"]

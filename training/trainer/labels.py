# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a conversation are learned."""

import numpy as np


LABEL_RULES = ("assistant", "assistant_turn", "all")


def learned_tokens(
    token_ids: np.ndarray,
    assistant_mask: np.ndarray,
    rule: str,
    media_token_ids: list[int],
    header_length: int = 0,
    mask_first_tokens: int = 0,
) -> np.ndarray:
    """(tokens,) bool, true where a token is learned. Placeholders of pictures and clips never are.

    Args:
        token_ids: (tokens,).
        assistant_mask: (tokens,) bool, what the chat template marks as said by the assistant.
        rule: "assistant": what the template marks. "assistant_turn": with the words that open the turn, as WorldRWKV
            has it. "all": every token.
        media_token_ids: Ids of placeholders.
        header_length: Tokens that open an assistant's turn.
        mask_first_tokens: So many tokens at the start of every turn are not learned (VisualRWKV: 3).
    """
    if rule == "all":
        learned = np.ones_like(assistant_mask)
    else:
        learned = assistant_mask.copy()
        header = header_length if rule == "assistant_turn" else 0
        for start in np.flatnonzero(assistant_mask & ~np.roll(assistant_mask, 1) | _first(assistant_mask)):
            opening = max(start - header, 0)
            learned[opening:start] = True
            learned[opening : opening + mask_first_tokens] = False
    return learned & ~np.isin(token_ids, media_token_ids)


def _first(mask: np.ndarray) -> np.ndarray:
    """True at the first position if the mask is, which has nothing before it."""
    first = np.zeros_like(mask)
    first[:1] = mask[:1]
    return first

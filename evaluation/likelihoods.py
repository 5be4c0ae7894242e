# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How well a language model foretells texts, whatever its tokenizer."""

import math
from collections.abc import Sequence


def bits_per_character(negative_log_likelihoods: Sequence[float], texts: Sequence[str]) -> dict[str, float]:
    """Bits that a model needs for a character, and for a byte of UTF-8.

    Args:
        negative_log_likelihoods: Of each whole text, in nats.
        texts: The texts.

    Returns:
        `bits_per_character` and `bits_per_byte`.

    Raises:
        ValueError: If the numbers differ, or there is no text.
    """
    characters = sum(map(len, texts))
    if len(negative_log_likelihoods) != len(texts) or not characters:
        raise ValueError(
            f"{len(negative_log_likelihoods)} likelihoods for {len(texts)} texts of {characters} characters."
        )
    bits = sum(negative_log_likelihoods) / math.log(2)
    return {"bits_per_character": bits / characters, "bits_per_byte": bits / sum(len(text.encode()) for text in texts)}

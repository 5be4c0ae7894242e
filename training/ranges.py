# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the numbers and choices of a recipe may be. Every number has a range here; a test holds that."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, without `least` itself if it is open; and `also`, as -1 for "none"."""

    least: float = 0
    most: float = float("inf")
    is_open: bool = False
    also: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        above = value > self.least if self.is_open else value >= self.least
        return (above and value <= self.most and value != float("inf")) or value in self.also

    def __str__(self) -> str:
        words = f"more than {self.least:g}" if self.is_open else f"at least {self.least:g}"
        words += "" if self.most == float("inf") else f" and at most {self.most:g}"
        return words + "".join(f", or {value:g}" for value in self.also)


SHARE, COUNT, AT_LEAST_ONE = Range(0, 1), Range(0), Range(1)
POSITIVE, BELOW_ONE = Range(0, is_open=True), Range(0, 1 - 1e-9)

TRAINER_RANGES = {
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "chunk_length": AT_LEAST_ONE,
    "data_seed": COUNT,
    "dataloader_num_workers": COUNT,
    "dataloader_prefetch_factor": AT_LEAST_ONE,
    "ddp_bucket_cap_mb": AT_LEAST_ONE,
    "ddp_timeout": AT_LEAST_ONE,
    "decay_bias_multiplier": COUNT,
    "decay_steps": POSITIVE,
    "eval_accumulation_steps": AT_LEAST_ONE,
    "eval_delay": COUNT,
    "eval_steps": POSITIVE,
    "final_learning_rate_ratio": SHARE,
    "gradient_accumulation_steps": AT_LEAST_ONE,
    "l2wrap": COUNT,
    "label_smoothing_factor": BELOW_ONE,
    # Muon and sign-based optimisers take rates that AdamW never would, but none beyond 1
    "learning_rate": SHARE,
    "local_rank": Range(0, also=(-1,)),
    "logging_steps": POSITIVE,
    "loss_chunk_size": AT_LEAST_ONE,
    "max_grad_norm": COUNT,
    "max_steps": Range(1, also=(-1,)),
    "neftune_noise_alpha": COUNT,
    "num_train_epochs": POSITIVE,
    "per_device_eval_batch_size": AT_LEAST_ONE,
    "per_device_train_batch_size": AT_LEAST_ONE,
    "save_steps": POSITIVE,
    "save_total_limit": AT_LEAST_ONE,
    "seed": Range(0, 2**32 - 1),
    "torch_empty_cache_steps": AT_LEAST_ONE,
    "warmup_steps": COUNT,
    "weight_decay": COUNT,
}
RECIPE_RANGES = {"eval_share": Range(0, 0.9, is_open=True)}
MODEL_RANGES = {"bits": (8, 4)}
DATA_RANGES = {"weight": POSITIVE}
SAMPLE_RANGES = {"max_length": Range(2), "mask_first_tokens": COUNT}
GENERATION_RANGES = {"rows": AT_LEAST_ONE, "max_new_tokens": AT_LEAST_ONE, "batch_size": AT_LEAST_ONE}


def check_ranges(values: dict[str, Any], ranges: dict[str, Iterable], where: str) -> None:
    """Refuses a number out of its range.

    Args:
        values: By key; those that are `None` are of the default.
        ranges: A [`Range`] by key, or all values that there are.
        where: File and key of the values, for messages.

    Raises:
        ValueError: Names the key, the value and the range.
    """
    for key, allowed in ranges.items():
        value = values.get(key)
        if value is not None and value not in allowed:
            expected = allowed if isinstance(allowed, Range) else " or ".join(map(str, allowed))
            raise ValueError(f"{where}{key} is {value!r}, expected {expected}")

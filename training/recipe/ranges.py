# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What the numbers and words of a recipe may be. Every number and every word has a range here; a test holds that."""

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, get_args, get_type_hints

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ...data.formats import FORMATS
from ..trainer.labels import LABEL_RULES
from ..trainer.losses import LOSS_REDUCTIONS
from ..trainer.metrics import METRICS
from ..trainer.parameter_selectors import PARTS
from .arguments import RWKVTrainingArguments
from .hooks import is_hook


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


@dataclass(frozen=True)
class Words:
    """Some words; also Python, "file.py:object", if `or_hook`."""

    words: tuple[str | bool | int, ...]
    or_hook: bool = False

    def __contains__(self, value: Any) -> bool:
        return value in self.words or (self.or_hook and isinstance(value, str) and is_hook(value))

    def __str__(self) -> str:
        words = ", ".join(str(word) for word in self.words if word != "")
        return f"one of {words}" + (" or file.py:object" if self.or_hook else "")


def _words_of_transformers() -> dict[str, Words]:
    """The words of transformers' arguments, by its enumerations or what it offers on the command line."""
    found = {}
    for field in fields(RWKVTrainingArguments):
        if "choices" in field.metadata:
            found[field.name] = Words(tuple(field.metadata["choices"]))
        kind = get_type_hints(RWKVTrainingArguments)[field.name]
        for part in (kind, *get_args(kind)):
            if isinstance(part, type) and issubclass(part, Enum):
                found[field.name] = Words(tuple(member.value for member in part))
    return found


SHARE, COUNT, AT_LEAST_ONE = Range(0, 1), Range(0), Range(1)
POSITIVE, BELOW_ONE = Range(0, is_open=True), Range(0, 1 - 1e-9)

TRAINER_RANGES = _words_of_transformers() | {
    "adam_beta1": BELOW_ONE,
    "adam_beta2": BELOW_ONE,
    "adam_epsilon": POSITIVE,
    "chunk_length": AT_LEAST_ONE,
    "data_seed": COUNT,
    "dataloader_num_workers": COUNT,
    "dataloader_prefetch_factor": AT_LEAST_ONE,
    "ddp_bucket_cap_mb": AT_LEAST_ONE,
    "ddp_timeout": AT_LEAST_ONE,
    "debug": Words(("", "underflow_overflow", "tpu_metrics_debug")),
    "decay_bias_multiplier": COUNT,
    "decay_steps": POSITIVE,
    "eval_accumulation_steps": AT_LEAST_ONE,
    "eval_delay": COUNT,
    "eval_steps": POSITIVE,
    "final_learning_rate_ratio": SHARE,
    "gradient_accumulation_steps": AT_LEAST_ONE,
    "include_for_metrics": Words(("inputs", "loss")),
    "include_num_input_tokens_seen": Words(("all", "non_padding", "no", True, False)),
    "l2wrap": COUNT,
    "label_smoothing_factor": BELOW_ONE,
    # Muon and sign-based optimisers take rates that AdamW never would, but none beyond 1
    "learning_rate": SHARE,
    "local_rank": Range(0, also=(-1,)),
    "logging_steps": POSITIVE,
    "loss_chunk_size": AT_LEAST_ONE,
    "loss_reduction": Words(LOSS_REDUCTIONS),
    "max_grad_norm": COUNT,
    "max_steps": Range(1, also=(-1,)),
    "neftune_noise_alpha": COUNT,
    "num_train_epochs": POSITIVE,
    "per_device_eval_batch_size": AT_LEAST_ONE,
    "per_device_train_batch_size": AT_LEAST_ONE,
    "report_to": Words(("all", "none", *INTEGRATION_TO_CALLBACK)),
    "save_steps": POSITIVE,
    "save_total_limit": AT_LEAST_ONE,
    "seed": Range(0, 2**32 - 1),
    "torch_compile_mode": Words(("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")),
    "torch_empty_cache_steps": AT_LEAST_ONE,
    "warmup_steps": COUNT,
    "weight_decay": COUNT,
}
RECIPE_RANGES = {"eval_share": Range(0, 0.9, is_open=True), "train": Words(PARTS), "freeze": Words(PARTS)}
MODEL_RANGES = {"bits": Words((8, 4)), "dtype": Words(("float32", "bfloat16", "float16", "float64"))}
DATA_RANGES = {"weight": POSITIVE, "format": Words(tuple(FORMATS), or_hook=True)}
SAMPLE_RANGES = {"max_length": Range(2), "mask_first_tokens": COUNT, "labels": Words(LABEL_RULES)}
GENERATION_RANGES = {
    "metric": Words(tuple(METRICS), or_hook=True),
    "rows": AT_LEAST_ONE,
    "max_new_tokens": AT_LEAST_ONE,
    "batch_size": AT_LEAST_ONE,
}


def check_ranges(values: dict[str, Any], ranges: dict[str, Range | Words], where: str) -> None:
    """Refuses a number out of its range, and a word that is none of those there are; of a list, each.

    Args:
        values: By key; those that are `None` are of the default.
        ranges: By key.
        where: File and key of the values, for messages.

    Raises:
        ValueError: Names the key, the value and the range.
    """
    for key, allowed in ranges.items():
        given = values.get(key)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value not in allowed:
                raise ValueError(f"{where}{key} is {value!r}, expected {allowed}")

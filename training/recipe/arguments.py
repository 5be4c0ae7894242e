# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What can be set of a training run: the arguments of transformers' Trainer and those of RWKV's training."""

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from ...configuration.optional_libraries import missing, optional_imports
from ..trainer.losses import LOSS_REDUCTIONS


with optional_imports():
    from accelerate.utils import parse_flag_from_env


CONFIGS = Path(__file__).parents[1] / "configs"  # of accelerate (.yaml) and DeepSpeed (.json)


@dataclass
class RWKVTrainingArguments(TrainingArguments):
    """Arguments of transformers' Trainer, and:

    Args:
        decay_bias_multiplier: The bias of RWKV's decay (`w0`) learns at so many times the learning rate.
        part_learning_rates: Learning rates of parts of the model, as {"projector": 1e-3, "text": 2e-5}.
        loss_reduction: "token": all tokens of a step weigh the same. "sample": all samples do, each the mean of its
            tokens (VisualRWKV). "micro_batch": the mean of each micro-batch, then of these (WorldRWKV). The loss of an
            evaluation is that of one step with all its rows.
        l2wrap: Coefficient of RWKV-LM's regulariser of the largest logit, 1e-4 there; 0 is without.
        loss_chunk_size: Tokens whose logits exist at once while the loss is computed; all if `None`.
        deepspeed: As for transformers, or the name of one that comes with the package, as "zero2".
        chunk_length: Tokens that are computed at once; longer samples go in chunks of time that hand on the state, in
            memory that does not grow with the length (infctx). All at once if `None`.
        detach_state: Whether gradients end where a chunk begins, as in RWKV-PEFT. Else they are those of the whole
            sample, for one more forward pass and a state in memory for every chunk.
        final_learning_rate_ratio: The learning rate at the end over that at the peak, for "cosine" and
            "warmup_stable_decay".
        decay_steps: For "warmup_stable_decay": the steps of the decay, or their share of all if below 1.
    """

    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Rows go to the collator whole."})
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Whether there is no progress bar."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "A loss that is not finite ends the run."})
    logging_first_step: bool = field(default=True, metadata={"help": "The loss is shown from step 1."})
    logging_steps: float = field(default=10, metadata={"help": "Steps, or their share of all, between two lines."})
    decay_bias_multiplier: float = field(default=2.0, metadata={"help": "Of the learning rate of w0."})
    part_learning_rates: dict | str | None = field(default=None, metadata={"help": "Learning rates by part."})
    loss_reduction: str = field(default="token", metadata={"help": "token, sample or micro_batch."})
    l2wrap: float = field(default=0.0, metadata={"help": "Coefficient of L2Wrap, 1e-4 in RWKV-LM."})
    loss_chunk_size: int | None = field(default=None, metadata={"help": "Tokens whose logits exist at once."})
    chunk_length: int | None = field(default=None, metadata={"help": "Tokens computed at once (infctx)."})
    detach_state: bool = field(default=True, metadata={"help": "Whether gradients end where a chunk begins."})
    final_learning_rate_ratio: float | None = field(default=None, metadata={"help": "Of the peak."})
    decay_steps: float = field(default=0.1, metadata={"help": "Steps of the decay, or their share of all."})

    def __post_init__(self):
        if self.loss_reduction not in LOSS_REDUCTIONS:
            raise ValueError(
                f"loss_reduction is {self.loss_reduction!r}, expected one of {', '.join(LOSS_REDUCTIONS)}"
            )
        if self.loss_chunk_size is not None and self.loss_chunk_size < 1:
            raise ValueError(f"loss_chunk_size is {self.loss_chunk_size}, expected at least 1 token")
        self._find_deepspeed()
        self._check_chunks()
        self._resolve_schedule()
        self._check_precision()
        super().__post_init__()
        self._check_checkpointing()
        if self.accelerator_config.dispatch_batches is None:
            # Each process reads its own part of a stream; handed out by one, its batches would have to be as wide
            self.accelerator_config.dispatch_batches = False

    def _check_precision(self) -> None:
        """Says what to set where the machine cannot compute in a precision that is asked for."""
        instead = "--set trainer.use_cpu=true trains on the CPU"
        for name in ("bf16", "bf16_full_eval"):
            can = self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available()
            if getattr(self, name) and not can:
                raise ValueError(
                    f"{name} needs a GPU that computes in bfloat16, and there is none: {instead}, "
                    f"--set trainer.{name}=false in float32"
                )
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ValueError(f"fp16 needs a GPU: {instead}, with trainer.bf16=true in place of fp16")

    def _find_deepspeed(self) -> None:
        """Takes "zero2" and the like for the configuration of that name that comes with the package."""
        if self.deepspeed is not None and find_spec("deepspeed") is None:
            raise missing("deepspeed")
        if not isinstance(self.deepspeed, str) or Path(self.deepspeed).is_file():
            return
        shipped = CONFIGS / f"{self.deepspeed}.json"
        if not shipped.is_file():
            names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.json")))
            raise FileNotFoundError(f"deepspeed {self.deepspeed!r}: no such file; the package has {names}")
        self.deepspeed = str(shipped)

    def _check_chunks(self) -> None:
        if self.chunk_length is None:
            return
        if self.chunk_length < 1:
            raise ValueError(f"chunk_length is {self.chunk_length}, expected at least 1 token")
        if self.deepspeed is not None or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):  # of accelerate launch
            raise ValueError("chunk_length does not work with DeepSpeed; use one process, DDP or FSDP2")

    def _check_checkpointing(self) -> None:
        """Refuses chunks with checkpointed activations, by all names that there are once everything was resolved."""
        if self.chunk_length is None:
            return
        config = self.fsdp_config or {}
        config = json.loads(Path(config).read_text(encoding="utf-8")) if isinstance(config, str) else config
        fsdp = {key.removeprefix("fsdp_"): value for key, value in config.items()}
        given = {
            "activation_checkpointing (gradient_checkpointing)": self.activation_checkpointing,
            "fsdp_config.activation_checkpointing": fsdp.get("activation_checkpointing"),
            "FSDP_ACTIVATION_CHECKPOINTING": parse_flag_from_env("FSDP_ACTIVATION_CHECKPOINTING"),  # likewise
        }
        for name, value in given.items():
            if str(value).lower() in ("true", "1"):
                raise ValueError(
                    f"chunk_length and {name} do not go together: a checkpointed layer cannot hand on its state; a "
                    "shorter chunk_length saves memory too"
                )

    def _resolve_schedule(self) -> None:
        """Turns the final rate and the steps of decay into what transformers' schedulers take."""
        schedule, ratio = SchedulerType(self.lr_scheduler_type), self.final_learning_rate_ratio
        options = dict(self.lr_scheduler_kwargs or {})
        if schedule == SchedulerType.WARMUP_STABLE_DECAY and "num_decay_steps" not in options:
            options["num_decay_steps"] = self._decay_steps()
            options["min_lr_ratio"] = ratio or 0.0
        elif schedule == SchedulerType.COSINE and ratio is not None:
            self.lr_scheduler_type = SchedulerType.COSINE_WITH_MIN_LR
            options["min_lr_rate"] = ratio
        elif ratio is not None and schedule != SchedulerType.COSINE_WITH_MIN_LR:
            raise ValueError(
                "final_learning_rate_ratio is for lr_scheduler_type cosine and warmup_stable_decay, "
                f"not {schedule.value}"
            )
        self.lr_scheduler_kwargs = options or None

    def _decay_steps(self) -> int:
        if self.decay_steps >= 1:
            return int(self.decay_steps)
        if self.max_steps <= 0:
            raise ValueError(
                "lr_scheduler_type warmup_stable_decay needs max_steps, or decay_steps as a number of steps"
            )
        return max(1, round(self.decay_steps * self.max_steps))

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer of transformers for RWKV-7: its groups of parameters, its losses, its order of rows."""

import math
from functools import partial

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

from ...configuration.optional_libraries import optional_imports
from ...modeling_rwkv7_world.cache_rwkv7 import RWKV7Cache
from ..auxiliary import TARGETS, WithAuxiliaryLoss
from ..checkpoint.checkpoint_trainer import CheckpointTrainer
from ..distributed.gradient_exchange import touch_unused
from ..distributed.pad_last_batch import CompleteStream, PadLastBatch, RowsOrNone
from ..distributed.sync_modalities import SyncModalities
from .chunked_time import ChunkedBatch, ChunkRunner, encode_media, lengthen
from .collator import ConversationCollator
from .generation_evaluation import GenerationEvaluator
from .losses import BatchCounts, MeanLoss, count_batch, token_weights
from .parameter_groups import is_decayed, parameter_groups
from .sampling import EpochLengthGroupedSampler, rough_length
from .throughput import Throughput, peak_memory


with optional_imports():
    from accelerate.data_loader import SeedableRandomSampler


GROUP_BY_LENGTH, BATCH_REBALANCE = "group_by_length", "batch_rebalance"
EVALUATION = "Evaluation"  # what transformers' Trainer calls the rows of `evaluate`
# What the losses of a batch are multiplied by
_WEIGHTS = ("loss_weights", "l2wrap", "auxiliary_scale")


class RWKVTrainer(CheckpointTrainer):
    """Trains RWKV-7 models, with or without vision and audio encoders; everything else is as in transformers' Trainer.

    Args:
        model: The model, or one with an auxiliary loss around it ([`WithAuxiliaryLoss`]).
        args: [`RWKVTrainingArguments`].
        processing_class: The processor or tokenizer, saved with every checkpoint.
        generation_evaluator: Answers evaluation rows by `generate` whenever there is an evaluation, and scores them.
        kwargs: As for transformers' Trainer; `data_collator` is a [`ConversationCollator`].
    """

    # Every loss is divided by what the whole step holds
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        args,
        processing_class=None,
        generation_evaluator: GenerationEvaluator | None = None,
        **kwargs,
    ):
        # Not handed on: transformers would make the tokenizer's end of text the model's, but World models end their
        # turns with another token
        if args.chunk_length is not None and isinstance(model, WithAuxiliaryLoss):
            raise ValueError("chunk_length does not go with an auxiliary loss, which reads whole samples")
        configured = dict(vars(model.config))
        super().__init__(model, args, **kwargs)
        _restore_use_cache(self.model.config, configured)
        self.processor = processing_class
        self.generation_evaluator = generation_evaluator
        self.model_accepts_loss_kwargs = True  # so that the items of every step are counted
        in_buckets = self.is_fsdp_enabled or self.is_deepspeed_enabled
        self.model.register_forward_hook(partial(touch_unused, in_buckets=in_buckets), with_kwargs=True)
        self.sync_modalities = SyncModalities(self.accelerator, self.model)
        self._frozen_encoders = [tower for tower in self.sync_modalities.towers.values() if _is_frozen(tower)]
        self._throughput = Throughput()
        self._evaluated = MeanLoss()

    # Optimiser

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay is for: matrices, but not the low-rank maps of RWKV-7."""
        return [name for name, parameter in model.named_parameters() if is_decayed(name, parameter)]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser over RWKV's groups of parameters."""
        if self.optimizer is None:
            model, args = self.model if model is None else model, self.args
            groups = parameter_groups(
                model,
                args.learning_rate,
                args.weight_decay,
                args.decay_bias_multiplier,
                args.part_learning_rates or {},
            )
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(args, model)
            self.optimizer_cls_and_kwargs = optimizer_class, {**options, "params": groups}
        return super().create_optimizer(model)

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> BatchCounts | None:
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = sum(count_batch(batch, self.args.loss_reduction) for batch in batch_samples)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.to(device)).view(-1, len(counts)).sum(0)
        return BatchCounts(*counts)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        """The micro-batches of a step and what they hold."""
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        if counts is not None:
            self._throughput.add(counts)
        return batches, counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: BatchCounts | None = None,
    ):
        """The loss of a micro-batch as its share of the step's."""
        inputs = self._loss_inputs(inputs, num_items_in_batch)
        if self.args.chunk_length is not None:
            loss = self._chunk_runner(model).evaluate(self._in_chunks(inputs))
            outputs = {"loss": loss}
        else:
            outputs = model(**inputs)
            loss = self._share(outputs["loss"])
        if not model.training:
            self._evaluated.add(loss, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _loss_inputs(self, inputs: dict, counts: BatchCounts) -> dict:
        """Inputs of the model with all that its loss depends on."""
        for encoder in self._frozen_encoders:
            encoder.eval()  # no dropout nor SpecAugment in what is not trained
        inputs, args = dict(inputs), self.args
        targets = inputs.pop(TARGETS, None)
        if isinstance(self.model, WithAuxiliaryLoss) and targets is not None:
            inputs |= {TARGETS: targets, "auxiliary_scale": 1 / self.current_gradient_accumulation_steps}
        inputs["loss_weights"] = token_weights(inputs, args.loss_reduction, counts.items)
        inputs["loss_chunk_size"] = args.loss_chunk_size
        inputs.setdefault("use_cache", False)
        if args.l2wrap:
            mask = inputs.get("attention_mask", torch.ones_like(inputs["labels"]))
            inputs["l2wrap"] = mask * (args.l2wrap / counts.tokens.clamp(min=1))
        return self._with_synced_modalities(inputs) if self.sync_modalities.is_needed else inputs

    def _with_synced_modalities(self, inputs: dict) -> dict:
        """The inputs, or where there are no rows those of another process, of which nothing counts."""
        mask = inputs.get("attention_mask")
        inputs, is_borrowed = self.sync_modalities.align(inputs, has_rows=mask is None or bool(mask.any()))
        return inputs | {name: inputs[name] * 0 for name in _WEIGHTS if is_borrowed and name in inputs}

    def _share(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss as this process gives it to the average of all."""
        # Processes average their gradients, and each divides by what all of them hold
        return loss * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of one micro-batch.

        Raises:
            FloatingPointError: If the loss is not a number.
        """
        step = super().training_step if self.args.chunk_length is None else self._chunked_step
        loss = step(model, inputs, num_items_in_batch)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: no weights of this step were kept; "
                "a lower learning_rate, a longer warm-up, max_grad_norm or bf16 in place of fp16 usually help"
            )
        return loss

    # Chunks of time

    def _chunked_step(self, model: nn.Module, inputs: dict, counts: BatchCounts) -> torch.Tensor:
        """`training_step` in chunks of time."""
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # of schedule-free optimisers
            self.optimizer.train()
        inputs = self._loss_inputs(self._prepare_inputs(inputs), counts)
        with self.compute_loss_context_manager():
            runner, batch = self._chunk_runner(model), self._in_chunks(inputs)
            return runner.truncated(batch) if self.args.detach_state else runner.whole(batch)

    def _chunk_runner(self, model: nn.Module) -> ChunkRunner:
        accelerator = self.accelerator

        def chunk_loss(chunk: dict, cache: RWKV7Cache) -> torch.Tensor:
            return self._share(model(**chunk, cache=cache)["loss"])

        return ChunkRunner(
            self.model.config,
            chunk_loss,
            accelerator.backward,
            partial(accelerator.no_sync, model=model),
            1.0 if accelerator.scaler is None else accelerator.scaler.get_scale(),
            may_skip=accelerator.num_processes == 1,
        )

    def _in_chunks(self, inputs: dict) -> ChunkedBatch:
        """The batch in as many chunks as that of every process."""
        if isinstance(self.model, FSDPModule):  # towers and projectors, even if only others have something to encode
            self.model.unshard()
        with self.accelerator.autocast():
            inputs, features, placeholders = encode_media(self.model, inputs)
        length, time = self.args.chunk_length, inputs["input_ids"].shape[1]
        if self.accelerator.num_processes > 1:
            longest = self.accelerator.gather(torch.tensor([time], device=self.args.device)).max().item()
            inputs = lengthen(inputs, (longest - 1) // length * length + 1)
            added = inputs["input_ids"].shape[1] - time
            placeholders = {kind: F.pad(mask, (0, added)) for kind, mask in placeholders.items()}
        return ChunkedBatch(inputs, length, features, placeholders)

    # Data order

    def _get_dataloader(self, dataset, description, batch_size, sampler_fn=None, is_training=False, **kwargs):
        if self._completes_batches(description, is_training):
            samples_of_batch = batch_size * self.args.world_size
            if isinstance(dataset, IterableDataset):
                dataset = CompleteStream(dataset, samples_of_batch)
            else:
                order = sampler_fn(dataset)
                if isinstance(order, RandomSampler):  # as accelerate does where it finds one
                    order = SeedableRandomSampler(dataset, data_seed=self.args.data_seed)
                sampler = PadLastBatch(order, samples_of_batch)
                dataset, sampler_fn = RowsOrNone(dataset), lambda rows: sampler
        return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, **kwargs)

    def _completes_batches(self, description: str, is_training: bool) -> bool:
        """Whether the last batches of processes, of which some may be without rows, are ours to make."""
        args = self.args
        if args.world_size == 1 or args.dataloader_drop_last:
            return False
        if not isinstance(self.data_collator, ConversationCollator):  # which knows what `None` is
            return False
        if is_training:
            return args.train_sampling_strategy != BATCH_REBALANCE
        # Where predictions are gathered, all processes need as many rows
        return description == EVALUATION and self.compute_metrics is None

    def _get_train_sampler(self, train_dataset=None):
        rows, args = self.train_dataset if train_dataset is None else train_dataset, self.args
        if args.train_sampling_strategy != GROUP_BY_LENGTH or isinstance(rows, IterableDataset):
            return super()._get_train_sampler(rows)
        lengths = [rough_length(rows[index]) for index in range(len(rows))]
        seed = args.seed if args.data_seed is None else args.data_seed
        samples_of_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return EpochLengthGroupedSampler(samples_of_step, lengths, seed)

    def _get_eval_sampler(self, eval_dataset):
        return SequentialSampler(eval_dataset)

    # Logging

    def train(self, *args, **kwargs):
        """Trains, see transformers' Trainer; throughput counts from here."""
        self._throughput.restart()
        return super().train(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds throughput and peak memory to what is logged of the training."""
        if "loss" in logs:
            logs |= self._throughput.report() | {"peak_memory_gb": round(peak_memory(self.args.device) / 1e9, 3)}
            if skipped := getattr(self.data_collator, "skipped_rows", 0):
                logs["skipped_rows"] = skipped
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """Goes through the rows; their loss is that of one step that holds them all, on any number of processes."""
        self._evaluated, name = MeanLoss(), f"{metric_key_prefix}_loss"
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if name in output.metrics:
            loss = torch.tensor(self._evaluated.value, device=self.args.device)
            output.metrics[name] = self.accelerator.reduce(loss, "mean").item()
        return output

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The loss on the evaluation rows and, where asked for, the scores of what the model answers to them."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.generation_evaluator is not None and not isinstance(rows, (dict, str, IterableDataset)):
            scores = self.generation_evaluator(self, rows, metric_key_prefix)
            self.log(dict(scores))
            metrics |= scores
        return metrics


def _restore_use_cache(config, before: dict) -> None:
    """Takes back what transformers' Trainer writes into the configuration, which is saved with the model."""
    if "use_cache" in before:
        config.use_cache = before["use_cache"]
    else:
        vars(config).pop("use_cache", None)


def _is_frozen(module: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in module.parameters())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a trainer: whole or not there, of one process or many, with or without an auxiliary loss."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from ...configuration.optional_libraries import optional_imports
from ...conversion.folder import names_not_finite
from ...conversion.output import usual_mode
from ...publishing.model_card import adapter_card
from ..auxiliary import WithAuxiliaryLoss, without_auxiliary
from .checkpoint_exchange import check_without_deepspeed, goes_by_names, load_optimizer_by_names, load_whole_model
from .checkpoints import PARTIAL_FOLDER, checkpoint_name, publish, stale_checkpoints, write_atomically


with optional_imports():
    from accelerate.utils import save_fsdp_optimizer
    from peft import PeftModel


AUXILIARY_WEIGHTS = "auxiliary.safetensors"
TRAINER_STATE = "trainer_state.json"
SCHEDULER = "scheduler.pt"


@torch.no_grad()
def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuses weights that hold NaN or infinity, as a learning rate that is far too high makes them.

    Raises:
        ValueError: Names the first such tensor and counts them.
    """
    own = {name: x.to_local() if hasattr(x, "to_local") else x for name, x in tensors.items()}  # of this process
    if bad := names_not_finite(own):
        raise ValueError(
            f"{len(bad)} tensors are not finite, for example {bad[0]}, so nothing is saved: trainer.learning_rate may "
            "be too high"
        )


class CheckpointTrainer(Trainer):
    """transformers' Trainer, but checkpoints are whole, and any number of processes loads those of any other."""

    processor = None  # saved with every checkpoint, if there is one
    _partial = False  # whether a checkpoint is being written, under another name until it is whole

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder, PARTIAL_FOLDER)) if self._partial else folder

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        run_dir, name = Path(self._get_output_dir(trial)), checkpoint_name(self.state.global_step)
        partial = run_dir / PARTIAL_FOLDER / name
        if self.is_world_process_zero() and partial.exists():
            shutil.rmtree(partial)
        self.accelerator.wait_for_everyone()
        self._partial = True
        try:
            write_atomically(lambda: super(CheckpointTrainer, self)._save_checkpoint(model, trial), run_dir, name)
        finally:
            self._partial = False
        self._name_best_checkpoint(run_dir, partial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            publish(partial, run_dir)
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _name_best_checkpoint(self, run_dir: Path, partial: Path) -> None:
        """Names the best checkpoint by where it will be, if it is the one just written."""
        if self.state.best_model_checkpoint == str(partial):
            self.state.best_model_checkpoint = str(run_dir / partial.name)
            if self.args.should_save:
                self.state.save_to_json(str(partial / TRAINER_STATE))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        output_dir = self.args.output_dir if output_dir is None else output_dir
        check_finite(self.model.state_dict() if state_dict is None else state_dict)
        whole, self.model = self.model, without_auxiliary(self.model)
        try:
            if whole is not self.model and state_dict is not None:
                prefix = "model."
                state_dict = {name.removeprefix(prefix): x for name, x in state_dict.items() if name[:6] == prefix}
            with adapter_card(Path(output_dir)):
                super()._save(output_dir, state_dict)
        finally:
            self.model = whole
        if self.args.should_save:
            if self.processor is not None:
                self.processor.save_pretrained(output_dir)
            if self._partial and isinstance(whole, WithAuxiliaryLoss):
                safetensors.torch.save_model(whole.auxiliary, str(Path(output_dir, AUXILIARY_WEIGHTS)))
            usual_mode(*Path(output_dir).glob("*.safetensors"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Without accelerate's own copy of the model: `save_model` has written a whole one
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        sharded = self.is_fsdp_enabled
        if checkpoint is not None and not self.is_deepspeed_enabled:
            check_without_deepspeed(Path(checkpoint))
        if checkpoint is None or self.is_deepspeed_enabled or not goes_by_names(Path(checkpoint), sharded):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        main = self.is_world_process_zero()
        load_optimizer_by_names(Path(checkpoint), self.model, self.optimizer.optimizer, sharded, main)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, SCHEDULER), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled and model is not None:
            return  # `train` has loaded it before it was sharded
        model = self.model if model is None else model
        try:
            if self.is_fsdp_enabled and not isinstance(model, PeftModel):
                load_whole_model(without_auxiliary(model), Path(resume_from_checkpoint))
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, without_auxiliary(model))
        except RuntimeError as error:  # of `load_state_dict`, a line for every tensor of another shape
            mismatches = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
            if not mismatches:
                raise
            raise ValueError(f"{resume_from_checkpoint}: of another model or adapter, {mismatches[0]}") from error
        if isinstance(model, WithAuxiliaryLoss):
            safetensors.torch.load_model(model.auxiliary, str(Path(resume_from_checkpoint, AUXILIARY_WEIGHTS)))

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Trains, see transformers' Trainer; names what an interrupted save left behind."""
        if self.is_world_process_zero():
            for partial in stale_checkpoints(self.args.output_dir):
                print(f"{partial}: left by a save that did not end; it is not used and can be deleted")
        if self.is_fsdp_enabled and resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

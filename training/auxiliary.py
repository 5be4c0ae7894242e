# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses beside that of the language model, for instance of heads that read an encoder's features directly."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin


TARGETS = "auxiliary_targets"


class AuxiliaryLoss(nn.Module, ABC):
    """Base class of what a recipe's `auxiliary` names.

    Its parameters are trained with the model and kept in checkpoints; the saved model has none of them.

    Args:
        model: The model that is trained.
        processor: Its processor or tokenizer.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        super().__init__()

    @staticmethod
    @abstractmethod
    def targets(processor: ProcessorMixin, rows: list[dict]) -> dict[str, torch.Tensor]:
        """What a batch of rows shall give, as tensors; called by the collator, in its worker."""

    @abstractmethod
    def forward(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a micro-batch, a mean, and the inputs for the model.

        Args:
            model: The model.
            inputs: What the collator made for it. Raw media may be replaced by `mm_encoder_outputs`, so that nothing
                is encoded twice.
            targets: Of the same rows.
        """


class WithAuxiliaryLoss(nn.Module):
    """A model and an auxiliary loss as one module, whose loss is the sum of both; else as the model alone."""

    def __init__(self, model: PreTrainedModel, auxiliary: AuxiliaryLoss):
        super().__init__()
        self.model = model
        self.auxiliary = auxiliary

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.model, name)

    def forward(self, auxiliary_targets: Mapping | None = None, auxiliary_scale: float = 1.0, **inputs):
        """The model's outputs. In training, `auxiliary_scale` times the auxiliary loss is added to their loss."""
        if not self.training or auxiliary_targets is None:
            return self.model(**inputs)
        loss, inputs = self.auxiliary(self.model, inputs, auxiliary_targets)
        outputs = self.model(**inputs)
        outputs.loss = outputs.loss + loss * auxiliary_scale
        return outputs


def without_auxiliary(model: nn.Module) -> nn.Module:
    """The model inside, where there is an auxiliary loss around it."""
    return model.model if isinstance(model, WithAuxiliaryLoss) else model

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""State tuning as a method of HF PEFT: what is trained is the state that every sequence starts from.

The method is a kind of LoRA to PEFT, so that one adapter can hold a state and LoRA matrices, and several adapters of
either can be active at once. A learned state is added to the one of the base model, which mostly has none.

Layers are told by the names of their parts: the model may come from the code that its folder carries, whose classes
are not the ones here.
"""

from dataclasses import dataclass, field

import torch
from peft import LoraConfig, LoraModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from ..modeling_rwkv7_world.initial_state import RWKV7InitialState


STATE_TUNING = "STATE_TUNING"  # the `peft_type`
STATE_MODULE, TOKEN_MODULE = "initial_state", "initial_token"  # names in the layers


@dataclass
class StateTuningConfig(LoraConfig):
    """Configuration of an adapter that holds learned initial states, and LoRA matrices if `target_modules` are given.

    Args:
        tune_state: Whether the initial state of every recurrence is trained, (heads, value, key) in float32.
        tune_tokens: Whether the vectors that the token shifts start from are trained too, (hidden,).

    The other fields are those of `LoraConfig`. Without `target_modules` there are no LoRA matrices.
    """

    tune_state: bool = field(default=True, metadata={"help": "Whether the initial states are trained."})
    tune_tokens: bool = field(default=False, metadata={"help": "Whether the initial token shifts are trained."})

    def __post_init__(self):
        if self.target_modules is None and not self.target_parameters:
            self.target_modules = []
        super().__post_init__()
        self.peft_type = STATE_TUNING


class StateTuningLayer(nn.Module, BaseTunerLayer):
    """Stands in the place of an [`RWKV7InitialState`] and adds the learned starts of the active adapters to it."""

    adapter_layer_names = ("learned",)

    def __init__(self, base_layer: RWKV7InitialState):
        super().__init__()
        self.base_layer = base_layer
        self.learned = nn.ModuleDict()
        self.merged_adapters = []
        self._unmerged_weight: nn.Parameter | None = None

    def add_adapter(self, name: str, active: list[str], device: torch.device, inference_mode: bool) -> None:
        """Makes an adapter that changes nothing yet, on `device`; `active` are those in use afterwards."""
        self.learned[name] = RWKV7InitialState(self.base_layer.shape, learned=True)
        if device.type != "meta":
            self.learned[name].to(device)
        self.set_adapter(active, inference_mode=inference_mode)

    def forward(self) -> torch.Tensor | None:
        """The start, or `None`, which stands for zeros."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer()
        return self.base_layer() if self.merged else self._sum(self.active_adapters)

    def _sum(self, adapter_names: list[str]) -> torch.Tensor | None:
        starts = [self.base_layer(), *(self.learned[name]() for name in adapter_names if name in self.learned)]
        starts = [start for start in starts if start is not None]
        return sum(starts[1:], starts[0]) if starts else None

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Adds the active adapters, or those named, to the start of the base model."""
        adapter_names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.learned]
        if not adapter_names:
            return
        merged = self._sum(adapter_names).detach().clone()
        if safe_merge and not merged.isfinite().all():
            raise ValueError(f"The adapters {adapter_names} hold numbers that are not finite; nothing was merged.")
        if not self.merged_adapters:
            self._unmerged_weight = self.base_layer.weight
        self.base_layer.weight = nn.Parameter(merged, requires_grad=False)
        self.merged_adapters.extend(adapter_names)

    def unmerge(self) -> None:
        """Gives the base model back its own start."""
        self.base_layer.weight, self._unmerged_weight = self._unmerged_weight, None
        self.merged_adapters.clear()


class StateTuningModel(LoraModel):
    """What PEFT makes of a model and a [`StateTuningConfig`]."""

    tuner_layer_cls = (LoraLayer, StateTuningLayer)

    @staticmethod
    def _check_target_module_exists(peft_config: StateTuningConfig, key: str):
        name = key.rpartition(".")[2]
        if name in (STATE_MODULE, TOKEN_MODULE):
            return peft_config.tune_state if name == STATE_MODULE else peft_config.tune_tokens
        return LoraModel._check_target_module_exists(peft_config, key)

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key, **kwargs) -> None:
        if target_name not in (STATE_MODULE, TOKEN_MODULE):
            super()._create_and_replace(config, adapter_name, target, target_name, parent, current_key, **kwargs)
            return
        if not isinstance(target, StateTuningLayer):
            target = StateTuningLayer(target)
            setattr(parent, target_name, target)
        target.add_adapter(adapter_name, self.active_adapters, parent.x_k.device, config.inference_mode)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        if child_name in (STATE_MODULE, TOKEN_MODULE):
            setattr(parent, child_name, new_module)
        else:
            super()._replace_module(parent, child_name, new_module, child)

    def _enable_peft_forward_hooks(self, *args, **kwargs):
        names = set(kwargs.get("adapter_names") or ()) - {"__base__"}
        if any(isinstance(module, StateTuningLayer) for module in self.modules()) and names:
            raise ValueError("adapter_names: rows of one batch cannot have different adapters with learned states.")
        return super()._enable_peft_forward_hooks(*args, **kwargs)

    def _unload_and_optionally_merge(self, *args, **kwargs) -> nn.Module:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        record_learned_starts(model)
        return model


def record_learned_starts(model: nn.Module) -> None:
    """Writes into the configuration of a model which learned starts it has, so that it can be saved and loaded."""
    learned = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if name.endswith((STATE_MODULE, TOKEN_MODULE)) and module.weight is not None
    }
    for module in model.modules():
        if hasattr(module, STATE_MODULE):
            module.config.learned_initial_state = STATE_MODULE in learned
            module.config.learned_initial_tokens = TOKEN_MODULE in learned


def register() -> None:
    """Makes the method known to PEFT; may be called again.

    `peft.utils.register_peft_method` takes only names that PEFT itself lists.
    """
    PEFT_TYPE_TO_CONFIG_MAPPING[STATE_TUNING] = StateTuningConfig
    PEFT_TYPE_TO_TUNER_MAPPING[STATE_TUNING] = StateTuningModel
    PEFT_TYPE_TO_PREFIX_MAPPING[STATE_TUNING] = LoraModel.prefix

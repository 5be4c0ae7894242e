# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapters by name and a few settings, as a recipe gives them, and adapter folders onto a model, all checked.

attach_adapter(model, {"method": "lora", "r": 32, "alpha": 32, "state": True})
"""

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.errors import HFValidationError
from peft import (
    LoraConfig,
    MissConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.utils import load_peft_weights
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn
from transformers import PreTrainedModel

from ..modeling_rwkv7_world.quantized_linear import QuantizedLinear
from .state_tuning import STATE_TUNING, StateTuningConfig
from .targets import LAYERS, check_layers, language_model_norms, language_model_targets


DEFAULT_RANKS = {"miss": 64}
DEFAULT_RANK = 32
_SHARED = ("method", "targets", "norms", "modules_to_save")
_LORA = (*_SHARED, "r", "alpha", "dropout", "state", "tokens")
_KEYS = {
    "state": ("method", "tokens", "modules_to_save"),
    "lora": (*_LORA, "init", "rslora"),
    "qlora": (*_LORA, "init", "rslora"),
    "dora": (*_LORA, "init", "rslora"),
    "pissa": _LORA,
    "miss": (*_SHARED, "r", "dropout", "init", "mini_r"),
}
_SAME_METHOD = {"bone": "miss", "disha": "miss"}
_LORA_INITS = ("gaussian", "orthogonal", "olora", "pissa")
_MISS_INITS = {"balance": True, "bat": "bat", "mini": "mini"}
_FLAGS = ("state", "tokens", "norms", "rslora")
_WHOLE = (lambda value: isinstance(value, int) and value > 0, "a whole number of at least 1")
_NUMBERS = {
    "r": _WHOLE,
    "mini_r": _WHOLE,
    "alpha": (lambda value: 0 < value < math.inf, "a number above 0"),
    "dropout": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
}


def attach_adapter(model: PreTrainedModel, spec: Mapping[str, Any], name: str = "default") -> PeftModel:
    """Puts an adapter on a model, which then alone is trained.

    Args:
        model: A text model or a composite. It is changed in place.
        spec: As [`build_peft_config`] takes it.
        name: Of the adapter.

    Raises:
        ValueError: If the settings are wrong, or do not go with the model.
    """
    return get_peft_model(model, build_peft_config(model, spec), adapter_name=name)


def build_peft_config(model: PreTrainedModel, spec: Mapping[str, Any]) -> PeftConfig:
    """The PEFT configuration of an adapter.

    Args:
        model: The text model or composite that it is for.
        spec: `method` is one of

            * `state`: learned initial states; with `tokens`, of the token shifts too.
            * `lora`, `dora`, `pissa`, `qlora` (LoRA on a quantised model): `r` (default 32), `alpha` (default `r`),
              `dropout`; all but `pissa` also `init` (one of PEFT's `init_lora_weights`) and `rslora`. With `state`,
              and `tokens`, the adapter also learns initial states.
            * `miss`, also called `bone` and `disha`: `r` (default 64), `dropout`, `init` (`balance`, `bat` or `mini`)
              and `mini_r`.

            All take `modules_to_save` (names of modules that are trained whole), all but `state` also `targets` (names
            of `LAYERS`, default all of them, or a pattern of PEFT's) and `norms` (whether all norms of the language
            model are trained too).

    Raises:
        ValueError: If a key is unknown, or a value is out of range for the method or the model.
    """
    method = check_adapter(spec)
    _check_base(model, method, spec)
    if method == "state":
        settings = {"modules_to_save": _modules_to_save(model, spec), "task_type": "CAUSAL_LM"}
        return StateTuningConfig(tune_tokens=spec.get("tokens", False), **settings)
    shared = {
        "r": spec.get("r", DEFAULT_RANKS.get(method, DEFAULT_RANK)),
        "target_modules": _targets(model, spec.get("targets")),
        "modules_to_save": _modules_to_save(model, spec),
        "task_type": "CAUSAL_LM",
    }
    dropout = spec.get("dropout", 0.0)
    if method == "miss":
        return _miss_config(spec, shared | {"miss_dropout": dropout})
    return _lora_config(method, spec, shared | {"lora_dropout": dropout})


def check_adapter(spec: Mapping[str, Any]) -> str:
    """Refuses settings of an adapter that no model could take.

    Args:
        spec: As [`build_peft_config`] takes it.

    Returns:
        The method, by the first of its names.

    Raises:
        ValueError: Names the setting, and says what was expected.
    """
    method = spec.get("method")
    method = _SAME_METHOD.get(str(method), method)
    if str(method) not in _KEYS:
        raise ValueError(f"adapter method {method!r}: expected one of {', '.join([*_KEYS, *_SAME_METHOD])}.")
    unknown = sorted(set(spec) - set(_KEYS[method]))
    if unknown:
        raise ValueError(f"adapter method {method} has no {unknown[0]!r}: it takes {', '.join(_KEYS[method])}.")
    for key, value in spec.items():
        if key in _FLAGS and not isinstance(value, bool):
            raise ValueError(f"adapter {key} is {value!r}, expected true or false.")
        is_valid, expected = _NUMBERS.get(key, (None, None))
        if is_valid and (isinstance(value, bool) or not isinstance(value, (int, float)) or not is_valid(value)):
            raise ValueError(f"adapter {key} is {value!r}, expected {expected}.")
    targets, modules = spec.get("targets"), spec.get("modules_to_save")
    if isinstance(targets, (list, tuple)):
        check_layers(targets)
    elif targets is not None and not isinstance(targets, str):
        raise ValueError(f"adapter targets {targets!r}: expected a pattern, or a list of {', '.join(LAYERS)}.")
    if modules is not None and not isinstance(modules, (list, tuple)):
        raise ValueError(f"adapter modules_to_save {modules!r}: expected a list of names.")
    _check_init(method, spec)
    return method


def load_adapter(model: PreTrainedModel, source: str | os.PathLike[str], name: str = "default") -> PeftModel:
    """Puts a saved adapter on a model, and makes sure that it belongs there.

    A LoRA goes beside a learned state: after `load_adapter(load_adapter(model, state), lora, "lora")`,
    `model.base_model.set_adapter(["default", "lora"])` makes both work.

    Args:
        model: The base model, or one that has adapters already, of which the new one becomes the active one.
        source: A folder, or an id on the Hub.
        name: Of the adapter in this model.

    Raises:
        ValueError: If there is no adapter, or one of another model.
    """
    try:
        saved = load_peft_weights(str(source), device="cpu")
        if isinstance(model, PeftModel):
            _make_room(model, source, name)
            model.load_adapter(str(source), name)
            model.set_adapter(name)
        else:
            model = PeftModel.from_pretrained(model, str(source), adapter_name=name)
    except RuntimeError as error:  # of `load_state_dict`, a line for every tensor of another shape
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        if not lines:
            raise
        raise ValueError(f"{source}: an adapter of another model, {lines[0]}") from error
    except NoMatchingPeftModuleError as error:
        raise ValueError(f"{source}: an adapter of another model, which has none of the layers it changes") from error
    except (HFValidationError, OSError) as error:
        raise ValueError(f"{source}: no adapter of PEFT, it lacks adapter_config.json or its weights") from error
    differing = sorted(saved.keys() ^ get_peft_model_state_dict(model, adapter_name=name).keys())
    if differing:
        where = "which the model has no place for" if differing[0] in saved else "which the adapter lacks"
        raise ValueError(f"{source}: an adapter of another model, for example {differing[0]}, {where}")
    return model.eval()


def _make_room(model: PeftModel, source: str | os.PathLike[str], name: str) -> None:
    """Lets a plain LoRA be added to a model with learned states: PEFT takes only adapters of one kind together."""
    config = PeftConfig.from_pretrained(str(source))
    if model.peft_type == STATE_TUNING and type(config) is LoraConfig:
        settings = {field.name: getattr(config, field.name) for field in fields(LoraConfig) if field.init}
        model.add_adapter(name, StateTuningConfig(**settings, tune_state=False))


def _lora_config(method: str, spec: Mapping[str, Any], shared: dict[str, Any]) -> LoraConfig:
    settings = shared | {
        "lora_alpha": spec.get("alpha", shared["r"]),
        "init_lora_weights": "pissa" if method == "pissa" else spec.get("init", True),
        "use_rslora": spec.get("rslora", False),
        "use_dora": method == "dora",
    }
    state, tokens = spec.get("state", False), spec.get("tokens", False)
    if state or tokens:
        return StateTuningConfig(**settings, tune_state=state, tune_tokens=tokens)
    return LoraConfig(**settings)


def _miss_config(spec: Mapping[str, Any], shared: dict[str, Any]) -> MissConfig:
    return MissConfig(**shared, init_weights=_MISS_INITS[spec.get("init", "balance")], mini_r=spec.get("mini_r", 1))


def _check_init(method: str, spec: Mapping[str, Any]) -> None:
    init = spec.get("init", "balance" if method == "miss" else True)
    if method == "miss":
        if init not in list(_MISS_INITS):
            raise ValueError(f"adapter init {init!r}: expected one of {', '.join(_MISS_INITS)} for miss.")
        if "mini_r" in spec and init != "mini":
            raise ValueError(f"adapter mini_r goes with init: mini, not with init: {init}.")
        return
    if isinstance(init, str) and init.startswith("pissa_niter_"):
        raise ValueError(
            f"adapter init {init!r}: PEFT decomposes the weights again whenever the adapter is loaded, and a random "
            "decomposition comes out differently. Use pissa, which is exact."
        )
    if not (isinstance(init, bool) or init in _LORA_INITS):
        raise ValueError(f"adapter init {init!r}: expected true, false or {', '.join(_LORA_INITS)}.")


def _targets(model: PreTrainedModel, targets: Any) -> str:
    if isinstance(targets, str):
        return targets
    return language_model_targets(model, LAYERS if targets is None else tuple(targets))


def _modules_to_save(model: PreTrainedModel, spec: Mapping[str, Any]) -> list[str] | None:
    names = spec.get("modules_to_save") or []
    existing = [name for name, _ in model.named_modules()]
    for name in names:
        if not any(module.endswith(name) for module in existing):
            raise ValueError(f"adapter modules_to_save: no module of the model is called {name}.")
    return [*names, *(language_model_norms(model) if spec.get("norms") else [])] or None


def _check_base(model: PreTrainedModel, method: str, spec: Mapping[str, Any]) -> None:
    quantized = getattr(model, "hf_quantizer", None) is not None or _has_few_bits(model)
    if method == "qlora" and not quantized:
        raise ValueError("adapter method qlora is for a quantised model: load one with a quantization_config.")
    reads_weights = method in ("dora", "pissa") or spec.get("init") in ("olora", "pissa", "bat")
    if reads_weights and _has_few_bits(model):
        raise ValueError(
            f"adapter method {method} reads the weights, which RWKVQuantizationConfig left 8 or 4 bits: "
            "use qlora or miss, or load the model unquantised."
        )


def _has_few_bits(model: nn.Module) -> bool:
    return any(isinstance(module, QuantizedLinear) for module in model.modules())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Registers our classes with the Auto classes, the quantizers and PEFT without importing any of them, or torch.

The registries of transformers hold classes, not names, and importing the Auto classes takes seconds. So registration
waits until a module that holds a registry has been imported, and then puts in names, whose classes are imported when
someone asks for them. Nothing of ours is imported in the middle of an import of transformers: neither finds the other
half imported, in any order and in any thread.
"""

import sys
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .configuration.auto_classes import AUTO_CLASSES, QUANTIZATION_METHOD, register_names


PACKAGE = __name__.rpartition(".")[0]
# Model type -> Auto class -> our class, where no `config.json` names it
_PREPROCESSORS = {
    "rwkv7": {"AutoTokenizer": "RWKVWorldTokenizer"},
    "rwkv_world": {
        "AutoTokenizer": "RWKVWorldTokenizer",
        "AutoImageProcessor": "TilesImageProcessorPil",  # any encoder may see tiles
    },
    "rwkv_vision_towers": {"AutoImageProcessor": "VisionTowersImageProcessorPil"},
}
_AUTO_CLASSES = {model_type: names | _PREPROCESSORS[model_type] for model_type, names in AUTO_CLASSES.items()}


def register_when_imported() -> None:
    """Registers our classes with every module in `_REGISTER`: now if it has been imported, else once it is."""
    for finder in sys.meta_path:
        if isinstance(finder, _AfterImport):
            break
    else:
        sys.meta_path.insert(0, _AfterImport())
    for name, register in _REGISTER.items():
        if name in sys.modules:
            register(import_module(name))  # waits for a thread that is importing it


class LazyClasses(dict):
    """The contents of a registry of transformers, with classes of ours that are imported when they are asked for.

    Args:
        registered: What the registry holds. Ours replace what has the same keys, as `exist_ok=True` does.
        name_of: From a key to the public name of our class, or `None` if the key is not ours.
        our_keys: Lists our keys.
        load: From the name to the value.
    """

    def __init__(
        self,
        registered: dict,
        name_of: Callable[[Any], str | None],
        our_keys: Callable[[], Iterable],
        load: Callable[[str], Any],
    ):
        super().__init__({key: value for key, value in registered.items() if name_of(key) is None})
        self._name_of, self._our_keys, self._load = name_of, our_keys, load

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(key) or self._name_of(key) is not None

    def __missing__(self, key: Any) -> Any:
        name = self._name_of(key)
        if name is None:
            raise KeyError(key)
        return self.setdefault(key, self._load(name))

    def get(self, key: Any, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (this is `get`)

    def __iter__(self) -> Iterator:
        self._load_all()
        return super().__iter__()

    def __len__(self) -> int:
        self._load_all()
        return super().__len__()

    def keys(self) -> KeysView:
        self._load_all()
        return super().keys()

    def values(self) -> ValuesView:
        self._load_all()
        return super().values()

    def items(self) -> ItemsView:
        self._load_all()
        return super().items()

    def _load_all(self) -> None:
        for key in self._our_keys():
            self[key]


class _AfterImport:
    """Finder that lets others find a module, and registers our classes with it as the last step of its import.

    The module's lock is held until then, so no thread sees the module without our classes.
    """

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        register = _REGISTER.get(name)
        if register is None:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_execute_and_register, spec.loader.exec_module, register)
        return spec


def _execute_and_register(
    execute: Callable[[ModuleType], None], register: Callable[[ModuleType], None], module: ModuleType
) -> None:
    execute(module)
    register(module)


def _register_configs(module: ModuleType) -> None:
    names = {model_type: classes["AutoConfig"] for model_type, classes in AUTO_CLASSES.items()}
    _make_lazy(module.CONFIG_MAPPING, names.get, names.keys, _config_class)


def _register_models(module: ModuleType) -> None:
    auto_classes = {auto_class for names in AUTO_CLASSES.values() for auto_class in names if "AutoModel" in auto_class}
    for auto_class in auto_classes:
        mapping = getattr(module, auto_class)._model_mapping
        _make_lazy_by_config(mapping, auto_class, _public)
    register_names(module)


def _register_tokenizers(module: ModuleType) -> None:
    _make_lazy_by_config(module.TOKENIZER_MAPPING, "AutoTokenizer", _public)


def _register_image_processors(module: ModuleType) -> None:
    _make_lazy_by_config(module.IMAGE_PROCESSOR_MAPPING, "AutoImageProcessor", lambda name: {"pil": _public(name)})


def _register_processors(module: ModuleType) -> None:
    _make_lazy_by_config(module.PROCESSOR_MAPPING, "AutoProcessor", _public)


def _register_quantizers(module: ModuleType) -> None:
    for registry, name in (
        ("AUTO_QUANTIZATION_CONFIG_MAPPING", "RWKVQuantizationConfig"),
        ("AUTO_QUANTIZER_MAPPING", "RWKVQuantizer"),
    ):
        names = {QUANTIZATION_METHOD: name}
        setattr(module, registry, LazyClasses(getattr(module, registry), names.get, names.keys, _public))


def _register_adapters(module: ModuleType) -> None:
    from .adapters.state_tuning import register as register_state_tuning
    from .adapters.targets import register as register_targets

    register_state_tuning()
    register_targets()


def _make_lazy(mapping: Any, name_of: Callable, our_keys: Callable, load: Callable) -> None:
    mapping._extra_content = LazyClasses(mapping._extra_content, name_of, our_keys, load)


def _make_lazy_by_config(mapping: Any, auto_class: str, load: Callable[[str], Any]) -> None:
    """For a registry whose keys are classes of configurations."""

    def name_of(key: Any) -> str | None:
        is_ours = getattr(key, "__module__", "").partition(".")[0] == PACKAGE
        return _AUTO_CLASSES.get(getattr(key, "model_type", None), {}).get(auto_class) if is_ours else None

    def our_keys() -> Iterable:
        return [_public(names["AutoConfig"]) for names in _AUTO_CLASSES.values() if auto_class in names]

    _make_lazy(mapping, name_of, our_keys, load)


def _config_class(name: str) -> type:
    from .configuration.native_class import RWKV7Config, RWKV7OrNativeConfig, native_config_class

    config_class = _public(name)
    return RWKV7OrNativeConfig if config_class is RWKV7Config and native_config_class() else config_class


def _public(name: str) -> type:
    return getattr(import_module(PACKAGE), name)


_AUTO = "transformers.models.auto"
_REGISTER = {
    f"{_AUTO}.configuration_auto": _register_configs,
    f"{_AUTO}.image_processing_auto": _register_image_processors,
    f"{_AUTO}.modeling_auto": _register_models,
    f"{_AUTO}.processing_auto": _register_processors,
    f"{_AUTO}.tokenization_auto": _register_tokenizers,
    "transformers.quantizers.auto": _register_quantizers,
    "peft": _register_adapters,
}

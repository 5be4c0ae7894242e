# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 "World" models for Hugging Face Transformers. Importing the package registers them with the Auto classes.

A class is imported when it is first asked for, here or by an Auto class: the package itself imports neither torch nor
transformers.
"""

from .cli import startup as _startup  # noqa: F401 (before the libraries, which take seconds to import)


# isort: split
from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from .moved_modules import keep_old_names as _keep_old_names
from .registration import register_when_imported as _register_when_imported


if TYPE_CHECKING:
    from .configuration.configuration_rwkv7 import RWKV7Config
    from .configuration.configuration_rwkv_world import RWKVWorldConfig
    from .configuration.configuration_vision_towers import VisionTowerConfig, VisionTowersConfig
    from .modeling_rwkv7_world.cache_rwkv7 import RWKV7Cache, register_cache_export_support
    from .modeling_rwkv7_world.logits_process_rwkv7 import RWKVPenaltyLogitsProcessor, TopALogitsProcessor
    from .modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM, RWKV7ForSequenceClassification, RWKV7Model
    from .modeling_rwkv7_world.modeling_rwkv_world import RWKVWorldForConditionalGeneration, RWKVWorldModel
    from .modeling_rwkv7_world.modeling_vision_towers import VisionTowersModel
    from .modeling_rwkv7_world.quantization import RWKVQuantizationConfig, RWKVQuantizer
    from .processing.image_processing_pil_tiles import TilesImageProcessorPil
    from .processing.image_processing_pil_vision_towers import VisionTowersImageProcessorPil
    from .processing.processing_rwkv_world import RWKVWorldProcessor
    from .processing.speech_recognition_pipeline import RWKVWorldSpeechRecognitionPipeline
    from .processing.tokenization_rwkv_world import RWKVWorldTokenizer


__version__ = "0.2.0"

# Public name -> the module that it comes from
_MODULES = {
    "RWKV7Config": ".configuration.configuration_rwkv7",
    "RWKVWorldConfig": ".configuration.configuration_rwkv_world",
    "VisionTowerConfig": ".configuration.configuration_vision_towers",
    "VisionTowersConfig": ".configuration.configuration_vision_towers",
    "RWKV7Cache": ".modeling_rwkv7_world.cache_rwkv7",
    "register_cache_export_support": ".modeling_rwkv7_world.cache_rwkv7",
    "RWKVPenaltyLogitsProcessor": ".modeling_rwkv7_world.logits_process_rwkv7",
    "TopALogitsProcessor": ".modeling_rwkv7_world.logits_process_rwkv7",
    "RWKV7ForCausalLM": ".modeling_rwkv7_world.modeling_rwkv7",
    "RWKV7ForSequenceClassification": ".modeling_rwkv7_world.modeling_rwkv7",
    "RWKV7Model": ".modeling_rwkv7_world.modeling_rwkv7",
    "RWKVWorldForConditionalGeneration": ".modeling_rwkv7_world.modeling_rwkv_world",
    "RWKVWorldModel": ".modeling_rwkv7_world.modeling_rwkv_world",
    "VisionTowersModel": ".modeling_rwkv7_world.modeling_vision_towers",
    "RWKVQuantizationConfig": ".modeling_rwkv7_world.quantization",
    "RWKVQuantizer": ".modeling_rwkv7_world.quantization",
    "TilesImageProcessorPil": ".processing.image_processing_pil_tiles",
    "VisionTowersImageProcessorPil": ".processing.image_processing_pil_vision_towers",
    "RWKVWorldProcessor": ".processing.processing_rwkv_world",
    "RWKVWorldSpeechRecognitionPipeline": ".processing.speech_recognition_pipeline",
    "RWKVWorldTokenizer": ".processing.tokenization_rwkv_world",
}

__all__ = [
    "RWKV7Cache",
    "RWKV7Config",
    "RWKV7ForCausalLM",
    "RWKV7ForSequenceClassification",
    "RWKV7Model",
    "RWKVPenaltyLogitsProcessor",
    "RWKVQuantizationConfig",
    "RWKVQuantizer",
    "RWKVWorldConfig",
    "RWKVWorldForConditionalGeneration",
    "RWKVWorldModel",
    "RWKVWorldProcessor",
    "RWKVWorldSpeechRecognitionPipeline",
    "RWKVWorldTokenizer",
    "TilesImageProcessorPil",
    "TopALogitsProcessor",
    "VisionTowerConfig",
    "VisionTowersConfig",
    "VisionTowersImageProcessorPil",
    "VisionTowersModel",
    "register_cache_export_support",
]


def __getattr__(name: str) -> _Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(_import_module(_MODULES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_keep_old_names()
_register_when_imported()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 "World" models for Hugging Face Transformers. Importing the package registers them with the Auto classes."""

from .cli import startup as _startup  # noqa: F401 (before the libraries, which take seconds to import)


# isort: split
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer

from .configuration.configuration_vision_towers import VisionTowerConfig
from .configuration.native_class import RWKV7OrNativeConfig, native_config_class
from .hub_classes import (
    RWKV7Config,
    RWKV7ForCausalLM,
    RWKV7ForSequenceClassification,
    RWKV7Model,
    RWKVPenaltyLogitsProcessor,
    RWKVQuantizationConfig,
    RWKVQuantizer,
    RWKVWorldConfig,
    RWKVWorldForConditionalGeneration,
    RWKVWorldModel,
    RWKVWorldProcessor,
    RWKVWorldSpeechRecognitionPipeline,
    TilesImageProcessorPil,
    TopALogitsProcessor,
    VisionTowersConfig,
    VisionTowersImageProcessorPil,
    VisionTowersModel,
)
from .modeling_rwkv7_world.cache_rwkv7 import RWKV7Cache, register_cache_export_support
from .moved_modules import keep_old_names
from .processing.tokenization_rwkv_world import RWKVWorldTokenizer


__version__ = "0.2.0"

keep_old_names()
_rwkv7_config = RWKV7OrNativeConfig if native_config_class() else RWKV7Config
AutoConfig.register(RWKV7Config.model_type, _rwkv7_config, exist_ok=True)
AutoConfig.register(RWKVWorldConfig.model_type, RWKVWorldConfig, exist_ok=True)
AutoConfig.register(VisionTowersConfig.model_type, VisionTowersConfig, exist_ok=True)
for _config in (RWKV7Config, RWKVWorldConfig):
    AutoTokenizer.register(_config, fast_tokenizer_class=RWKVWorldTokenizer, exist_ok=True)
AutoImageProcessor.register(
    VisionTowersConfig, image_processor_classes={"pil": VisionTowersImageProcessorPil}, exist_ok=True
)
# Any encoder may see tiles
AutoImageProcessor.register(RWKVWorldConfig, image_processor_classes={"pil": TilesImageProcessorPil}, exist_ok=True)
AutoProcessor.register(RWKVWorldConfig, RWKVWorldProcessor, exist_ok=True)

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

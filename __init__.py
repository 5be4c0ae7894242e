# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""RWKV-7 "World" models for Hugging Face Transformers. Importing the package registers them with the Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils import is_peft_available

from .configuration.configuration_rwkv7 import RWKV7Config
from .configuration.configuration_rwkv_world import RWKVWorldConfig
from .configuration.configuration_vision_towers import VisionTowerConfig, VisionTowersConfig
from .modeling_rwkv7_world.cache_rwkv7 import RWKV7Cache
from .modeling_rwkv7_world.logits_process_rwkv7 import RWKVPenaltyLogitsProcessor, TopALogitsProcessor
from .modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM, RWKV7ForSequenceClassification, RWKV7Model
from .modeling_rwkv7_world.modeling_rwkv_world import RWKVWorldForConditionalGeneration, RWKVWorldModel
from .modeling_rwkv7_world.modeling_vision_towers import VisionTowersModel
from .modeling_rwkv7_world.quantization import RWKVQuantizationConfig, RWKVQuantizer
from .processing.image_processing_pil_vision_towers import VisionTowersImageProcessorPil
from .processing.processing_rwkv_world import RWKVWorldProcessor
from .processing.tokenization_rwkv_world import RWKVWorldTokenizer


__version__ = "0.1.0"

AutoConfig.register(RWKV7Config.model_type, RWKV7Config, exist_ok=True)
AutoConfig.register(RWKVWorldConfig.model_type, RWKVWorldConfig, exist_ok=True)
AutoConfig.register(VisionTowersConfig.model_type, VisionTowersConfig, exist_ok=True)
AutoModel.register(RWKV7Config, RWKV7Model, exist_ok=True)
AutoModel.register(RWKVWorldConfig, RWKVWorldModel, exist_ok=True)
AutoModel.register(VisionTowersConfig, VisionTowersModel, exist_ok=True)
AutoModelForCausalLM.register(RWKV7Config, RWKV7ForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(RWKV7Config, RWKV7ForSequenceClassification, exist_ok=True)
AutoModelForImageTextToText.register(RWKVWorldConfig, RWKVWorldForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(RWKVWorldConfig, RWKVWorldForConditionalGeneration, exist_ok=True)
for _config in (RWKV7Config, RWKVWorldConfig):
    AutoTokenizer.register(_config, fast_tokenizer_class=RWKVWorldTokenizer, exist_ok=True)
AutoImageProcessor.register(
    VisionTowersConfig, image_processor_classes={"pil": VisionTowersImageProcessorPil}, exist_ok=True
)
AutoProcessor.register(RWKVWorldConfig, RWKVWorldProcessor, exist_ok=True)
if is_peft_available():
    from . import adapters  # noqa: F401 (registers state tuning with PEFT)

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
    "RWKVWorldTokenizer",
    "TopALogitsProcessor",
    "VisionTowerConfig",
    "VisionTowersConfig",
    "VisionTowersImageProcessorPil",
    "VisionTowersModel",
]

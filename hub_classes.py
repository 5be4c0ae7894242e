# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The classes that a saved folder names for the Auto classes, in one module.

All in one, because transformers loads every module that a folder names as a package of its own, in which the classes
of another would be strangers. `configuration/source_code.py` writes it out with what it imports.
"""

import transformers
from transformers.models.auto import modeling_auto
from transformers.utils import is_peft_available

from .configuration.auto_classes import register_names
from .configuration.configuration_rwkv7 import RWKV7Config
from .configuration.configuration_rwkv_world import RWKVWorldConfig
from .configuration.configuration_vision_towers import VisionTowersConfig
from .modeling_rwkv7_world.logits_process_rwkv7 import RWKVPenaltyLogitsProcessor, TopALogitsProcessor
from .modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM, RWKV7ForSequenceClassification, RWKV7Model
from .modeling_rwkv7_world.modeling_rwkv_world import RWKVWorldForConditionalGeneration, RWKVWorldModel
from .modeling_rwkv7_world.modeling_vision_towers import VisionTowersModel
from .modeling_rwkv7_world.quantization import RWKVQuantizationConfig, RWKVQuantizer
from .processing.image_processing_pil_tiles import TilesImageProcessorPil
from .processing.image_processing_pil_vision_towers import VisionTowersImageProcessorPil
from .processing.processing_rwkv_world import RWKVWorldProcessor
from .processing.speech_recognition_pipeline import RWKVWorldSpeechRecognitionPipeline


# By the class of the configuration, which every copy of the code has its own of
for _config in (RWKV7Config, RWKVWorldConfig, VisionTowersConfig):
    for _auto_class, _name in _config.auto_classes.items():
        if _auto_class.startswith("AutoModel"):
            getattr(transformers, _auto_class).register(_config, globals()[_name], exist_ok=True)
register_names(modeling_auto)
if is_peft_available():
    from .adapters.state_tuning import register as register_state_tuning
    from .adapters.targets import register as register_targets

    register_state_tuning()
    register_targets()

__all__ = [
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
    "TilesImageProcessorPil",
    "TopALogitsProcessor",
    "VisionTowersConfig",
    "VisionTowersImageProcessorPil",
    "VisionTowersModel",
]

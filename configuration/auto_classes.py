# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The names by which transformers finds our classes: those that `config.json` has in its `auto_map`, and others.

Names only, so that the package can be imported, and its classes registered, without torch.
"""

from types import ModuleType


# Model type -> Auto class -> our class
AUTO_CLASSES = {
    "rwkv7": {
        "AutoConfig": "RWKV7Config",
        "AutoModel": "RWKV7Model",
        "AutoModelForCausalLM": "RWKV7ForCausalLM",
        "AutoModelForMultimodalLM": "RWKV7ForCausalLM",  # by which alone `transformers serve` loads code of a folder
        "AutoModelForSequenceClassification": "RWKV7ForSequenceClassification",
    },
    "rwkv_world": {
        "AutoConfig": "RWKVWorldConfig",
        "AutoModel": "RWKVWorldModel",
        "AutoModelForCausalLM": "RWKVWorldForConditionalGeneration",  # for tools that know only text
        "AutoModelForImageTextToText": "RWKVWorldForConditionalGeneration",
        "AutoModelForMultimodalLM": "RWKVWorldForConditionalGeneration",
        "AutoProcessor": "RWKVWorldProcessor",
    },
    "rwkv_vision_towers": {"AutoConfig": "VisionTowersConfig", "AutoModel": "VisionTowersModel"},
}
# The `quant_method` of a configuration
QUANTIZATION_METHOD = "rwkv7_world"

# Names of models, beside their classes: by these `transformers serve` and the pipelines find them
_NAME_REGISTRIES = {
    "AutoModelForCausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "AutoModelForImageTextToText": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "AutoModelForMultimodalLM": "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
}


def register_names(modeling_auto: ModuleType) -> None:
    """Puts the names of our models into `transformers.models.auto.modeling_auto`; may be called again.

    Where transformers has a model of its own under the same model type, the names are those of that one.
    """
    for model_type, names in AUTO_CLASSES.items():
        for auto_class, registry in _NAME_REGISTRIES.items():
            if auto_class in names:
                getattr(modeling_auto, registry).setdefault(model_type, names[auto_class])

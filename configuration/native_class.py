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
"""Beside a class of transformers' own with the model type `rwkv7`: whose folder a `config.json` is.

The class proposed for transformers reads the official layout. Where it exists, `AutoConfig`, and with it every Auto
class, gives a folder of that layout to it, whether this package is imported or not, and every other folder to us. Who
asks for our classes by name gets them for any layout; saved folders of ours load by `trust_remote_code=True`.
"""

import importlib

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from .configuration_rwkv7 import RWKV7Config
from .other_layouts import OFFICIAL, layout_of


class RWKV7OrNativeConfig(RWKV7Config):
    """What `AutoConfig` knows as `rwkv7` where transformers has a class of its own: makes one of either."""

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        owner = native_config_class() if layout_of(config_dict) == OFFICIAL else RWKV7Config
        return owner.from_dict(config_dict, **kwargs)


def native_config_class() -> type | None:
    """The class of transformers' own, if it has one."""
    name = CONFIG_MAPPING_NAMES.get(RWKV7Config.model_type)
    return name and getattr(importlib.import_module(f"transformers.models.{RWKV7Config.model_type}"), name)

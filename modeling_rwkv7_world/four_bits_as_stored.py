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
"""bitsandbytes' 4 bits on a CPU with AVX512_BF16, of which it loses the scales when a model is saved."""

from typing import Any


class FourBitsAsStored:
    """To stand before `PreTrainedModel` among the bases of a class: 4-bit weights can be saved again after inference.

    On such a CPU, bitsandbytes (0.50.2) rearranges weights and scales for inference and, as soon as the model or an
    adapter on it is saved, arranges the weights back but not the scales, unless these are quantised too
    (`bnb_4bit_use_double_quant`): the model then answers something else, in memory and on disk. So its weights stay as
    they are stored, at the price of a slower product.
    """

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> Any:
        """See `PreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for module in model.modules():
            if getattr(module, "support_avx512bf16_for_cpu", False) and not module.weight.quant_state.nested:
                module.support_avx512bf16_for_cpu = False
        return loaded

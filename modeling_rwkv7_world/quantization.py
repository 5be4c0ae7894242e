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
"""Quantised weights the way of transformers: `from_pretrained` makes and reads them, `save_pretrained` writes them.

The large matrices of the language model are quantised: projections, channel mix and output head. Embeddings, low-rank
maps and norms keep their dtype, being small or sensitive, and so do the encoders and projectors of a composite.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..configuration.auto_classes import QUANTIZATION_METHOD
from ..kernels.cpu.quantized_linear import check_quantization, quantize
from .quantized_linear import QuantizedLinear


DEFAULT_GROUP_SIZES = {8: None, 4: 32}


class RWKVQuantizationConfig(QuantizationConfigMixin):
    """Weights of 8 or 4 bits in the large linear layers of the language model, whose inputs are not quantised.

    Args:
        bits: 8 or 4.
        group_size: So many weights of a row share a scale, a multiple of 32. Without it a row has one scale with 8
            bits, and every 32 weights with 4 bits.
        modules_to_not_convert: Names of layers to leave alone, or their ends, such as `"lm_head"`.

    Raises:
        ValueError: If weights cannot be quantised like that.
    """

    def __init__(
        self,
        bits: int = 8,
        group_size: int | None = None,
        modules_to_not_convert: list[str] | None = None,
        quant_method: str = QUANTIZATION_METHOD,
    ):
        group_size = DEFAULT_GROUP_SIZES.get(bits) if group_size is None else group_size
        check_quantization(bits, group_size)
        if quant_method != QUANTIZATION_METHOD:
            raise ValueError(f"quant_method is {quant_method!r}, and this is the one called {QUANTIZATION_METHOD!r}")
        self.quant_method = quant_method
        self.bits = bits
        self.group_size = group_size
        self.modules_to_not_convert = modules_to_not_convert

    def describe(self) -> str:
        """In words, for people."""
        scales = "a scale a row" if self.group_size is None else f"a scale for every {self.group_size} weights"
        return f"{self.bits} bits, {scales}"


class Quantize(ConversionOps):
    """Turns a weight that is being loaded into the two tensors of a [`QuantizedLinear`]."""

    def __init__(self, hf_quantizer: "RWKVQuantizer"):
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict: dict, full_layer_name: str, model: nn.Module, **kwargs) -> dict[str, torch.Tensor]:
        (weight,) = input_dict.values()
        weight = weight[0] if isinstance(weight, list) else weight
        layer, _ = get_module_from_name(model, full_layer_name)
        expected = (layer.out_features, layer.in_features)
        if tuple(weight.shape) != expected:
            raise ValueError(f"{full_layer_name} has the shape {tuple(weight.shape)}; the model wants {expected}")
        config = self.hf_quantizer.quantization_config
        quantized = quantize(weight, config.bits, config.group_size)
        return {full_layer_name: quantized.data, full_layer_name.removesuffix("weight") + "scales": quantized.scales}


class RWKVQuantizer(HfQuantizer):
    """What transformers calls while it loads a model that is or shall be quantised by [`RWKVQuantizationConfig`]."""

    quantization_config: RWKVQuantizationConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs) -> PreTrainedModel:
        config, names = self.quantization_config, large_layers(model)
        quantized_class = _quantized_class(model)
        for name in names:
            if not should_convert_module(name, config.modules_to_not_convert):
                continue
            layer = model.get_submodule(name)
            with layer.weight.device:
                quantized = quantized_class(layer.in_features, layer.out_features, config.bits, config.group_size)
            model.set_submodule(name, quantized)
        return model

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs) -> bool:
        module, tensor_name = get_module_from_name(model, param_name)
        return not self.pre_quantized and isinstance(module, _quantized_class(model)) and tensor_name == "weight"

    def get_quantize_ops(self) -> Quantize:
        return Quantize(self)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True


def large_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that are quantised. A head that is tied to the embeddings stays as they are.

    Raises:
        ValueError: If the model is of another family.
    """
    blocks = {name: m for name, m in model.named_modules() if hasattr(m, "quantized_class")}
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no layers of RWKV-7, which alone can be quantised like this")
    head = None if "lm_head.weight" in model.all_tied_weights_keys else model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head]
    return heads + [
        f"{name}.{child}"
        for name, block in blocks.items()
        for child, layer in block.named_children()
        if type(layer) is nn.Linear
    ]


def _quantized_class(model: PreTrainedModel) -> type[QuantizedLinear]:
    """Of the model's own copy of the code, which need not be this one."""
    return next(module.quantized_class for module in model.modules() if hasattr(module, "quantized_class"))


# The quantisers of several copies of the code, as saved models carry them, serve the models of all
AUTO_QUANTIZATION_CONFIG_MAPPING[QUANTIZATION_METHOD] = RWKVQuantizationConfig
AUTO_QUANTIZER_MAPPING[QUANTIZATION_METHOD] = RWKVQuantizer

__all__ = ["RWKVQuantizationConfig", "RWKVQuantizer"]

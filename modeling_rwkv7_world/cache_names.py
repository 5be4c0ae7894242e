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
"""The two names of a model's state: `past_key_values` in transformers up to 5.23, `cache` from 5.24 on.

Models take it, and outputs hold it, under both names. Towards transformers the one that it knows is used.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)


# Read off the installed transformers, since saved code has to work with releases that are newer than itself
_OUTPUT_FIELDS = {field.name for field in dataclasses.fields(BaseModelOutputWithPast)}
CACHE_NAME, OTHER_CACHE_NAME = (
    ("cache", "past_key_values") if "cache" in _OUTPUT_FIELDS else ("past_key_values", "cache")
)


def rename_cache_argument(arguments: dict[str, Any], name: str = CACHE_NAME) -> None:
    """Puts the state among keyword arguments under `name`, whichever of its names it came under.

    Raises:
        ValueError: If different states came under the two names.
    """
    other = OTHER_CACHE_NAME if name == CACHE_NAME else CACHE_NAME
    given = arguments.pop(other, None)
    if given is None:
        return
    if arguments.get(name) not in (None, given):
        raise ValueError("Different states were given as cache and as past_key_values, which are the same argument.")
    arguments[name] = given


def takes_both_cache_names(function: Callable) -> Callable:
    """Lets a function be called with `cache` and with `past_key_values`, and shows transformers the name it knows.

    Args:
        function: It has one of the two as a parameter, or passes its keyword arguments on to transformers.
    """
    signature = inspect.signature(function)
    own_name = next((name for name in ("cache", "past_key_values") if name in signature.parameters), CACHE_NAME)

    @functools.wraps(function)
    def renamed(*args, **kwargs):
        rename_cache_argument(kwargs, own_name)
        return function(*args, **kwargs)

    # `generate` and PEFT look for the state among the parameters of a forward pass
    parameters = signature.parameters.values()
    renamed.__signature__ = signature.replace(
        parameters=[param.replace(name=CACHE_NAME) if param.name == own_name else param for param in parameters]
    )
    return renamed


class BothCacheNames:
    """To stand before a `ModelOutput` among the bases of a class: its state is read under both names."""

    def __getitem__(self, key):
        return super().__getitem__(CACHE_NAME if key == OTHER_CACHE_NAME else key)

    def __contains__(self, key) -> bool:
        return super().__contains__(CACHE_NAME if key == OTHER_CACHE_NAME else key)

    def get(self, key, default=None):
        """The value of a field, or `default` if there is none."""
        return super().get(CACHE_NAME if key == OTHER_CACHE_NAME else key, default)

    def __setattr__(self, name, value) -> None:
        super().__setattr__(CACHE_NAME if name == OTHER_CACHE_NAME else name, value)


setattr(BothCacheNames, OTHER_CACHE_NAME, property(lambda output: getattr(output, CACHE_NAME)))


class RWKV7ModelOutputWithPast(BothCacheNames, BaseModelOutputWithPast):
    """transformers' output of a model without a head, with its state under both names."""


class RWKV7CausalLMOutputWithPast(BothCacheNames, CausalLMOutputWithPast):
    """transformers' output of a causal language model, with its state under both names."""


class RWKV7SequenceClassifierOutputWithPast(BothCacheNames, SequenceClassifierOutputWithPast):
    """transformers' output of a classifier, with its state under both names."""


class RWKV7GenerateOutput(BothCacheNames, GenerateDecoderOnlyOutput):
    """What `generate` returns, with the state under both names."""


class RWKV7GenerateBeamOutput(BothCacheNames, GenerateBeamDecoderOnlyOutput):
    """What `generate` returns of a beam search, with the state under both names."""


_WITH_BOTH_NAMES = {
    SequenceClassifierOutputWithPast: RWKV7SequenceClassifierOutputWithPast,
    GenerateDecoderOnlyOutput: RWKV7GenerateOutput,
    GenerateBeamDecoderOnlyOutput: RWKV7GenerateBeamOutput,
}


def returns_both_cache_names(function: Callable) -> Callable:
    """Makes the state readable under both names in what a method of transformers' own returns."""

    @functools.wraps(function)
    def with_both_names(*args, **kwargs):
        output = function(*args, **kwargs)
        if type(output) in _WITH_BOTH_NAMES:
            output.__class__ = _WITH_BOTH_NAMES[type(output)]
        return output

    return with_both_names

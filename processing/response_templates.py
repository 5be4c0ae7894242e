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
"""What transformers' `parse_response`, pipelines and server read an answer by: thoughts, words, calls of tools."""

import re
from typing import Any

from .world_vocabulary import END_OF_TEXT


# The name stands first, as in the calls that the models were trained on; other JSON is part of what is said
_CALL = r"""\s*```json\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"arguments"\s*:\s*(?=[{"])"""


def response_template(opening: str, ending: str) -> dict[str, Any]:
    r"""
    The `response_template` of a tokenizer whose model answers after `opening` and is done with `ending`.

    `content` is what is said, without the ending, a beginning of it where the answer was cut, and space around it;
    `reasoning_content` what is thought, also where the prompt wrote `<think`; `tool_calls` the calls. Arguments that
    are no JSON are given as the text they are.

    Args:
        opening: What opens the turn of the answer in a prompt.
        ending: What the model writes when its turn is over.
    """
    shortest = len(ending) - len(ending.lstrip("\n")) + 1  # a blank line alone may be part of an answer that was cut
    begun = "|".join(re.escape(ending[:length]) for length in range(shortest, len(ending)))
    cut = rf"|(?:{begun})\Z" if begun else ""
    done = rf"\s*(?:(?:{re.escape(ending)}|{re.escape(END_OF_TEXT.content)}).*{cut})"
    return {
        "version": 1,
        "defaults": {"role": "assistant"},
        "start_anchor": opening,
        "fields": {
            "reasoning_content": {
                "open_pattern": r"\s*<think>",
                "close_pattern": rf"</think>|{done}",  # an answer may be over before the thoughts are
                "content": "text",
            },
            "tool_calls": {
                "open_pattern": _CALL,
                "close_pattern": r"\s*\}\s*```",
                "repeats": True,
                "content": "json",
                "content_args": {"allow_non_json": True},
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            "content": {"close_pattern": done, "content": "text"},
        },
    }

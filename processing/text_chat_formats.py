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
"""How the generations of text models talk: chat templates in Jinja, what ends an answer, how to sample.

| name | models | source |
|---|---|---|
| world | World, up to v3 | ChatRWKV |
| g1 | G1 to g1g | RWKV-LM, `RWKV-v7/RWKV7-G1x-templates.txt` of 2026-07-18 |
| g1h | g1h, each end of a turn a flower | rwkv-rs/transformers-rwkv of 2026-08-11, its template "bot" |
| g1i | g1i, g1j, official `RWKV/RWKV7-*` | their template (aabbdev/rwkv-publisher of 2026-08-21) |
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .chat_templates import TOOL_MACROS
from .response_templates import response_template
from .world_vocabulary import END_OF_TEXT


# What a text model writes when its turn is over: the beginning of the user's, or one token of World
NEXT_TURN = "\n\nUser:"
FLOWER, FLOWER_ID = "\u273f", 10060

# A template is these settings, then one body:
#   system, user, assistant  what opens a turn
#   space                    begins an answer
#   end, joint               what ends a turn, and what parts it from the next
#   mark                     what users may not write, for it would end their turn
#   thinks                   whether the models were trained to think and to call functions
#   untold, unthinking       what begins an answer when nothing is said of thinking, and when there is to be none
_SETTINGS = """\
{{%- set system, user, assistant = {system}, {user}, {assistant} -%}}
{{%- set space, end, joint, mark = {space}, {end}, {joint}, {mark} -%}}
{{%- set thinks, untold, unthinking = {thinks}, {untold}, {unthinking} -%}}
"""

# Blank lines end a turn, so there are none inside what users and systems say. The prompt for thinking ends in
# "<think", for ">" begins many different tokens.
_BODY = (
    TOOL_MACROS
    + """\
{%- set efforts = {'low': ' (think a bit)', 'medium': ' (think)', 'high': ' (think a lot)'} -%}
{%- set told = namespace(thinking=none) -%}
{%- for value in [thinking, enable_thinking] if value is defined and value is not none -%}
{%- if told.thinking is not none and told.thinking != value -%}
{{- raise_exception('thinking and enable_thinking are two names of one option, and differ.') -}}
{%- endif -%}
{%- set told.thinking = value -%}
{%- endfor -%}
{%- set effort = reasoning_effort if reasoning_effort is defined else none -%}
{%- if effort and effort not in efforts -%}
{{- raise_exception('Unknown reasoning_effort ' ~ effort ~ ': expected low, medium or high.') -}}
{%- elif effort and told.thinking is false -%}
{{- raise_exception('reasoning_effort was given, but there is to be no thinking.') -}}
{%- elif effort -%}
{%- set told.thinking = true -%}
{%- endif -%}
{%- if told.thinking and not thinks -%}
{{- raise_exception('Thinking: these models were trained on a layout without it.') -}}
{%- endif -%}
{%- for message in messages if not thinks and (tools or message['tool_calls']) -%}
{{- raise_exception('Tools or their calls: these models were trained on a layout without them.') -}}
{%- endfor -%}
{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for item in content -%}
{%- if item['type'] == 'text' -%}
{{- item['text'] -}}
{%- else -%}
{{- raise_exception('Unknown content type ' ~ item['type'] ~ ': a text model takes text.') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro clean(content) -%}
{{- (render(content) | replace('\\r\\n', '\\n') | replace(mark, '')).split('\\n') | select | join('\\n') | trim -}}
{%- endmacro -%}
{{- bos_token -}}
{%- set instructions = namespace(parts=[]) -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set instructions.parts = [clean(messages[0]['content'])] -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
{%- set instructions.parts = instructions.parts + [list_tools(tools)] -%}
{%- endif -%}
{%- if instructions.parts -%}
{{- system ~ instructions.parts | join('\\n') ~ end ~ joint -}}
{%- endif -%}
{%- set last = namespace(question=none) -%}
{%- for message in messages -%}
{%- set last.question = loop.index0 if message['role'] == 'user' else last.question -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- user ~ clean(message['content']) ~ (efforts[effort] if effort and loop.index0 == last.question else '') -}}
{{- end ~ joint -}}
{%- elif message['role'] == 'tool' -%}
{{- user ~ 'Function output:\\n' ~ clean(message['content']) ~ end ~ joint -}}
{%- elif message['role'] == 'assistant' -%}
{{- assistant -}}
{%- generation -%}
{{- space -}}
{%- if thinks and message['reasoning_content'] -%}
{{- '<think>' ~ message['reasoning_content'] ~ '</think>\\n' -}}
{%- endif -%}
{%- set said = render(message['content'] or '') | trim -%}
{{- said ~ write_calls(message['tool_calls'], said) ~ end -}}
{%- endgeneration -%}
{{- joint -}}
{%- else -%}
{{- raise_exception('Unknown role ' ~ message['role'] ~ ': expected system (first), user, assistant or tool.') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- assistant -}}
{%- if told.thinking -%}
{{- space ~ '<think' -}}
{%- elif tools and choice == 'required' -%}
{{- space ~ '```json' -}}
{%- elif told.thinking is false -%}
{{- unthinking -}}
{%- else -%}
{{- untold -}}
{%- endif -%}
{%- endif -%}
"""
)


def _template(system, user, assistant, space, end, joint="", mark="", thinks=True, untold="", unthinking="") -> str:
    texts = {name: _quoted(value) for name, value in locals().items() if name != "thinks"}
    return _SETTINGS.format(thinks=str(thinks).lower(), **texts) + _BODY


def _quoted(text: str) -> str:
    return "'" + text.replace("\n", "\\n") + "'"


_ROLES = {"system": "System: ", "user": "User: ", "assistant": "Assistant:", "space": " ", "end": "\n\n"}
_FLOWERS = {"system": f"System{FLOWER}", "user": f"User{FLOWER}", "assistant": f"Bot{FLOWER}", "space": ""}


@dataclass(frozen=True)
class ChatFormat:
    """How the models of a generation talk.

    Attributes:
        template: The chat template.
        stop_string: What a model writes when its turn is over.
        eos_token_id: Tokens that end an answer in World's vocabulary.
        response_template: What `parse_response` of a tokenizer goes by.
        sampling: Settings of `GenerationConfig`; docs/chat.md says whose.
        penalties: Settings of `RWKVPenaltyLogitsProcessor` that go with them.
    """

    template: str
    stop_string: str
    response_template: dict[str, Any]
    sampling: dict[str, Any]
    penalties: dict[str, float] = field(default_factory=dict)
    eos_token_id: int | list[int] = END_OF_TEXT.world_id


# top_k=0 leaves all tokens, where transformers would keep 50
CHAT_FORMATS = {
    "world": ChatFormat(
        _template(**_ROLES, thinks=False),
        NEXT_TURN,
        response_template("Assistant:", NEXT_TURN),
        {"do_sample": True, "temperature": 1.0, "top_p": 0.3, "top_k": 0},
        {"presence": 0.5, "frequency": 0.5, "decay": 0.996},  # ChatRWKV, its API's demo
    ),
    "g1": ChatFormat(
        _template(**_ROLES, unthinking=" <think>\n</think"),
        NEXT_TURN,
        response_template("Assistant:", NEXT_TURN),
        {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "top_k": 500},
        {"presence": 1.0, "frequency": 0.1, "decay": 0.99},  # Albatross, app4b
    ),
    "g1h": ChatFormat(
        _template(**_FLOWERS, end=FLOWER, joint="\n", mark=FLOWER, unthinking="<think></think"),
        FLOWER,
        response_template(_FLOWERS["assistant"], FLOWER),
        {"do_sample": True, "temperature": 0.96, "top_p": 0.76, "top_k": 32},
        {"presence": 1.0, "frequency": 0.1, "decay": 0.988},  # Albatross, eval_gpqa of 2605, thinking
        [END_OF_TEXT.world_id, FLOWER_ID],
    ),
    "g1i": ChatFormat(
        _template(**_ROLES, untold=" <think></think>\n", unthinking=" <think></think>\n"),
        NEXT_TURN,
        response_template("Assistant:", NEXT_TURN),
        {"do_sample": True, "temperature": 1.0, "top_p": 0.5, "top_k": 0},  # card of RWKV/RWKV7-1.5B-20260805
    ),
}
# Without a name to go by: World's conversations read the same, and what G1 has besides is there
DEFAULT_CHAT_FORMAT = "g1"

_NAMES = (
    (re.compile(r"rwkv-?7[ab]?-g1([a-z]?)(?![a-z])", re.IGNORECASE), None),
    (re.compile(r"rwkv7-\d[\d.]*B-20\d{6}", re.IGNORECASE), "g1i"),
    (re.compile(r"(rwkv-x070|rwkv-?7-\d[\d.]*B|goose)-world", re.IGNORECASE), "world"),
    (re.compile(r"rwkv-?7-\d[\d.]*B-g1([a-z]?)(?![a-z])", re.IGNORECASE), None),
)


def chat_format_of(source: str | os.PathLike[str]) -> str:
    """The format of a published checkpoint, a key of `CHAT_FORMATS`, by the name of its file or of a folder above.

    Args:
        source: As `rwkv7-g1h-7.2b-20260710-ctx10240.pth` or `RWKV/RWKV7-1.5B-20260805`. A name that nobody published
            gives `DEFAULT_CHAT_FORMAT`.
    """
    for part in reversed(Path(source).parts):
        for pattern, name in _NAMES:
            if found := pattern.search(part):
                return name or _g1_format(found[1].lower())
    return DEFAULT_CHAT_FORMAT


def penalties_of(chat_template: str | None) -> dict[str, float]:
    """Settings of `RWKVPenaltyLogitsProcessor` that go with the template of a generation; none with any other."""
    return next((each.penalties for each in CHAT_FORMATS.values() if each.template == chat_template), {})


def _g1_format(letter: str) -> str:
    if letter < "h":  # also none at all
        return "g1"
    return "g1h" if letter == "h" else "g1i"


def check_chat_format(name: str) -> None:
    """Refuses a name of no format.

    Raises:
        ValueError: Names those there are.
    """
    if name not in CHAT_FORMATS:
        raise ValueError(f"unknown template {name!r} of a text model, expected one of {', '.join(CHAT_FORMATS)}")


def stop_strings(chat_template: str | None, configured: str | list[str] | None) -> list[str]:
    """Strings that end an answer: those of a model's generation configuration, or of a text model's template."""
    if configured:
        return [configured] if isinstance(configured, str) else list(configured)
    if chat_template is None:
        return []
    if FLOWER in chat_template:
        return [FLOWER]
    return [NEXT_TURN] if "'User: '" in chat_template else []

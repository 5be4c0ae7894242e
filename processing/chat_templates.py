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
"""Chat templates of models with vision and audio encoders, in Jinja, and what all templates share."""

# Characters that open and end a turn, ids 23 and 24; the model ends its answer with the second
TURN_START, TURN_END = "\x16", "\x17"

# Calls of tools and the list of them, as G1 was trained on them (RWKV-LM, `RWKV-v7/RWKV7-G1x-templates.txt`); what
# follows "function call" is ours, for in training every answer was one. Arguments may be an object or its JSON, as
# OpenAI's clients give them, whose `tool_choice` this is too.
TOOL_MACROS = """\
{%- set choice = tool_choice if tool_choice is defined and tool_choice else 'auto' -%}
{%- if choice == 'none' -%}
{%- set tools = none -%}
{%- elif choice not in ['auto', 'required'] -%}
{{- raise_exception('Unknown tool_choice ' ~ choice ~ ': expected auto, required or none.') -}}
{%- endif -%}
{%- macro write_calls(tool_calls, after_text) -%}
{%- for tool_call in tool_calls or [] -%}
{%- set function = tool_call['function'] if 'function' in tool_call else tool_call -%}
{%- set arguments = function['arguments'] or {} -%}
{%- set written = arguments if arguments is string else arguments | tojson(separators=(',', ':')) -%}
{%- set name = function['name'] | tojson -%}
{{- '\\n' if after_text or not loop.first -}}
{{- '```json\\n{"name":' ~ name ~ ',"arguments":' ~ written ~ '}\\n```' -}}
{%- endfor -%}
{%- endmacro -%}
{%- macro list_tools(tools) -%}
{%- set functions = namespace(lines=[]) -%}
{%- for tool in tools -%}
{%- set function = tool['function'] if 'function' in tool else tool -%}
{%- set arguments = (function['parameters'] or {}).get('properties', {}) -%}
{%- set line = {'name': function['name'], 'description': function['description'], 'arguments': arguments} -%}
{%- set functions.lines = functions.lines + [line | tojson(separators=(',', ':'))] -%}
{%- endfor -%}
{{- 'Tools:\\n[\\n' ~ functions.lines | join(',\\n') ~ '\\n]\\nReturn only a JSON function call' -}}
{{- '.' if choice == 'required' else ', or answer if none is needed.' -}}
{%- endmacro -%}
"""

# VisualRWKV's training format: blank lines end turns, so a turn holds none, and its pictures come first, a line each.
# Here the tokens of a whole conversation are those of its turns one by one, as the original encodes them: no token of
# the World vocabulary spans the end of one turn and the start of the next.
VISUAL_CHAT_TEMPLATE = """\
{%- macro media(content, role) -%}
{%- for item in content if content is not string and item['type'] != 'text' -%}
{%- if item['type'] != 'image' -%}
{{- raise_exception('Unknown content type ' ~ item['type'] ~ ': expected text or image.') -}}
{%- elif role != 'user' -%}
{{- raise_exception('An image in a turn of ' ~ role ~ ': only users show images.') -}}
{%- endif -%}
{{- image_token ~ '\\n' -}}
{%- endfor -%}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for item in content if item['type'] == 'text' -%}
{{- item['text'] -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro text(content) -%}
{%- for line in (render(content) | trim).split('\\n') if line | trim -%}
{{- '\\n' if not loop.first -}}
{{- line -}}
{%- endfor -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if tools or message['tool_calls'] -%}
{{- raise_exception('Tools or their calls: these models were trained on a layout without them.') -}}
{%- endif -%}
{%- if message['role'] not in ['user', 'assistant'] -%}
{{- raise_exception('Unknown role ' ~ message['role'] ~ ': expected user or assistant.') -}}
{%- endif -%}
{{- message['role'] | capitalize ~ ':' -}}
{%- if message['role'] == 'user' -%}
{{- ' ' ~ media(message['content'], 'user') ~ text(message['content']) ~ '\\n\\n' -}}
{%- elif media(message['content'], 'assistant') ~ text(message['content']) -%}
{%- generation -%}
{{- ' ' ~ text(message['content']) ~ '\\n\\n' -}}
{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:' -}}
{%- endif -%}
"""

# No space follows the colon: the trie tokenizer would join it with what comes next. Image and audio placeholders stand
# where they stand in the message.
WORLD_CHAT_TEMPLATE = (
    TOOL_MACROS
    + """\
{%- macro render(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for item in content -%}
{%- if item['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif item['type'] == 'audio' -%}
{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif item['type'] == 'text' -%}
{{- item['text'] -}}
{%- else -%}
{{- raise_exception('Unknown content type ' ~ item['type'] ~ ': expected text, image or audio.') -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools and (not messages or messages[0]['role'] != 'system') -%}
{{- '\\x16System:' ~ list_tools(tools) ~ '\\x17' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'tool' -%}
{{- '\\x16User:Function output:\\n' ~ render(message['content']) ~ '\\x17' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '\\x16Assistant:' -}}
{%- generation -%}
{%- if message['reasoning_content'] -%}
{{- '<think>' ~ message['reasoning_content'] ~ '</think>\\n' -}}
{%- endif -%}
{%- set said = render(message['content'] or '') -%}
{{- said ~ write_calls(message['tool_calls'], said) ~ '\\x17' -}}
{%- endgeneration -%}
{%- else -%}
{{- '\\x16' ~ message['role'] | capitalize ~ ':' ~ render(message['content']) -}}
{{- '\\n' ~ list_tools(tools) if tools and loop.first and message['role'] == 'system' -}}
{{- '\\x17' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '\\x16Assistant:' -}}
{{- '```json' if tools and choice == 'required' -}}
{%- endif -%}
"""
)

# Of a message that models without tools know
MESSAGE_CHECKS = """\
{%- if tools or message['tool_calls'] -%}
{{- raise_exception('Tools or their calls: these models were trained on a layout without them.') -}}
{%- endif -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('Unknown role ' ~ message['role'] ~ ': expected system, user or assistant.') -}}
{%- endif -%}
"""

# WorldRWKV's checkpoints know the layout of their own era alone. A template of it is these settings, then one body:
#   image, audio   what stands for a picture or clip
#   media_inside   whether they stand inside the turn, after the colon, or before the turn
#   space          what follows the colon; the answer that `generate` gives begins with it
#   every_turn     whether every turn is opened by a control character, or only the conversation
#   may_be_silent  whether a turn without text is not written, as with models that are only listened to
_ERA_SETTINGS = """\
{{%- set image, audio = '{image}', '<|audio_pad|>' -%}}
{{%- set media_inside, space, every_turn, may_be_silent = {media_inside}, '{space}', {every_turn}, {may_be_silent} -%}}
"""

_ERA_BODY = (
    """\
{%- macro media(content) -%}
{%- for item in content if content is not string -%}
{%- if item['type'] == 'image' -%}
{{- image -}}
{%- elif item['type'] == 'audio' -%}
{{- audio -}}
{%- elif item['type'] != 'text' -%}
{{- raise_exception('Unknown content type ' ~ item['type'] ~ ': expected text, image or audio.') -}}
{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
{%- macro text(content) -%}
{%- if content is string -%}
{{- content -}}
{%- else -%}
{%- for item in content if item['type'] == 'text' -%}
{{- item['text'] -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
"""
    + MESSAGE_CHECKS
    + """\
{%- if not media_inside -%}
{{- media(message['content']) -}}
{%- endif -%}
{%- if text(message['content']) or not may_be_silent -%}
{{- '\\x16' if every_turn or loop.first -}}
{{- message['role'] | capitalize ~ ':' -}}
{%- if media_inside -%}
{{- media(message['content']) -}}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- space ~ text(message['content']).removeprefix(space) ~ '\\x17' -}}
{%- endgeneration -%}
{%- else -%}
{{- space ~ text(message['content']) ~ '\\x17' -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '\\x16Assistant:' if every_turn else 'Assistant:' -}}
{%- endif -%}
"""
)


def _era_template(image="<|image_pad|>", media_inside=False, space=" ", every_turn=True, may_be_silent=False) -> str:
    options = {"media_inside": media_inside, "every_turn": every_turn, "may_be_silent": may_be_silent}
    jinja_options = {name: str(value).lower() for name, value in options.items()}
    return _ERA_SETTINGS.format(image=image, space=space, **jinja_options) + _ERA_BODY


_PADS_THEN_END = _era_template(image="<|image_pad|><|vision_end|>")

# By era of WorldRWKV (docs/conversion.md); "speech" is what those with an audio encoder were trained on in every era
ERA_CHAT_TEMPLATES = {
    "E1": _era_template(every_turn=False),
    "E2": _era_template(),
    "E3": _PADS_THEN_END,
    "E4": _PADS_THEN_END,
    "E5": _era_template(image="<|vision_start|><|image_pad|><|vision_end|>", media_inside=True, space=""),
    "E6": _era_template(media_inside=True, space=""),
    "speech": _era_template(may_be_silent=True),
}

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
"""Chat templates of the World family, in Jinja."""

# Characters that open and end a turn, ids 23 and 24; the model ends its answer with the second
TURN_START, TURN_END = "\x16", "\x17"

# No space follows the colon: the trie tokenizer would join it with what comes next. Image and audio placeholders stand
# where they stand in the message.
WORLD_CHAT_TEMPLATE = """\
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
{%- for message in messages -%}
{{- '\\x16' ~ message['role'] | capitalize ~ ':' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- render(message['content']) ~ '\\x17' -}}
{%- endgeneration -%}
{%- else -%}
{{- render(message['content']) ~ '\\x17' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '\\x16Assistant:' -}}
{%- endif -%}
"""

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
"""Chat templates of WorldRWKV's era E7, by dialect, in Jinja."""

from .chat_templates import MESSAGE_CHECKS


# A template is these settings, then one body:
#   place     of images: "after" the text of their turn, in the "order" of the content, or at the "tags" `<image>` in
#             the text, and before it where there are fewer tags than images
#   space     what follows the colon
#   unspoken  what stands in front of answers, as a model that was trained not to think has it
#   prompt    what follows the colon where the model is to answer
_SETTINGS = """\
{{%- set place, space, unspoken, prompt = '{place}', '{space}', '{unspoken}', '{prompt}' -%}}
{{%- set image = '<|vision_start|><|image_pad|><|vision_end|>' -%}}
"""

_BODY = (
    """\
{%- macro part(item) -%}
{%- if item['type'] == 'image' -%}
{{- image -}}
{%- elif item['type'] == 'text' -%}
{{- item['text'] -}}
{%- else -%}
{{- raise_exception('Unknown content type ' ~ item['type'] ~ ': expected text or image.') -}}
{%- endif -%}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string -%}
{%- set content = [{'type': 'text', 'text': content}] -%}
{%- endif -%}
{%- if place == 'order' -%}
{%- for item in content -%}
{{- part(item) -}}
{%- endfor -%}
{%- else -%}
{%- set found = namespace(text='', images=[]) -%}
{%- for item in content -%}
{%- if item['type'] == 'text' -%}
{%- set found.text = found.text ~ item['text'] -%}
{%- else -%}
{%- set found.images = found.images + [part(item)] -%}
{%- endif -%}
{%- endfor -%}
{%- if place == 'after' -%}
{{- found.text ~ found.images | join -}}
{%- else -%}
{%- set tags = found.text.count('<image>') -%}
{%- set placed = found.text.replace('<image>', image, found.images | length) -%}
{{- (found.images[tags:] | join) ~ placed.replace('<image>', '') -}}
{%- endif -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
"""
    + MESSAGE_CHECKS
    + """\
{{- '\\x16' ~ message['role'] | capitalize ~ ':' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- unspoken ~ space ~ render(message['content']) ~ '\\x17' -}}
{%- endgeneration -%}
{%- else -%}
{{- space ~ render(message['content']) ~ '\\x17' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '\\x16Assistant:' ~ (' <think>' if thinking or enable_thinking else prompt) -}}
{%- endif -%}
"""
)


def _template(place: str, space: str = "", unspoken: str = "", prompt: str = "") -> str:
    return _SETTINGS.format(place=place, space=space, unspoken=unspoken, prompt=prompt) + _BODY


# "mod-rwkv" is that of its training, "mod-rwkv-order" the one in the folders that it exports; "torchtitan-unspoken" is
# torchtitan's with its option `--fake-thinking`
E7_CHAT_TEMPLATES = {
    "mod-rwkv": _template("after", space=" ", prompt=" <think></think>"),
    "mod-rwkv-order": _template("order", space=" ", prompt=" <think></think>"),
    "torchtitan": _template("tags"),
    "torchtitan-unspoken": _template("tags", unspoken=" <think>\\n</think>\\n"),
}

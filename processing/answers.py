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
"""Conversations in, the text of answers out: what the pipelines and the benchmarks have in common."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .text_chat_formats import stop_strings


# What a prompt has begun of an answer that thinks, or is told not to; in full, this is no part of the answer
_BEGUN = re.compile(r"<think(>\s*(</think)?)?$")
NO_THOUGHTS = re.compile(r"\s*<think>\s*</think>\s*")
_LONGEST_BEGINNING = 8  # tokens


def encode_conversations(
    processor: ProcessorMixin, conversations: Sequence[list[dict]], **template_options: Any
) -> BatchFeature:
    """Inputs of a batch of conversations, padded on the left, with the turn of the answer begun.

    Args:
        processor: Of a composite.
        conversations: Messages as `apply_chat_template` takes them; clips that are arrays have the encoder's rate.
        template_options: Of the chat template, such as `thinking`.

    Raises:
        ValueError: If a picture or clip is none, or one that the processor has no part for.
        OSError: If a file cannot be read.
    """
    options = {"padding": True, "padding_side": "left"}
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is not None:
        options["sampling_rate"] = extractor.sampling_rate
    return processor.apply_chat_template(
        list(conversations),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=options,
        **template_options,
    )


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], system: str | None, **template_options: Any
) -> BatchFeature:
    """Inputs of a text model for a batch of questions, padded on the left.

    Args:
        tokenizer: Without a chat template, questions are texts to continue.
        questions: One for each row.
        system: Instruction before every question.
        template_options: Of the chat template, such as `thinking`.
    """
    if tokenizer.chat_template is None:
        prompts = [f"{system}\n\n{question}" if system else question for question in questions]
        return tokenizer(prompts, return_tensors="pt", padding=len(prompts) > 1, padding_side="left")
    opening = [{"role": "system", "content": system}] if system else []
    return tokenizer.apply_chat_template(
        [[*opening, {"role": "user", "content": question}] for question in questions],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        padding=len(questions) > 1,
        tokenizer_kwargs={"padding_side": "left"},
        **template_options,
    )


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    processor: ProcessorMixin | PreTrainedTokenizerBase,
    inputs: dict[str, torch.Tensor],
    **options,
) -> list[str]:
    """Answers without special tokens, the strings that end them, and space around them.

    Args:
        model: A composite or a text model.
        processor: Its processor or tokenizer.
        inputs: From [`encode_conversations`] or [`encode_texts`], on any device.
        options: Of `generate`.
    """
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    endings = stop_strings(processor.chat_template, model.generation_config.stop_strings)
    stop = {"stop_strings": endings, "tokenizer": getattr(processor, "tokenizer", processor)} if endings else {}
    begun = begun_answer(processor, inputs["input_ids"][0])
    output = model.generate(**inputs, **stop, **options)
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [answer_text(begun + answer, endings).strip() for answer in answers]


def begun_answer(processor: ProcessorMixin | PreTrainedTokenizerBase, prompt: torch.Tensor) -> str:
    """What a prompt, (time,) ids, has begun of an answer: `<think`, or such thoughts as are none; else nothing."""
    end = processor.decode(prompt[-_LONGEST_BEGINNING:])
    return found[0] if (found := _BEGUN.search(end)) else ""


def answer_text(text: str, endings: Sequence[str]) -> str:
    """An answer without the first of the strings that end it, a beginning of one at its end, and empty thoughts.

    An answer may have been cut before the whole string was there; a line break alone is taken for a part of it.
    """
    text = NO_THOUGHTS.sub("", text, count=1) if NO_THOUGHTS.match(text) else text
    before = text_before(text, endings)
    if before != text:
        return before
    begun = max((overlap(text, ending) for ending in endings), default=0)
    return text[: len(text) - begun] if text[len(text) - begun :].strip() else text


def text_before(text: str, endings: Sequence[str]) -> str:
    """What stands before the first of the strings that end an answer."""
    return text[: min((text.index(ending) for ending in endings if ending in text), default=len(text))]


def overlap(text: str, ending: str) -> int:
    """How many characters at the end of `text` begin `ending`."""
    lengths = range(min(len(ending), len(text)), 0, -1)
    return next((length for length in lengths if ending.startswith(text[-length:])), 0)

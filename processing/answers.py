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

from collections.abc import Sequence

import torch
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .chat_templates import stop_strings


def encode_conversations(processor: ProcessorMixin, conversations: Sequence[list[dict]]) -> BatchFeature:
    """Inputs of a batch of conversations, padded on the left, with the turn of the answer begun.

    Args:
        processor: Of a composite.
        conversations: Messages as `apply_chat_template` takes them; clips that are arrays have the encoder's rate.

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
    )


def encode_texts(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], system: str | None) -> BatchFeature:
    """Inputs of a text model for a batch of questions, padded on the left.

    Args:
        tokenizer: Without a chat template, questions are texts to continue.
        questions: One for each row.
        system: Instruction before every question.
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
    output = model.generate(**inputs, **stop, **options)
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text_before(answer, endings).strip() for answer in answers]


def text_before(text: str, endings: Sequence[str]) -> str:
    """What stands before the first of the strings that end an answer."""
    return text[: min((text.index(ending) for ending in endings if ending in text), default=len(text))]

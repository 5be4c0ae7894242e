# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of Tiny World's data as conversations, the only form in which the model ever sees them."""

import io

import numpy as np
import torch
from make_data import vocabulary_words
from PIL import Image
from rich.progress import track
from speech import SAMPLE_RATE

from rwkv7_world import RWKVWorldTokenizer


SPEECH_QUESTION = "what is said?"
BATCH_SIZE = 50
MAX_NEW_TOKENS = 20


def build_tokenizer() -> RWKVWorldTokenizer:
    """A World tokenizer of a few hundred tokens: every word of the data with and without a space, and all bytes."""
    words = {*vocabulary_words(), *SPEECH_QUESTION.strip("?").split(), "User", "Assistant"}
    return RWKVWorldTokenizer.from_tokens([(space + word).encode() for word in sorted(words) for space in ("", " ")])


def to_conversation(row: dict, with_answer: bool) -> list[dict]:
    """A row of a speech or a scenes set as messages in the format of `apply_chat_template`.

    With answers all questions of a picture are asked in turn, without only the first.
    """
    if "audio" in row:
        waveform = np.frombuffer(row["audio"], "<i2").astype(np.float32) / 2**15
        media, questions, answers = {"type": "audio", "audio": waveform}, [SPEECH_QUESTION], [row["text"]]
    else:
        picture = Image.open(io.BytesIO(row["image"]))
        media, questions, answers = {"type": "image", "image": picture}, row["questions"], row["answers"]
    messages = []
    for question, answer in zip(questions, answers, strict=True):
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    messages[0]["content"].insert(0, media)
    return messages if with_answer else messages[:1]


def encode(processor, rows: list[dict], with_answer: bool, **kwargs):
    """A padded batch of rows, as tensors; waveforms are at the data's sampling rate."""
    return processor.apply_chat_template(
        [to_conversation(row, with_answer) for row in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=not with_answer,
        processor_kwargs={"padding": True, "sampling_rate": SAMPLE_RATE},
        **kwargs,
    )


@torch.inference_mode()
def answer(model, processor, rows: list[dict], title: str) -> list[str]:
    """The model's greedy answer to every row."""
    answers = []
    for start in track(range(0, len(rows), BATCH_SIZE), title, transient=True):
        inputs = encode(processor, rows[start : start + BATCH_SIZE], with_answer=False)
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new_tokens, skip_special_tokens=True)
    return answers

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What is streamed is the answer, whole and without what ends it, however it is cut into tokens."""

import contextlib
import io
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv7_world import RWKVWorldTokenizer
from rwkv7_world.cli.streaming import AnswerStreamer
from rwkv7_world.processing.answers import answer_text, text_before


TOKENIZER = RWKVWorldTokenizer.from_tokens([b"\n\n", b"User", b"a\n"])
END = "\n\nUser:"


def streamed(text: str, endings: tuple[str, ...] = (END,), begun: str = "") -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        streamer = AnswerStreamer(TOKENIZER, endings, begun)
        streamer.put(torch.tensor([[1, 2]]))  # the prompt
        for token_id in TOKENIZER(text)["input_ids"]:
            streamer.put(torch.tensor([token_id]))
        streamer.end()
    return printed.getvalue()


@pytest.mark.parametrize("text", ["", "a b", "a\n\n", "User:", "a\n", "你好 🦤"])
@pytest.mark.parametrize("ending", ["", "\n\nU", "\n\nUser", END])  # an answer may be cut by its length
def test_the_answer_comes_whole_and_its_end_does_not(text, ending):
    assert streamed(text + ending) == text + "\n"


def test_text_is_not_kept_back_longer_than_it_may_be_the_end(capsys):
    streamer = AnswerStreamer(TOKENIZER, [END])
    streamer.put(torch.tensor([[1]]))
    printed = ""
    for token_id in TOKENIZER("a b\n\nUs and then some more ")["input_ids"]:
        streamer.put(torch.tensor([token_id]))
        printed += capsys.readouterr().out
    assert printed.startswith("a b\n\nUs and then some")


@settings(max_examples=100, deadline=None)
@given(st.text("a\nUser: ", max_size=30))
def test_any_text_is_streamed_unchanged_but_for_its_end(text):
    half = re.compile("\n\nU(s(e(r)?)?)?$")
    assert streamed(text) == half.sub("", text.split(END)[0]) + "\n"


@pytest.mark.parametrize(
    "begun, said, shown",
    [
        ("<think", ">\nhm</think>\nyes", "<think>\nhm</think>\nyes"),
        ("<think>\n</think", ">\n\nyes", "yes"),
        ("<think></think", ">yes", "yes"),
        ("<think></think", " yes", "<think></think yes"),  # a model that says something else
        ("<think></think", "", "<think></think"),
        ("", "<think>hm</think>yes", "<think>hm</think>yes"),
    ],
)
def test_what_the_prompt_has_begun_is_part_of_the_answer_unless_it_says_nothing(begun, said, shown):
    assert streamed(said, begun=begun) == shown + "\n"
    assert answer_text(begun + said, (END,)) == shown


@pytest.mark.parametrize("ending", ["User", "\n\na", "b"])
def test_whichever_ending_comes_first_cuts_the_answer(ending):
    endings = ("b", "\n\na", "User")
    assert streamed(f"a \n{ending} and more", endings) == "a \n\n"
    assert text_before(f"a \n{ending}bUser", endings) == "a \n"

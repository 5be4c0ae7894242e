# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""How each generation of text models talks, in the layouts that their authors write down, and how answers are read."""

import re
from pathlib import Path

import pytest
import rwkv
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from transformers import AutoTokenizer
from transformers.utils.chat_parsing import ResponseParser

from rwkv7_world import RWKVWorldTokenizer
from rwkv7_world.processing.text_chat_formats import CHAT_FORMATS, chat_format_of, stop_strings
from rwkv7_world.processing.world_vocabulary import END_OF_TEXT


REFERENCE = TRIE_TOKENIZER(str(Path(rwkv.__file__).with_name("rwkv_vocab_v20230424.txt")))
TOKENIZERS = {name: RWKVWorldTokenizer.for_chat(name) for name in CHAT_FORMATS}
THINKERS = ("g1", "g1h", "g1i")
CONVERSATION = [
    {"role": "system", "content": "Be\n\n\nkind. "},
    {"role": "user", "content": "one\r\n\r\ntwo\n"},
    {"role": "assistant", "content": "first\n\nsecond"},
    {"role": "user", "content": [{"type": "text", "text": "bye"}]},
]
TURNS = "System: Be\nkind.\n\nUser: one\ntwo\n\nAssistant: first\n\nsecond\n\nUser: bye\n\nAssistant:"
FLOWERY_TURNS = "System✿Be\nkind.✿\nUser✿one\ntwo✿\nBot✿first\n\nsecond✿\nUser✿bye✿\nBot✿"


def get_weather(location: str, unit: str = "celsius"):
    """Weather now.

    Args:
        location: Where.
        unit: Which unit.
    """


def render(name: str, *messages: dict, **options) -> str:
    options = {"add_generation_prompt": True} | options
    text = TOKENIZERS[name].apply_chat_template(list(messages), tokenize=False, **options)
    assert text.startswith(END_OF_TEXT.content)
    return text.removeprefix(END_OF_TEXT.content)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    "name, turns", [("world", TURNS), ("g1", TURNS), ("g1h", FLOWERY_TURNS), ("g1i", f"{TURNS} <think></think>\n")]
)
def test_a_conversation_reads_as_it_was_trained(name, turns):
    assert render(name, *CONVERSATION) == turns


@pytest.mark.parametrize(
    "name, thinking, prompt",
    [
        ("g1", True, "User: hi\n\nAssistant: <think"),
        ("g1", False, "User: hi\n\nAssistant: <think>\n</think"),
        ("g1h", True, "User✿hi✿\nBot✿<think"),
        ("g1h", False, "User✿hi✿\nBot✿<think></think"),
        ("g1i", True, "User: hi\n\nAssistant: <think"),
        ("g1i", False, "User: hi\n\nAssistant: <think></think>\n"),
        ("world", False, "User: hi\n\nAssistant:"),
    ],
)
def test_thinking_is_begun_or_skipped_by_either_name(name, thinking, prompt):
    for options in ({"thinking": thinking}, {"enable_thinking": thinking}):
        assert render(name, user("hi"), **options) == prompt
    assert render(name, user("hi"), thinking=thinking, enable_thinking=thinking) == prompt
    with pytest.raises(TemplateError, match="thinking and enable_thinking are two names"):
        render(name, user("hi"), thinking=thinking, enable_thinking=not thinking)
    assert render(name, user("hi"), thinking=None) == render(name, user("hi"))


@pytest.mark.parametrize(
    "effort, words", [("low", " (think a bit)"), ("medium", " (think)"), ("high", " (think a lot)")]
)
def test_how_long_to_think_stands_after_the_last_question(effort, words):
    prompt = render("g1", *CONVERSATION, reasoning_effort=effort)
    assert prompt == TURNS.replace("User: bye", f"User: bye{words}") + " <think"
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    prompt = render("g1", user("hi"), called, {"role": "tool", "content": "3"}, reasoning_effort=effort)
    assert f"User: hi{words}\n\nAssistant:" in prompt and prompt.endswith("Function output:\n3\n\nAssistant: <think")
    with pytest.raises(TemplateError, match="there is to be no thinking"):
        render("g1", user("hi"), reasoning_effort=effort, thinking=False)
    with pytest.raises(TemplateError, match="Unknown reasoning_effort max: expected low, medium or high"):
        render("g1", user("hi"), reasoning_effort="max")


@pytest.mark.parametrize("options", [{"thinking": True}, {"reasoning_effort": "low"}, {"tools": [get_weather]}])
def test_models_that_never_thought_or_called_are_not_asked_to(options):
    with pytest.raises(TemplateError, match="these models were trained on a layout without"):
        render("world", user("hi"), **options)


@pytest.mark.parametrize("name", THINKERS)
def test_thoughts_of_earlier_answers_stand_before_them(name):
    answer = {"role": "assistant", "reasoning_content": "hm", "content": "yes"}
    assert "<think>hm</think>\nyes" in render(name, user("is it?"), answer)


@pytest.mark.parametrize("arguments", [{"location": "Paris"}, '{"location":"Paris"}'])
def test_tools_are_offered_or_demanded(arguments):
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    conversation = [
        user("Paris?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": '{"celsius":3}'},
    ]
    described = '{"name":"get_weather","description":"Weather now.","arguments":{"location":{"type":"string",'
    described += '"description":"Where."},"unit":{"type":"string","description":"Which unit."}}}'
    listed = f"System: Tools:\n[\n{described}\n]\nReturn only a JSON function call"
    turns = "User: Paris?\n\nAssistant: "
    turns += '```json\n{"name":"get_weather","arguments":{"location":"Paris"}}\n```\n\n'
    turns += 'User: Function output:\n{"celsius":3}\n\nAssistant:'
    tools = {"tools": [get_weather]}
    assert render("g1", *conversation, **tools, tool_choice="required") == f"{listed}.\n\n{turns} ```json"
    for options in ({}, {"tool_choice": "auto"}, {"tool_choice": None}):
        offered = render("g1", *conversation, **tools, **options)
        assert offered == f"{listed}, or answer if none is needed.\n\n{turns}"
    assert render("g1", *conversation, **tools, tool_choice="none") == turns
    assert render("g1", *conversation, **tools, thinking=True) == f"{offered} <think"
    with pytest.raises(TemplateError, match="Unknown tool_choice get_weather: expected auto, required or none"):
        render("g1", *conversation, **tools, tool_choice="get_weather")


def test_several_calls_stand_on_lines_of_their_own_after_what_is_said():
    calls = [{"type": "function", "function": {"name": name, "arguments": {}}} for name in "ab"]
    answer = {"role": "assistant", "content": "Let me look.\n", "tool_calls": calls}
    written = [f'\n```json\n{{"name":"{name}","arguments":{{}}}}\n```' for name in "ab"]
    assert render("g1", user("?"), answer) == f"User: ?\n\nAssistant: Let me look.{''.join(written)}\n\nAssistant:"


def test_turns_have_the_ids_that_their_authors_name():
    def ids(name: str, **options) -> list[int]:
        options = {"add_generation_prompt": True, "return_dict": False} | options
        return TOKENIZERS[name].apply_chat_template([user("hi")], **options)

    assert ids("g1") == [0, *REFERENCE.encode("User: hi\n\nAssistant:")]
    assert ids("g1", thinking=True)[-5:] == [5585, 41693, 59, 295, 35762]
    assert ids("g1h")[:3] == [0, 24281, 10060]
    assert ids("g1h")[-4:] == [10060, 11, 5645, 10060]
    assert ids("g1h", thinking=False)[-4:] == [61, 35762, 5439, 35762]
    assert CHAT_FORMATS["g1h"].eos_token_id == [0, 10060]


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_answers_are_what_the_assistant_mask_covers(name):
    chat = [
        user("hi"),
        {"role": "assistant", "content": "Hello."},
        user("and?"),
        {"role": "assistant", "content": "."},
    ]
    encoded = TOKENIZERS[name].apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    said = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    space, end = ("", "✿") if name == "g1h" else (" ", "\n\n")
    assert TOKENIZERS[name].decode(said) == f"{space}Hello.{end}{space}.{end}"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("a\n\r \u273f:User", max_size=15), min_size=1, max_size=3), st.sampled_from(list(TOKENIZERS)))
def test_users_cannot_end_their_own_turn(texts, name):
    """What they write is cleaned as the authors do it, and of flowers where these end turns."""
    conversation, expected = [], ""
    for text in texts:
        conversation += [user(text), {"role": "assistant", "content": "b"}]
        if name == "g1h":
            cleaned = re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n").replace("\u273f", "")).strip()
            expected += f"User\u273f{cleaned}\u273f\nBot\u273fb\u273f\n"
        else:
            cleaned = re.sub(r"\n{2,}", "\n", text.replace("\r\n", "\n")).strip()
            expected += f"User: {cleaned}\n\nAssistant: b\n\n"
    assert render(name, *conversation, add_generation_prompt=False) == expected


@pytest.mark.parametrize("name", CHAT_FORMATS)
@pytest.mark.parametrize(
    "message, words",
    [
        ({"role": "narrator", "content": "x"}, "Unknown role narrator"),
        ({"role": "user", "content": [{"type": "image", "url": "x.png"}]}, "a text model takes text"),
    ],
)
def test_what_a_text_model_cannot_take_is_refused(name, message, words):
    with pytest.raises(TemplateError, match=words):
        render(name, message)


@pytest.mark.parametrize(
    "source, name",
    [
        ("RWKV-x070-World-1.5B-v3-20250127-ctx4096.pth", "world"),
        ("fla-hub/rwkv7-1.5B-world", "world"),
        ("RWKV7-Goose-World3-2.9B-HF", "world"),
        ("rwkv7-g1-0.1b-20250307-ctx4096.pth", "g1"),
        ("fla-hub/rwkv7-2.9B-g1", "g1"),
        ("models/rwkv7-g1d-0.1b-20260129-ctx8192.pth", "g1"),
        ("rwkv7a-g1d-0.1b-20260212-ctx8192.pth", "g1"),
        ("rwkv7b-g1b-0.1b-20250822-ctx4096.safetensors", "g1"),
        ("rwkv7-g1h-7.2b-20260710-ctx10240.pth", "g1h"),
        ("rwkv7-g1i-1.5b-20260805-ctx16384.pth", "g1i"),
        ("rwkv7-g1j-13.3b-20260831-ctx16384.pth", "g1i"),
        ("RWKV/RWKV7-2.9B-20260805", "g1i"),
        ("hub/models--RWKV--RWKV7-13.3B-20260805/snapshots/0a1b", "g1i"),
        ("wangyue114514/rwkv7-g1g-1.5b-hf", "g1"),
        ("rwkv7-world/out/model.pth", "g1"),
        ("rwkv7-hello", "g1"),
    ],
)
def test_a_published_name_tells_the_generation(source, name):
    assert chat_format_of(source) == name
    assert chat_format_of(Path("/home/someone/rwkv7-world") / source) == name


def test_an_unknown_format_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown template 'g2' of a text model, expected one of world, g1, g1h, g1i"):
        RWKVWorldTokenizer.for_chat("g2")


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_saved_tokenizer_talks_the_same_without_this_package(name, tmp_path):
    TOKENIZERS[name].save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == TOKENIZERS[name].chat_template
    opening = "Bot✿" if name == "g1h" else "Assistant:"
    answer = f"> hm</think> yes {CHAT_FORMATS[name].stop_string}"
    expected = {"role": "assistant", "reasoning_content": "hm", "content": "yes"}
    assert loaded.parse_response(answer, prefix=f"{opening} <think") == expected


def test_what_ends_an_answer_is_what_is_configured_or_the_beginning_of_the_users_turn():
    assert stop_strings(CHAT_FORMATS["g1"].template, None) == ["\n\nUser:"]
    assert stop_strings(CHAT_FORMATS["g1h"].template, None) == ["✿"]
    assert stop_strings("{{ 'User: ' ~ (message.content | trim) ~ '\\n\\n' }}", []) == ["\n\nUser:"]
    assert stop_strings(CHAT_FORMATS["g1"].template, "###") == ["###"]
    assert stop_strings("<|im_start|>user", None) == stop_strings(None, None) == []


CALL = '```json\n{"name":"f","arguments":{"a":[1,{"b":"}"}]}}\n```'
CALLED = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": "}"}]}}}
ANSWERS = [
    ("", " Hello.\n\nUser:", {"content": "Hello."}),
    ("", " Hello.\n\nUser: and more", {"content": "Hello."}),
    ("", " Hello.\n\nUs", {"content": "Hello."}),
    ("", " one\n\ntwo\n\n", {"content": "one\n\ntwo"}),
    ("", " Users:\n\nUsed.", {"content": "Users:\n\nUsed."}),
    ("", f" Hello.{END_OF_TEXT.content}", {"content": "Hello."}),
    (" <think", ">\nhm\n</think>\nYes.\n\nUser:", {"reasoning_content": "hm", "content": "Yes."}),
    (" <think", ">\nhm\n\nhm\n\nUser: and", {"reasoning_content": "hm\n\nhm"}),
    (" <think", ">\nhm\n\nUs", {"reasoning_content": "hm"}),
    (" <think>\n</think", ">\nYes.", {"content": "Yes."}),
    (" <think></think>\n", "Yes.", {"content": "Yes."}),
    ("", f" Let me see.\n{CALL}\n\nUser:", {"content": "Let me see.", "tool_calls": [CALLED]}),
    ("", f" {CALL}\n{CALL}", {"tool_calls": [CALLED, CALLED]}),
    (" ```json", CALL.removeprefix("```json"), {"tool_calls": [CALLED]}),
    ("", ' See ```json\n{"a": 1}\n``` there', {"content": 'See ```json\n{"a": 1}\n``` there'}),
]


@pytest.mark.parametrize("begun, answer, expected", ANSWERS)
def test_an_answer_is_read_as_thoughts_words_and_calls(begun, answer, expected):
    prefix = render("g1", user("Assistant: <think>?")) + begun
    tokenizer = TOKENIZERS["g1"]
    assert tokenizer.parse_response(answer, prefix=prefix) == {"role": "assistant"} | expected
    # What is offered as arguments but is no JSON is given as it is
    broken = answer.replace('{"a":[1,{"b":"}"}]}', '{"a": oops}')
    for call in tokenizer.parse_response(broken, prefix=prefix).get("tool_calls", []):
        assert call["function"]["arguments"] == '{"a": oops}'


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ANSWERS), st.integers(1, 6))
def test_a_streamed_answer_is_read_the_same(case, length):
    begun, answer, expected = case
    parser = ResponseParser(TOKENIZERS["g1"].response_template, prefix=render("g1", user("?")) + begun)
    shown = ""
    for piece in re.findall(f"(?s).{{1,{length}}}", answer):
        events = parser.feed(piece)
        shown += "".join(event["text"] for event in events if event["type"] == "region_chunk" and not event["dirty"])
    message, events = parser.finalize()
    shown += "".join(event["text"] for event in events if event["type"] == "region_chunk" and not event["dirty"])
    assert message == {"role": "assistant"} | expected
    assert "\n\nU" not in shown.replace("\n\nUsed.", "")

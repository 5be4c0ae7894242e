# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A record that cannot be learned from is listed with file, line and reason; the others are read, in any encoding."""

import json

import datasets
import pytest

from rwkv7_world.data.formats import read_data
from rwkv7_world.training.trainer.sampling import rough_length


GOOD_CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
GOOD_LLAVA = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
QUESTION = {"from": "human", "value": "<image>q"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def user(content) -> dict:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("format", "good", "bad", "reason"),
    [
        ("chat", GOOD_CHAT, user(["hi"]), "a block is a str"),
        ("chat", GOOD_CHAT, {"messages": ["hi"]}, "a message is a str"),
        ("chat", GOOD_CHAT, {"messages": [None]}, "a message is a NoneType"),
        ("chat", GOOD_CHAT, {"messages": {"role": "user"}}, "no conversation with 'messages'"),
        ("chat", GOOD_CHAT, user([{"type": ["x"]}]), r"a block has type \['x'\]"),
        ("chat", GOOD_CHAT, user([{"type": "text", "text": 5}]), "the text of a block is a int"),
        ("chat", GOOD_CHAT, user(5), "the content of a message is a int"),
        ("chat", GOOD_CHAT, user(None), "a message needs 'role' and 'content'"),
        ("chat", GOOD_CHAT, {"messages": [{"role": 3, "content": "x"}]}, "a message needs 'role' and 'content'"),
        ("chat", GOOD_CHAT, "a text", "no JSON object"),
        ("chat", GOOD_CHAT, [1], "no JSON object"),
        ("llava", GOOD_LLAVA, {"conversations": ["hello"]}, "a turn is a str"),
        ("llava", GOOD_LLAVA, {"image": 5, "conversations": [QUESTION]}, "image is 5, expected the name of a file"),
        ("llava", GOOD_LLAVA, {"image": {"path": "a"}, "conversations": [QUESTION]}, "image is {'path': 'a'}"),
        ("llava", GOOD_LLAVA, {"image": [{"path": "a"}], "conversations": [QUESTION]}, "image is .* a list of names"),
        ("llava", GOOD_LLAVA, {"conversations": [{"value": "q"}]}, "a turn is from None"),
        ("llava", GOOD_LLAVA, {"conversations": [{"from": "human", "value": None}]}, "the value of a turn is None"),
        ("text", {"text": "a"}, "Just a JSON string", "no text under 'text' .no JSON object"),
        ("text", {"text": "a"}, {"text": 5}, "no text under 'text'"),
        ("transcripts", {"audio": "a.wav", "text": "a"}, {"audio": {"path": 1}, "text": "a"}, "no clip or no text"),
        ("transcripts", {"audio": "a.wav", "text": "a"}, 7, "no JSON object"),
    ],
)
def test_a_record_of_another_shape_is_listed_and_the_others_are_read(tmp_path, format, good, bad, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in (good, bad, good)))
    rows = [dict(row) for row in read_data(str(path), format)]
    assert [bool(row.get("error")) for row in rows] == [False, True, False]
    assert rows[1]["source"] == f"{path}:2"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(rows[1]["error"])
    assert [rough_length(row) for row in rows][1] == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_and_utf_16_lose_no_row(tmp_path, encoding):
    files = {
        "rows.jsonl": '{"text": "héllo"}\n',
        "rows.json": '[{"text": "héllo"}]',
        "rows.txt": "héllo\n",
        "rows.csv": "path,text\na.wav,héllo\n",
        "rows.tsv": "path\ttext\na.wav\théllo\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_text(content, encoding=encoding)
        (row,) = read_data(str(path))
        text = row.get("text") or row["messages"][-1]["content"]
        assert text.strip() == "héllo", name


def test_another_encoding_is_refused_by_file(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "h\xe9llo"}\n'.encode("latin-1"))
    with pytest.raises(Exception) as error:
        list(read_data(str(path), "text"))
    told = error.value if "latin.jsonl" in str(error.value) else error.value.__cause__
    assert "latin.jsonl: neither UTF-8 nor UTF-16" in str(told)


def test_rows_of_a_table_with_other_fields_are_listed_and_long_fields_read(tmp_path):
    path = tmp_path / "rows.csv"
    long = "word " * 40_000
    path.write_text(f"path,text\na.wav,hello,extra\nb.wav\nc.wav,{long}\nd.wav,ok\n")
    rows = list(read_data(str(path)))
    assert [row.get("error") for row in rows] == ["3 fields, expected 2", "1 fields, expected 2", None, None]
    assert [row["source"].split(":")[-1] for row in rows] == ["2", "3", "4", "5"]
    assert rows[2]["messages"][-1]["content"].strip() == long.strip()


@pytest.mark.parametrize(
    ("row", "length"),
    [
        ({"input_ids": list(range(5000))}, 5000),
        ({"messages": [{"role": "user", "content": None}]}, 0),
        ({"messages": [{"role": "user"}]}, 0),
        ({"messages": "x"}, 0),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 0),
        ({"error": "x"}, 0),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 100),
    ],
)
def test_the_rough_length_of_any_row_is_told(row, length):
    assert rough_length(row) == length

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Formats of data to rows, their mixture and slices."""

import json

import datasets
import pytest

from helpers.training import write_llava
from rwkv7_world.data.formats import detect_format, read_data
from rwkv7_world.data.mixture import Mixture, mix, part_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path, *records):
    path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
    return str(path)


def turns(*values: str) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def image(tmp_path, name: str) -> dict:
    return {"type": "image", "path": str(tmp_path / name)}


def test_llava_puts_pictures_first_and_joins_blank_lines(tmp_path):
    record = {"id": 1, "image": ["a.png", "b.png"], "conversations": turns("x\n\n \ny <image>\n<image> z ", "fine")}
    path = tmp_path / "records.json"
    path.write_text(json.dumps([record, {"id": "2", "conversations": turns("hello", "you")}]))
    rows = read_data(str(path))
    assert rows[0]["messages"] == [
        {
            "role": "user",
            "content": [image(tmp_path, "a.png"), image(tmp_path, "b.png"), {"type": "text", "text": "x\ny \n z"}],
        },
        {"role": "assistant", "content": "fine"},
    ]
    assert rows[1]["messages"][0] == {"role": "user", "content": "hello"}
    assert rows[1]["source"] == f"{path}[1]"


def test_llava_separator_stands_after_each_picture(tmp_path):
    record = {"image": ["a.png", "b.png"], "conversations": turns("<image>\n<image>\nwhat?", "this")}
    rows = read_data(write_lines(tmp_path / "r.jsonl", record), separator="\n")
    line_break = {"type": "text", "text": "\n"}
    content = rows[0]["messages"][0]["content"]
    assert content[:3] == [image(tmp_path, "a.png"), line_break, image(tmp_path, "b.png")]
    assert content[3] == {"type": "text", "text": "\nwhat?"}


def test_llava_inline_leaves_pictures_where_they_stand(tmp_path):
    record = {"image": "sub/a.png", "conversations": turns("look: <image> what?", "this")}
    rows = read_data(write_lines(tmp_path / "r.jsonl", record), images="inline", image_folder="/pictures")
    content = rows[0]["messages"][0]["content"]
    assert [block.get("text", block.get("path")) for block in content] == ["look: ", "/pictures/sub/a.png", " what?"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"image": "a.png", "conversations": turns("no mark", "x")}, "1 pictures are given, but 0 <image> marks"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "a turn is from 'alien'"),
        ({"conversation": []}, "its keys are ['conversation']"),
        ("{broken", "no JSON"),
        ("[1]", "no JSON object"),
    ],
)
def test_bad_record_becomes_a_row_that_says_why(tmp_path, record, reason):
    path = write_lines(tmp_path / "r.jsonl", {"conversations": turns("a", "b")}, record)
    row = read_data(path, "llava")[1]
    assert reason in row["error"]
    assert row["source"] == f"{path}:2"


def test_chat_keeps_every_key_and_finds_media_beside_the_file(tmp_path):
    question = {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "?"}]}
    answer = {"role": "assistant", "content": "b", "reasoning_content": "so"}
    rows = read_data(write_lines(tmp_path / "c.jsonl", {"messages": [question, answer], "id": 7}))
    assert rows[0]["messages"][0]["content"][0] == {"type": "audio", "path": str(tmp_path / "a.wav")}
    assert rows[0]["messages"][1] == answer
    assert rows[0]["id"] == 7


@pytest.mark.parametrize(
    ("sample_by", "texts"),
    [
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("document", ["one\ntwo\n\nthree\n"]),
    ],
)
def test_plain_text_is_divided_as_asked(tmp_path, sample_by, texts):
    path = tmp_path / "t.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert [row["text"] for row in read_data(str(path), sample_by=sample_by)] == texts


def test_streamed_rows_are_those_of_the_table(tmp_path):
    path = str(write_llava(tmp_path, rows=5))
    streamed = read_data(path, streaming=True)
    assert isinstance(streamed, datasets.IterableDataset)
    assert [row["messages"] for row in streamed] == [row["messages"] for row in read_data(path)]


def test_changed_file_is_read_anew(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"text": "first"})
    assert [row["text"] for row in read_data(path)] == ["first"]
    write_lines(tmp_path / "t.jsonl", {"text": "second one"})
    assert [row["text"] for row in read_data(path)] == ["second one"]


def test_format_is_told_from_the_file(tmp_path):
    for record, name in (({"messages": []}, "chat"), ({"conversations": []}, "llava"), ({"text": ""}, "text")):
        write_lines(tmp_path / "r.jsonl", record)
        assert detect_format(tmp_path / "r.jsonl") == name


@pytest.mark.parametrize(
    ("content", "format", "options", "complaint"),
    [
        ('{"prompt": "x"}', None, {}, "of no format known"),
        ("", None, {}, "holds no JSON object"),
        ('{"text": "x"}', "text2", {}, "unknown format 'text2'"),
        ('{"text": "x"}', "text", {"columns": 3}, "has no option 'columns'"),
    ],
)
def test_data_of_no_known_kind_is_refused(tmp_path, content, format, options, complaint):
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as error:
        read_data(str(path), format, **options)
    assert str(path) in str(error.value)


def test_weights_repeat_and_thin_out():
    sets = [[f"a{i}" for i in range(4)], [f"b{i}" for i in range(10)]]
    rows = list(Mixture(sets, [2.0, 0.5], seed=0))
    assert sorted(rows[:8]) == sorted(sets[0] * 2)
    assert len(rows) == 13 and len(set(rows[8:])) == 5 and set(rows[8:]) <= set(sets[1])
    assert rows == list(Mixture(sets, [2.0, 0.5], seed=0))


def test_stream_beside_a_table_is_refused(tmp_path):
    path = write_lines(tmp_path / "t.jsonl", {"text": "x"})
    with pytest.raises(ValueError, match="streamed cannot be mixed"):
        mix([read_data(path), read_data(path, streaming=True)], [1, 1], 0)


@pytest.mark.parametrize(
    ("split", "rows"), [("[:3]", range(3)), ("[7:]", range(7, 10)), ("[:90%]", range(9)), ("[50%:60%]", range(5, 6))]
)
def test_slices(split, rows):
    table = datasets.Dataset.from_dict({"n": list(range(10))})
    assert part_of(table, split)["n"] == list(rows)


def test_slice_of_a_stream_and_what_is_none():
    stream = datasets.Dataset.from_dict({"n": list(range(10))}).to_iterable_dataset()
    assert [row["n"] for row in part_of(stream, "[2:5]")] == [2, 3, 4]
    with pytest.raises(ValueError, match="in percent"):
        part_of(stream, "[:90%]")
    with pytest.raises(ValueError, match="train"):
        part_of(stream, "train")

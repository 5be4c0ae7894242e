# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Transcripts, WorldRWKV's folders, sets of the `datasets` library, and binidx, as far as the collator."""

import importlib
import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from helpers.composites import random_clip, random_image, tiny_processor, tiny_tokenizer
from rwkv7_world.data import tables
from rwkv7_world.data.binidx import write_binidx
from rwkv7_world.data.formats import detect_format, read_data
from rwkv7_world.data.mixture import part_of
from rwkv7_world.training.trainer.collator import ConversationCollator


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def write_clip(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, random_clip(), 16_000)
    return str(path)


def heard(clip: str, text: str, *question: dict) -> list[dict]:
    content = [{"type": "audio", "path": clip}, *question]
    return [{"role": "user", "content": content}, {"role": "assistant", "content": text}]


def collate(rows) -> dict:
    return ConversationCollator(tiny_processor("siglip", "wavlm"), strict=True)(list(rows))


# --- The cache -------------------------------------------------------------------------------------------------------


def turns(answer: str) -> dict:
    return {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]}


def answers(path) -> list[str]:
    return [row["messages"][-1]["content"] for row in read_data(str(path))]


@pytest.mark.parametrize("name", ["rows.json", "folder", "linked"])
def test_edited_data_is_read_again(tmp_path, name):
    """In place, also to a text of the same length with the time set back, and behind a link to another folder."""
    path = tmp_path / name
    file = path if name == "rows.json" else path / "text" / "a.json"
    if name == "linked":
        (tmp_path / "elsewhere").mkdir()
        path.mkdir()
        (path / "text").symlink_to(tmp_path / "elsewhere")
        (path / "loop").symlink_to(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    for answer in ("OLD", "LONGER THAN THAT", "longer than this"):
        file.write_text(json.dumps([turns(answer)]))
        os.utime(file, (0, 0))
        assert answers(path) == [answer]


def test_files_added_to_a_folder_and_removed_from_it_are_noticed(tmp_path):
    folder = tmp_path / "folder" / "text"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps([turns("first")]))
    assert answers(tmp_path / "folder") == ["first"]
    (folder / "b.json").write_text(json.dumps([turns("second")]))
    assert sorted(answers(tmp_path / "folder")) == ["first", "second"]
    (folder / "a.json").unlink()
    assert answers(tmp_path / "folder") == ["second"]


def test_a_folder_that_is_made_or_removed_is_noticed(tmp_path):
    """Images are looked for in `images`, where there is such a folder, be it empty."""
    write_lines(tmp_path / "set" / "chat.jsonl", {"image": "a.png", **turns("red")})

    def image() -> str:
        return read_data(str(tmp_path / "set"))[0]["messages"][0]["content"][0]["path"]

    (tmp_path / "set" / "images").mkdir()
    assert image() == str(tmp_path / "set" / "images" / "a.png")
    (tmp_path / "set" / "images").rmdir()
    assert image() == str(tmp_path / "set" / "a.png")


@pytest.mark.parametrize("name", ["0.parquet", "train.jsonl", "train.zip"])
def test_an_edited_file_of_a_stored_set_is_read_again(tmp_path, name):
    """Also one whose time was set back, which is all that `datasets` looks at."""
    file = tmp_path / "set" / name
    file.parent.mkdir()
    for text in ("OLD", "NEW"):
        if name == "0.parquet":
            datasets.Dataset.from_dict({"text": [text]}).to_parquet(str(file))
        elif name == "train.jsonl":
            file.write_text(json.dumps({"text": text}))
        else:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("train.jsonl", json.dumps({"text": text}))
        os.utime(file, (0, 0))
        assert [row["text"] for row in read_data(str(file.parent), "datasets")] == [text]


def test_rows_of_a_reader_of_ones_own_are_made_again_when_it_is_edited(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = write_lines(tmp_path / "rows.jsonl", turns("any"))
    for text in ("OLD", "LONGER THAN THAT"):
        (tmp_path / "own_reader.py").write_text(f"def rows(path):\n    yield {{'text': {text!r}}}\n")
        monkeypatch.delitem(sys.modules, "own_reader", raising=False)
        rows = importlib.import_module("own_reader").rows
        assert tables.table_of_rows(rows, Path(path), streaming=False)[0]["text"] == text


def test_rows_are_made_again_when_a_neighbour_of_their_reader_is_edited(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = write_lines(tmp_path / "rows.jsonl", turns("any"))
    (tmp_path / "helped_reader.py").write_text(
        "from reader_help import TEXT\ndef rows(path):\n    yield {'text': TEXT}\n"
    )
    for text in ("OLD", "LONGER THAN THAT"):
        (tmp_path / "reader_help.py").write_text(f"TEXT = {text!r}\n")
        for module in ("helped_reader", "reader_help"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        rows = importlib.import_module("helped_reader").rows
        assert tables.table_of_rows(rows, Path(path), streaming=False)[0]["text"] == text


def test_rows_are_made_again_when_the_code_of_the_readers_changes(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "rows.jsonl", turns("old"))
    before = read_data(path).cache_files
    assert read_data(path).cache_files == before
    monkeypatch.setattr(tables, "_version_of_sources", lambda folder: "another version")
    assert read_data(path).cache_files != before


# --- Transcripts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nemo.jsonl", '{{"audio_filepath": "{0}", "duration": 1.0, "text": "Ja \\"so\\""}}\n'),
        ("list.json", '[{{"audio": "{0}", "transcript": "Ja \\"so\\""}}]'),
        ("validated.tsv", 'client_id\tpath\tsentence\n1\t{0}\tJa "so"\n'),
        ("list.csv", 'file_name,sentence\n{0},"Ja ""so"""\n'),
    ],
)
def test_a_manifest_of_any_kind_is_a_conversation_a_line(tmp_path, name, content):
    clip = write_clip(tmp_path / "clips" / "a.wav")
    (tmp_path / name).write_text(content.format("a.wav"))
    assert detect_format(tmp_path / name) == "transcripts"
    rows = read_data(str(tmp_path / name))
    assert [row["messages"] for row in rows] == [heard(clip, 'Ja "so"')]
    asked = read_data(str(tmp_path / name), prompt="write it down", lowercase=True)
    assert asked[0]["messages"] == heard(clip, 'ja "so"', {"type": "text", "text": "write it down"})
    assert collate(rows)["input_features"].shape[0] == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_clips_are_found_where_they_are_now(tmp_path, streaming):
    """Also if they were put there after the manifest was read."""
    path = write_lines(tmp_path / "m.jsonl", {"audio": "a.wav", "text": "yes"})
    for name in ("a.wav", "clips/a.wav", "a.wav"):
        if name.startswith("clips") or (tmp_path / "clips").exists():
            write_clip(tmp_path / name)
        (row,) = read_data(path, streaming=streaming)
        assert row["messages"] == heard(str(tmp_path / name), "yes")


def test_columns_may_be_named_and_bad_records_are_told(tmp_path):
    clip = write_clip(tmp_path / "x" / "a.wav")
    path = write_lines(tmp_path / "m.jsonl", {"sound": "a.wav", "said": "yes"}, {"sound": "a.wav"})
    options = {
        "format": "transcripts",
        "audio_column": "sound",
        "text_column": "said",
        "audio_folder": str(tmp_path / "x"),
    }
    good, bad = read_data(path, **options)
    assert good["messages"] == heard(clip, "yes")
    assert bad["error"] == "no clip or no text, its keys are ['sound']"


# --- WorldRWKV's folders ---------------------------------------------------------------------------------------------


def test_answers_stand_beside_their_pictures_and_clips(tmp_path):
    write_clip(tmp_path / "a.wav")
    random_image().save(tmp_path / "b.PNG")
    records = [{"file_name": "a.wav", "answer": "one"}, {"file_name": "b.PNG", "answer": "two"}, {"answer": "three"}]
    write_lines(tmp_path / "answer.jsonl", *records)
    assert detect_format(tmp_path) == "worldrwkv"
    heard_row, seen_row, bad = read_data(str(tmp_path))
    assert heard_row["messages"] == heard(str(tmp_path / "a.wav"), "one")
    assert seen_row["messages"][0]["content"] == [{"type": "image", "path": str(tmp_path / "b.PNG")}]
    assert bad["error"] == "no 'file_name' and 'answer' (its keys are ['answer'])"
    batch = collate([heard_row, seen_row])
    assert batch["pixel_values"].shape[0] == batch["input_features"].shape[0] == 1


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("records", "folder"), [("chat.jsonl", "images"), ("text/x.jsonl", "data"), ("text/x.json", "data")]
)
def test_pictures_of_conversations_come_first_wherever_their_marks_stand(tmp_path, records, folder, beside):
    turns = [{"from": "human", "value": "what <image> is it?"}, {"from": "GPT", "value": "red"}]
    record = {"image": ["a.png", "b.png"], "conversations": turns}
    path = tmp_path / records
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([record] if path.suffix == ".json" else record))
    folder = tmp_path / ("" if beside else folder)
    folder.mkdir(exist_ok=True)
    for name in record["image"]:
        random_image().save(folder / name)
    (row,) = read_data(str(tmp_path))
    blocks = [{"type": "image", "path": str(folder / name)} for name in record["image"]]
    assert row["messages"] == [
        {"role": "user", "content": [*blocks, {"type": "text", "text": "what  is it?"}]},
        {"role": "assistant", "content": "red"},
    ]
    assert collate([row])["pixel_values"].shape[0] == 2


def test_a_folder_of_no_known_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected answer.jsonl, chat.jsonl or text/ in a folder of WorldRWKV's"):
        read_data(str(tmp_path), "worldrwkv")


# --- Sets of the `datasets` library ----------------------------------------------------------------------------------


def saved(tmp_path, columns: dict, features: dict | None = None, kind: str = "saved") -> str:
    rows = datasets.Dataset.from_dict(columns)
    for column, feature in (features or {}).items():
        rows = rows.cast_column(column, feature)
    folder = tmp_path / "set" / "part"
    folder.mkdir(parents=True)
    if kind == "saved":
        rows.save_to_disk(str(folder))
    else:
        rows.to_parquet(str(folder / "0.parquet"))
    return str(tmp_path / "set")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_finevision_and_worldrwkvs_arrow_are_conversations_with_pictures(tmp_path, kind, streaming):
    pictures = []
    for seed in range(4):
        pictures.append(str(tmp_path / f"{seed}.png"))
        random_image(seed).save(pictures[-1])
    columns = {
        "images": [pictures[:1], pictures],
        "texts": [[{"user": "what?", "assistant": "red"}], [{"user": "and?", "assistant": "blue"}] * 2],
    }
    path = saved(tmp_path, columns, {"images": datasets.List(datasets.Image())}, kind)
    rows = list(read_data(path, "datasets", streaming=streaming, max_images=3))
    assert [len(row["messages"]) for row in rows] == [2, 4]
    kinds = [[block["type"] for block in row["messages"][0]["content"]] for row in rows]
    assert kinds == [["image", "text"], ["image"] * 3 + ["text"]]
    assert collate(rows)["pixel_values"].shape[0] == 4
    if not streaming:
        assert detect_format(tmp_path / "set") == "datasets"


@pytest.mark.parametrize("columns", [("audio", "text"), ("audio", "transcript"), ("question_audio", "answer")])
def test_clips_of_a_set_are_heard(tmp_path, columns):
    clip = write_clip(tmp_path / "a.flac")
    path = saved(tmp_path, {columns[0]: [clip, clip], columns[1]: ["yes", "no"]}, {columns[0]: datasets.Audio()})
    rows = read_data(path, prompt="which?")
    assert len(rows) == 2 and rows[1]["messages"][1]["content"] == "no"
    assert [block["type"] for block in rows[0]["messages"][0]["content"]] == ["audio", "text"]
    assert collate(rows[index] for index in range(2))["input_features"].shape[0] == 2
    assert len(part_of(rows, "[1:]")) == 1


def test_images_in_lists_of_a_saved_set_are_not_copied(tmp_path):
    """So nothing is written beside the set, and one that is written over it is read as it is."""
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features({"images": datasets.List(datasets.Image()), "conversations": [turn]})
    written = {}
    for color in ("red", "blue"):
        columns = {"images": [[Image.new("RGB", (4, 4), color)]], "conversations": [turns("a")["conversations"]]}
        datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "set")
        state = json.loads((tmp_path / "set" / "state.json").read_text()) | {"_fingerprint": "the same"}
        (tmp_path / "set" / "state.json").write_text(json.dumps(state))
        files = set(os.listdir(tmp_path / "set"))
        written[color] = read_data(str(tmp_path / "set"))[0]["messages"][0]["content"][0]["bytes"]
        assert set(os.listdir(tmp_path / "set")) == files
    assert written["red"] != written["blue"]


def test_conversations_and_texts_of_a_set_stay_as_they_are(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert read_data(saved(tmp_path / "1", {"messages": [messages]}))[0]["messages"] == messages
    assert read_data(saved(tmp_path / "2", {"text": ["abc"]}))[0]["text"] == "abc"


def test_unknown_columns_are_refused(tmp_path):
    with pytest.raises(ValueError, match="columns a, b are of no kind known"):
        read_data(saved(tmp_path, {"a": [1], "b": [2]}))


# --- binidx ----------------------------------------------------------------------------------------------------------


DOCUMENTS = [[5, 6, 0], [], [7] * 10]


def binidx_by_hand(prefix, documents, dtype, code: int) -> str:
    """The two files, written out from the description of the format."""
    flat = [token for document in documents for token in document]
    (prefix.parent / f"{prefix.name}.bin").write_bytes(np.array(flat, dtype).tobytes())
    index = b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", code)
    index += struct.pack("<QQ", len(documents), len(documents) + 1)
    index += b"".join(struct.pack("<i", len(document)) for document in documents)
    place = 0
    for document in documents:
        index += struct.pack("<q", place)
        place += len(document) * np.dtype(dtype).itemsize
    index += b"".join(struct.pack("<q", bound) for bound in range(len(documents) + 1))
    (prefix.parent / f"{prefix.name}.idx").write_bytes(index)
    return str(prefix)


@pytest.mark.parametrize(("dtype", "code"), [(np.uint16, 8), (np.int32, 4), (np.int64, 5)])
def test_documents_are_read_with_tokens_of_any_type(tmp_path, dtype, code):
    path = binidx_by_hand(tmp_path / "my.corpus_text_document", DOCUMENTS, dtype, code)
    for name in (path, f"{path}.bin", f"{path}.idx"):
        assert [row["input_ids"] for row in read_data(name, "binidx")] == DOCUMENTS
    rows = part_of(read_data(f"{path}.bin"), "[1:]")
    assert [rows[index]["input_ids"] for index in range(len(rows))] == DOCUMENTS[1:]


@pytest.mark.parametrize(("vocab_size", "dtype", "code"), [(100, np.uint16, 8), (65_536, np.int32, 4)])
def test_what_is_written_is_what_the_tool_writes(tmp_path, vocab_size, dtype, code):
    assert write_binidx(tmp_path / "ours", iter(DOCUMENTS), vocab_size) == 3
    binidx_by_hand(tmp_path / "tools", DOCUMENTS, dtype, code)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"tools.{suffix}").read_bytes()


def test_writing_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="a document has tokens 3 to 100, expected 0 to 99"):
        write_binidx(tmp_path / "x", [[1], [100, 3]], 100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index: b"x" + index[1:], "no index of tokenised documents"),
        (lambda index: index[:-1], "bytes do not hold 3 sizes and 4 bounds"),
        (lambda index: index[:17] + b"\x63" + index[18:], "version 1 with tokens of type 99"),
        (lambda index: index[:-8] + struct.pack("<q", 2), "its documents do not end with its 3 sizes"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, damage, message):
    path = binidx_by_hand(tmp_path / "x", DOCUMENTS, np.int32, 4)
    file = tmp_path / "x.idx"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_data(path, "binidx")


def test_missing_and_short_files_are_told(tmp_path):
    path = binidx_by_hand(tmp_path / "x", DOCUMENTS, np.int32, 4)
    (tmp_path / "x.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match=r"x\.bin: 4 bytes, but its index tells of 52"):
        read_data(path, "binidx")
    (tmp_path / "x.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.bin: no such file"):
        read_data(path, "binidx")


def test_tokens_are_learned_as_they_are(tmp_path):
    path = binidx_by_hand(tmp_path / "x", [[5, 6, 0], [7, 8]], np.uint16, 8)
    rows = list(read_data(path, "binidx"))
    batch = ConversationCollator(tiny_tokenizer())(rows)
    assert batch["input_ids"].tolist()[0] == [5, 6, 0] and batch["attention_mask"].tolist()[1] == [1, 1, 0]
    packed = ConversationCollator(tiny_tokenizer(), max_length=5, packing=True)(rows)
    assert packed["input_ids"].tolist() == [[5, 6, 0, 7, 8]] and packed["position_ids"].tolist() == [[0, 1, 2, 0, 1]]


def test_a_picture_of_a_set_is_the_one_that_was_put_in(tmp_path):
    Image.new("RGB", (24, 24), "red").save(tmp_path / "red.png")
    path = saved(
        tmp_path,
        {
            "image": [str(tmp_path / "red.png")],
            "conversations": [[{"from": "user", "value": "?"}, {"from": "gpt", "value": "x"}]],
        },
        {"image": datasets.Image()},
    )
    pixels = collate(read_data(path)[index] for index in range(1))["pixel_values"]
    assert pixels[0].mean(dim=(1, 2)).tolist() == pytest.approx([1, -1, -1])

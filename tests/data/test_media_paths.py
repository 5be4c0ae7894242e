# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the paths in data may lead: from files of the user's anywhere, from sets of the Hub to what came with them."""

import json
from pathlib import Path

import datasets
import pytest
import soundfile

from helpers import composites
from rwkv7_world.data.formats import read_data
from rwkv7_world.data.skipped_rows import SkippedRows
from rwkv7_world.training.trainer.collator import ConversationCollator


ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture of the user's that is no part of any set."""
    path = tmp_path / "home" / "private.png"
    path.parent.mkdir()
    composites.random_image().save(path)
    return path


@pytest.fixture
def on_the_hub(monkeypatch):
    """Makes rows be what the Hub has under any name."""

    def publish(rows: list[dict]) -> None:
        def load(path, name, split, streaming):
            table = datasets.Dataset.from_list(rows)
            return table.to_iterable_dataset() if streaming else table

        monkeypatch.setattr(datasets, "load_dataset", load)

    return publish


def asked(**medium) -> dict:
    question = [{"type": "image", **{key: str(value) for key, value in medium.items()}}, {"type": "text", "text": "?"}]
    return {"messages": [{"role": "user", "content": question}, ANSWER]}


@pytest.mark.parametrize("key", ["path", "image", "url"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_of_the_hub_names_no_file_of_this_machine(private, on_the_hub, tmp_path, monkeypatch, key, streaming):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    for name in (private, "home/private.png", "cache/../home/private.png"):
        on_the_hub([asked(**{key: name})])
        row = next(iter(read_data("someone/set", "datasets", streaming=streaming)))
        assert row["error"].startswith(f"names {name}, a file of this machine that did not come with the set")
        assert row["source"] == "someone/set"


def test_a_link_out_of_what_came_with_the_set_is_followed_to_its_end(private, on_the_hub, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "link.png").symlink_to(private)
    on_the_hub([asked(path=tmp_path / "cache" / "link.png")])
    assert "did not come with the set" in read_data("someone/set", "datasets")[0]["error"]


def test_such_rows_are_listed_and_the_others_learned(private, on_the_hub, tmp_path):
    came = tmp_path / "cache" / "picture.png"
    came.parent.mkdir()
    composites.random_image().save(came)
    on_the_hub([asked(path=private), asked(path=came), asked(path="https://example.org/x.png")])
    rows = read_data("someone/set", "datasets")
    assert [bool(row["error"]) for row in rows] == [True, False, False]
    collator = ConversationCollator(
        composites.tiny_processor("siglip"), skipped=SkippedRows(tmp_path / "skipped.jsonl")
    )
    assert len(collator([rows[0], rows[1]])["input_ids"]) == 1
    listed = json.loads((tmp_path / "skipped.jsonl").read_text())
    assert listed["source"] == "someone/set" and str(private) in listed["reason"]


def test_the_folder_that_the_user_names_is_where_media_lie(private, on_the_hub, tmp_path):
    on_the_hub([asked(path="private.png"), asked(path=private), asked(path="../outside.png")])
    composites.random_image().save(tmp_path / "outside.png")
    inside, absolute, outside = read_data("someone/set", "datasets", media_folder=str(private.parent))
    for row in (inside, absolute):
        assert row["messages"][0]["content"][0]["path"] == str(private)
    assert "outside.png, a file of this machine" in outside["error"]


def test_clips_of_columns_are_held_to_it_too(on_the_hub, tmp_path):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, composites.random_clip(0, 8000), composites.SAMPLING_RATE)
    on_the_hub([{"audio": {"path": str(clip), "bytes": None}, "text": "red"}])
    assert "did not come with the set" in read_data("someone/set", "datasets")[0]["error"]
    on_the_hub([{"audio": {"path": str(clip), "bytes": clip.read_bytes()}, "text": "red"}])
    assert read_data("someone/set", "datasets")[0]["error"] is None


def test_rows_of_media_inside_of_messages_are_held_to_it_too(private, on_the_hub, tmp_path):
    for medium in ({"path": str(private), "bytes": None}, [str(private)], [{"path": str(private)}]):
        messages = [{"role": "user", "content": [{"type": "image", "image": medium}]}, ANSWER]
        on_the_hub([{"messages": messages}])
        assert "did not come with the set" in read_data("someone/set", "datasets")[0]["error"], medium
    content = [{"type": "image", "image": {"path": str(private), "bytes": private.read_bytes()}}]
    on_the_hub([{"messages": [{"role": "user", "content": content}, ANSWER]}])
    assert read_data("someone/set", "datasets")[0]["error"] is None


@pytest.mark.parametrize("name", ["{0}", "../home/private.png"])
def test_files_of_the_user_lead_wherever_he_wrote(private, tmp_path, name):
    folder, picture = tmp_path / "set", name.format(private)
    folder.mkdir()
    turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "red"}]
    (folder / "llava.json").write_text(json.dumps([{"image": picture, "conversations": turns}]))
    (folder / "chat.jsonl").write_text(json.dumps(asked(path=picture)) + "\n")
    datasets.Dataset.from_list([asked(path=private)]).save_to_disk(str(folder / "saved"))
    for path in ("llava.json", "chat.jsonl", "saved"):
        block = read_data(str(folder / path))[0]["messages"][0]["content"][0]
        assert Path(block["path"]).resolve() == private.resolve()

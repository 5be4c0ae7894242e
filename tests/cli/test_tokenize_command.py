# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world tokenize`."""

import json

import datasets
import pytest

from helpers.composites import tiny_tokenizer
from rwkv7_world.cli.main import main
from rwkv7_world.data.formats import read_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tokenizer(tmp_path) -> str:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_texts_become_documents_that_end_with_the_token_0(tmp_path, tokenizer, capsys):
    texts = ["the red circle", "né"]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(["tokenize", str(tmp_path / "texts.jsonl"), str(tmp_path / "out"), "--tokenizer", tokenizer]) == 0
    assert f"{tmp_path}/out.bin, {tmp_path}/out.idx: 2 documents" in capsys.readouterr().out
    documents = [row["input_ids"] for row in read_data(str(tmp_path / "out.bin"))]
    assert documents == [[*tiny_tokenizer().encode(text, add_special_tokens=False), 0] for text in texts]


def test_rows_that_are_no_text_are_refused_by_their_line(tmp_path, tokenizer, capsys):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "the"}\n{"words": "red"}\n')
    assert main(["tokenize", str(path), str(tmp_path / "out"), "--tokenizer", tokenizer]) == 2
    assert f"{path}:2: no text under 'text' (its keys are ['words'])" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches: what is learned, what is cut, what is skipped and listed, and packing against single rows."""

import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from helpers.composites import random_clip, random_image, tiny_composite, tiny_processor, tiny_tokenizer
from rwkv7_world.data.skipped_rows import SkippedRows
from rwkv7_world.training.trainer.collator import MAX_BAD_ROWS, ConversationCollator


def chat(question: str = "what", answer: str = "red", **media) -> dict:
    """One question, with media in front of it."""
    blocks = [{"type": kind, kind: value} for kind, value in media.items()]
    return {
        "messages": [
            {"role": "user", "content": [*blocks, {"type": "text", "text": question}]},
            {"role": "assistant", "content": answer},
        ]
    }


def learned_text(batch: dict, row: int = 0) -> str:
    labels = batch["labels"][row]
    return tiny_tokenizer().decode(labels[labels != -100])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"labels": "assistant"}, "a circle\x17"),
        ({"labels": "assistant_turn"}, "\x16Assistant:a circle\x17"),
        ({"labels": "assistant_turn", "mask_first_tokens": 3}, ":a circle\x17"),
        ({"labels": "assistant", "mask_first_tokens": 1}, " circle\x17"),
    ],
)
def test_rules_of_labels(options, text):
    batch = ConversationCollator(tiny_processor("siglip"), **options)([chat(answer="a circle", image=random_image())])
    assert learned_text(batch) == text


def test_all_learns_everything_but_placeholders():
    processor = tiny_processor("siglip")
    batch = ConversationCollator(processor, labels="all")([chat(image=random_image())])
    unlearned = batch["input_ids"][0][batch["labels"][0] == -100]
    assert set(unlearned[1:].tolist()) == {processor.image_token_id}  # nothing comes before the first token


def test_every_answer_of_a_conversation_is_learned():
    row = {"messages": chat(answer="one")["messages"] + chat(answer="two")["messages"]}
    assert learned_text(ConversationCollator(tiny_processor())([row])) == "one\x17two\x17"


def test_text_model_learns_its_template_and_plain_text_between_its_ends():
    collator = ConversationCollator(tiny_tokenizer())
    batch = collator([chat("what", "red"), {"text": "the circle"}])
    assert learned_text(batch, 0) == " red\n\n"
    text = batch["input_ids"][1][batch["attention_mask"][1].bool()]
    assert (text[0], text[-1]) == (0, 0) and tiny_tokenizer().decode(text[1:-1]) == "the circle"


def test_end_is_cut_but_never_a_picture_or_all_that_is_learned():
    processor = tiny_processor("siglip")
    whole = ConversationCollator(processor)([chat(answer="a long red circle", image=random_image())])
    length = whole["input_ids"].shape[1] - 3
    short = ConversationCollator(processor, max_length=length)
    cut = short([chat(answer="a long red circle", image=random_image())])
    assert cut["input_ids"].tolist()[0] == whole["input_ids"].tolist()[0][:length]

    for limit, reason in ((8, "would cut a picture"), (length - 12, "nothing to learn")):
        collator = ConversationCollator(processor, max_length=limit, strict=True)
        with pytest.raises(ValueError, match=reason):
            collator([chat(answer="a long red circle", image=random_image())])


def bad_rows(tmp_path) -> dict[str, dict]:
    """Rows that cannot be learned from, by a word of why."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    return {
        "no such file": chat(image="missing.png"),
        "not a picture": chat(image=str(broken)),
        "empty": chat(answer="  "),
        "neither": {"columns": 1},
        "needs 'role'": {"messages": [{"content": "x"}, {"role": "assistant", "content": "y"}]},
        "broken record": {"error": "broken record"},
        "too short": chat(audio=random_clip(samples=10)),
    }


def test_bad_rows_are_left_out_counted_and_listed(tmp_path):
    path = tmp_path / "run" / "skipped_rows.jsonl"
    collator = ConversationCollator(tiny_processor("siglip", "wavlm"), skipped=SkippedRows(path))
    rows = [{**row, "source": f"data:{index}"} for index, row in enumerate(bad_rows(tmp_path).values())]
    good = chat(image=random_image(), audio=random_clip())
    batch = collator([rows[0], good, *rows[1:], good])
    alone = collator([good, good])
    assert batch.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(batch[name], tensor)
    collator([rows[0], good])
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["source"] for entry in listed] == [row["source"] for row in rows]
    assert collator.skipped_rows == len(rows)


@pytest.mark.parametrize("reason", ["no such file", "empty", "broken record"])
def test_strict_ends_at_a_bad_row_and_says_which(tmp_path, reason):
    row = {**bad_rows(tmp_path)[reason], "source": "data:3"}
    with pytest.raises(ValueError, match=f"data:3.*{reason}"):
        ConversationCollator(tiny_processor("siglip"), strict=True)([chat(), row])


def test_bad_rows_without_end_are_a_mistake_of_the_recipe():
    collator = ConversationCollator(tiny_processor())
    for _ in range(MAX_BAD_ROWS - 1):
        batch = collator([{"columns": 1}])
    assert (batch["labels"] == -100).all()
    with pytest.raises(ValueError, match=f"{MAX_BAD_ROWS} rows without a good one"):
        collator([{"columns": 1}])
    with pytest.raises(ValueError, match="not one of the first 2 rows"):
        collator.check([{"columns": 1}, {"columns": 2}])


def test_workers_make_the_same_batches_and_count_together(tmp_path):
    def batches(workers: int, path):
        rows = [
            chat(answer="red", image=random_image(i)) if i % 3 else chat(image=f"missing{i}.png") for i in range(12)
        ]
        collator = ConversationCollator(tiny_processor("siglip"), skipped=SkippedRows(path))
        return list(DataLoader(rows, batch_size=4, num_workers=workers, collate_fn=collator)), collator.skipped_rows

    here, count = batches(0, tmp_path / "here.jsonl")
    workers, worker_count = batches(2, tmp_path / "workers.jsonl")
    assert count == worker_count == 4
    for first, second in zip(here, workers, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


def packed_and_padded(rows: list[dict], length: int) -> tuple[dict, dict]:
    processor = tiny_processor("siglip")
    padded = ConversationCollator(processor, max_length=length)(rows)
    return ConversationCollator(processor, max_length=length, packing=True)(rows), padded


def test_packed_loss_and_gradients_are_those_of_single_rows():
    rows = [chat("what" * n, "red" * (1 + n % 3), image=random_image(n)) for n in range(5)]
    rows[2] = chat("no picture", "circle")
    packed, padded = packed_and_padded(rows, 80)
    assert packed["input_ids"].shape[0] < padded["input_ids"].shape[0]
    assert (packed["position_ids"] == 0).logical_and(packed["attention_mask"].bool()).sum() == len(rows)

    model = tiny_composite("siglip").train()
    found = []
    for batch in (padded, packed):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (packed_loss, packed_gradients) = found
    torch.testing.assert_close(packed_loss, loss)
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        scale = max(gradient.abs().max().item(), 1e-3 * largest)
        torch.testing.assert_close(packed_gradients[name] / scale, gradient / scale, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [7, 16])
def test_packed_text_loses_nothing(length):
    tokenizer = tiny_tokenizer()
    texts = ["the red circle what", "x", "a much longer text of many words than a row can hold"]
    batch = ConversationCollator(tokenizer, max_length=length, packing=True)([{"text": text} for text in texts])
    ids = batch["input_ids"][batch["attention_mask"].bool()].tolist()
    expected = [token for text in texts for token in (0, *tokenizer.encode(text, add_special_tokens=False), 0)]
    assert ids == expected
    assert batch["input_ids"].shape[1] == length


def test_media_of_every_kind_are_read(tmp_path):
    picture, clip = random_image(), random_clip()
    picture.save(tmp_path / "a.png")
    import soundfile

    soundfile.write(tmp_path / "a.wav", clip, 16_000, subtype="FLOAT")
    collator = ConversationCollator(tiny_processor("siglip", "wavlm"), strict=True)
    expected = collator([chat(image=picture, audio={"array": clip, "sampling_rate": 16_000})])

    def blocks(**keys) -> dict:
        row = chat()
        row["messages"][0]["content"][:0] = [{"type": kind, **block} for kind, block in keys.items()]
        return row

    files = {"image": tmp_path / "a.png", "audio": tmp_path / "a.wav"}
    by_path = blocks(**{kind: {"path": str(path), "text": None} for kind, path in files.items()})
    by_bytes = blocks(**{kind: {"bytes": path.read_bytes()} for kind, path in files.items()})
    for row in (by_path, by_bytes):
        batch = collator([row])
        for name, tensor in expected.items():
            torch.testing.assert_close(batch[name], tensor)


def test_prompt_is_padded_on_the_left_and_ends_where_the_answer_begins():
    collator = ConversationCollator(tiny_processor())
    prompts = collator.prompts([chat("what", "red"), chat("what the red", "blue")])
    assert prompts["attention_mask"][0, 0] == 0
    for row in prompts["input_ids"]:
        assert tiny_tokenizer().decode(row).endswith("\x16Assistant:")


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="labels is 'answers'"):
        ConversationCollator(tiny_tokenizer(), labels="answers")
    with pytest.raises(ValueError, match="packing needs max_length"):
        ConversationCollator(tiny_tokenizer(), packing=True)


def test_labels_are_numbers_of_the_tokens():
    batch = ConversationCollator(tiny_processor())([chat()])
    learned = batch["labels"] != -100
    np.testing.assert_array_equal(batch["labels"][learned], batch["input_ids"][learned])

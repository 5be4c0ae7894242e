# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Composites that were converted: loaded whole, their prompts, and the ids that these should have."""

from pathlib import Path

import torch
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from transformers import AutoProcessor

from rwkv7_world.processing.world_vocabulary import WORLD_VOCABULARY_FILE


trie = TRIE_TOKENIZER(str(WORLD_VOCABULARY_FILE))


def load_whole(auto_class, folder: Path):
    """The model in float32, of which nothing is missing or left over, and its processor."""
    model, report = auto_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval(), AutoProcessor.from_pretrained(folder)


def tokenize(processor, chat, **kwargs):
    return processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
    )


def ids_of(*parts: str | int | tuple[int, int]) -> list[int]:
    """Token ids of text as the trie tokenizer gives them, of ids, and of (id, count)."""
    ids = []
    for part in parts:
        if isinstance(part, str):
            ids += trie.encode(part)
        else:
            ids += [part] if isinstance(part, int) else [part[0]] * part[1]
    return ids

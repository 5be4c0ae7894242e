# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Every layout through the commands that people run, as BlinkDL's `rwkv` package reads the same weights."""

import json
import math
from pathlib import Path

import pytest
import rwkv
import torch
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordPiece
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.blinkdl import Sizes, greedy_in_rwkv_package, load_in_rwkv_package, random_checkpoint
from helpers.layouts import write_layout
from helpers.training import write_recipe
from rwkv7_world import RWKVWorldTokenizer
from rwkv7_world.cli.main import main


WORLD = TRIE_TOKENIZER(str(Path(rwkv.__file__).with_name("rwkv_vocab_v20230424.txt")))
SIZES = Sizes(layers=2, hidden=64, vocab=65536, seed=2)
SOURCES = ("official", "Goose", ".pth")  # the commands load all others, whose classes are tested, in the same two ways
TEXT = "The quick brown fox jumps over the lazy dog. " * 3


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return random_checkpoint(SIZES)


@pytest.fixture(scope="module")
def package(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "model.pth"
    torch.save(checkpoint, path)
    return load_in_rwkv_package(path)


def save_official_tokenizer(folder: Path) -> None:
    """The tokenizer of official folders (docs of rwkv-publisher): greedy WordPiece over bytes, one special string."""
    characters = bytes_to_unicode()
    vocab = {"<|endoftext|>": 0} | {"".join(characters[b] for b in WORLD.idx2token[i]): i for i in WORLD.idx2token}
    vocab |= {chr(0xE000 + i): i for i in set(range(SIZES.vocab)) - set(vocab.values())}
    model = WordPiece(vocab, unk_token="<|endoftext|>", continuing_subword_prefix="", max_input_chars_per_word=10**6)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "padding_side": "left", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(params=SOURCES)
def source(request, checkpoint, tmp_path) -> Path:
    """A model in one of the layouts, with the tokenizer that comes with it."""
    if request.param == ".pth":
        torch.save(checkpoint, tmp_path / "model.pth")
        return tmp_path / "model.pth"
    folder = write_layout(tmp_path / "model", request.param, checkpoint, SIZES)
    if request.param == "official":
        save_official_tokenizer(folder)
    else:
        RWKVWorldTokenizer().save_pretrained(folder)
    return folder


def test_commands_run_the_model_that_the_package_runs(source, package, tmp_path, capsys):
    # generate: 50 greedy tokens
    has_template = not (source / "tokenizer.json").is_file() or (source / "chat_template.jinja").is_file()
    prompt = [0, *WORLD.encode("User: hi there\n\nAssistant:")] if has_template else WORLD.encode("hi there")
    expected = greedy_in_rwkv_package(package, *package.forward(prompt, None), 50)
    assert main(["generate", str(source), "hi there", "--max-new-tokens", "50", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["prompt_tokens"], answer["new_tokens"]) == (len(prompt), 50)
    assert answer["answer"].strip() == RWKVWorldTokenizer().decode(expected).strip()

    # evaluate: likelihood of a text
    tokens = [0, *WORLD.encode(TEXT)]
    logits = package.forward(tokens, None, full_output=True)[0].view(len(tokens), -1).double()
    nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:]), reduction="sum").item()
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["evaluate", str(source), "bpc", "--data", str(tmp_path / "text.txt"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["value"] == pytest.approx(nll / math.log(2) / len(TEXT), rel=1e-5)

    # train: the loss of the first step, of the text between two tokens 0; the official tokenizer begins with none
    tokens = [*tokens[0 if has_template else 1 :], 0]
    logits = package.forward(tokens, None, full_output=True)[0].view(len(tokens), -1).double()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(tokens[1:])).item()
    recipe = {"output_dir": str(tmp_path / "run"), "model": str(source), "data": [str(tmp_path / "text.txt")]}
    write_recipe(tmp_path / "recipe.yaml", {"max_steps": 1, "logging_steps": 1}, **recipe)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 0
    (state,) = (tmp_path / "run").glob("checkpoint-*/trainer_state.json")
    logged = [record["loss"] for record in json.loads(state.read_text())["log_history"] if "loss" in record]
    assert logged == [pytest.approx(loss, rel=1e-4)]

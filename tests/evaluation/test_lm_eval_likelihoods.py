# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods by lm_eval, as docs/evaluation.md calls it: those of the `rwkv` package behind token 0."""

import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from helpers.blinkdl import Sizes, config_of, fla_state_dict, load_in_rwkv_package, random_checkpoint
from rwkv7_world import RWKV7ForCausalLM, RWKVWorldTokenizer


huggingface = pytest.importorskip("lm_eval.models.huggingface")
instance = pytest.importorskip("lm_eval.api.instance")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
PASSAGES = [
    ("The cat sat on the", " mat"),
    ("A longer passage than the other one, read in the same batch, ends in a", " word"),
    ("", "Nothing stands before this"),
]


@pytest.fixture(scope="module")
def documented() -> dict[str, str]:
    """The model's arguments in the command of the page, without the folder."""
    (arguments,) = re.findall(r"python -m lm_eval --model hf --model_args pretrained=FOLDER,(\S+)", PAGE.read_text())
    return dict(argument.split("=") for argument in arguments.split(","))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder, and the same weights in the `rwkv` package."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), RWKVWorldTokenizer.from_tokens([b" mat", b" word", b"The"])
    sizes = Sizes(
        layers=2, hidden=64, vocab=len(tokenizer), decay_rank=8, a_rank=8, v_rank=8, gate_rank=16, ffn=128, seed=1
    )
    checkpoint = random_checkpoint(sizes)
    ours = RWKV7ForCausalLM(config_of(checkpoint))
    ours.load_state_dict(fla_state_dict(checkpoint), strict=True)
    ours.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(checkpoint, folder / "checkpoint.pth")
    return folder, tokenizer, load_in_rwkv_package(folder / "checkpoint.pth")


def test_likelihoods_of_the_documented_command_are_those_of_the_rwkv_package(model, documented):
    folder, tokenizer, package = model
    assert documented == {"trust_remote_code": "True", "add_bos_token": "True"}
    options = {name: value == "True" for name, value in documented.items()}
    judge = huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3, **options)
    requests = [instance.Instance("loglikelihood", {}, passage, 0) for passage in PASSAGES]
    for (context, continuation), (found, _) in zip(PASSAGES, judge.loglikelihood(requests), strict=True):
        ids = [0, *tokenizer.encode(context + continuation, add_special_tokens=False)]
        start = 1 + len(tokenizer.encode(context, add_special_tokens=False))
        logits, _ = package.forward(ids, None, full_output=True)
        likelihoods = logits.float().log_softmax(-1)[start - 1 : -1].gather(-1, torch.tensor(ids[start:])[:, None])
        assert found == pytest.approx(likelihoods.sum().item(), abs=2e-4)


def test_rolling_likelihoods_are_those_of_the_rwkv_package_without_the_option(model):
    """lm_eval puts token 0 in front of these by itself; with `add_bos_token` it would score a second one."""
    folder, tokenizer, package = model
    judge = huggingface.HFLM(pretrained=str(folder), device="cpu", dtype="float32", trust_remote_code=True)
    rolling = judge.loglikelihood_rolling([instance.Instance("loglikelihood_rolling", {}, ("The cat sat",), 0)])
    ids = [0, *tokenizer.encode("The cat sat", add_special_tokens=False)]
    logits, _ = package.forward(ids, None, full_output=True)
    expected = logits.float().log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).sum().item()
    assert rolling == [pytest.approx(expected, abs=2e-4)]


def test_a_stock_tokenizer_puts_token_0_in_front_when_it_is_asked_to(model):
    folder, *_ = model
    asked = PreTrainedTokenizerFast.from_pretrained(folder, add_bos_token=True)
    assert asked.encode("The")[0] == 0
    assert asked.encode("The")[1:] == PreTrainedTokenizerFast.from_pretrained(folder).encode("The")

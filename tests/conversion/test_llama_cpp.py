# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder that we save becomes, by llama.cpp's own converter, a GGUF file that goes on with the same tokens.

It takes `pip install llama-cpp-python` (a build of minutes) and the sources it was built from, for the converter:
`LLAMA_CPP_SOURCE=.../vendor/llama.cpp pytest tests/conversion/test_llama_cpp.py`.
"""

import os
from pathlib import Path

import pytest
import torch

from helpers.text_models import randomize
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM, RWKVWorldTokenizer
from rwkv7_world.benchmarks.contenders import GGUF, write_gguf


llama_cpp = pytest.importorskip("llama_cpp")
SOURCE = os.environ.get("LLAMA_CPP_SOURCE")
PROMPT = "The constant memory of a recurrent model, 你好"
NEW_TOKENS = 50


@pytest.mark.skipif(not SOURCE, reason="LLAMA_CPP_SOURCE does not name llama.cpp's sources")
@pytest.mark.parametrize("layers, hidden", [(2, 128), (4, 192)])
def test_greedy_tokens_of_llama_cpp_are_ours(layers, hidden, tmp_path):
    tokenizer = RWKVWorldTokenizer()
    model = RWKV7ForCausalLM(RWKV7Config(hidden_size=hidden, num_hidden_layers=layers, eos_token_id=None)).eval()
    randomize(model, seed=hidden)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_gguf(tmp_path, Path(SOURCE), "float32")

    ids = tokenizer(PROMPT)["input_ids"]
    theirs = llama_cpp.Llama(str(tmp_path / GGUF), n_ctx=512, verbose=False)
    theirs.eval(ids)
    said = []
    for _ in range(NEW_TOKENS):
        said.append(theirs.sample(temp=0.0))
        theirs.eval(said[-1:])
    ours = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False)[0, len(ids) :]
    assert said == ours.tolist()

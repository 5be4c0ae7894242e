# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""C++ that finds no memory raises an error in Python and does not end the process, which then works on."""

import os
import subprocess
import sys

import pytest


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space")

# One function of a library runs while all memory is taken: what is free, by blocks that are never written, and more of
# it by a limit. The last line is what became of that, and whether the same call gives the same as before afterwards.
PROGRAM = """
import ctypes, functools, resource, sys, torch
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
from rwkv7_world.kernels.cpu import decode as cpu_decode, fused, linear, prefill, wkv7

LARGEST, SMALLEST, MOST = 1 << 30, 1 << 11, 1 << 20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
blocks = (ctypes.c_void_p * MOST)()
unlimited = resource.getrlimit(resource.RLIMIT_AS)


def starved(function, *arguments):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, unlimited[1]))
    count, size = 0, LARGEST
    while size >= SMALLEST:
        block = libc.malloc(size)
        if block:
            blocks[count] = block
            count += 1
        else:
            size //= 2
    try:
        return function(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)
        for index in range(count):
            libc.free(blocks[index])


torch.manual_seed(0)
torch.set_num_threads(1)
config = RWKV7Config(vocab_size=64, hidden_size=1024, num_hidden_layers=1, head_dim=64, intermediate_size=2048)
model = RWKV7ForCausalLM(config).eval()
ids = torch.arange(8 * 32).reshape(8, 32) % 64


def decode():
    cache = model(ids[:, :1], use_cache=True).cache
    return model(ids[:, 1:2], cache=cache).logits


def prompt():
    return model(ids).logits


def padded():
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return model(ids, attention_mask=mask).logits


def train():
    model.zero_grad()
    with torch.enable_grad():
        model(ids, labels=ids).loss.backward()
    return model.model.layers[0].attn.k_proj.weight.grad


def multiply():
    return linear.product(torch.ones(8, 1024), model.lm_head.weight)


call, module, name = sys.argv[1:]
call, module = globals()[call], globals()[module]
library = getattr(module, "library", None) or module._library
with torch.no_grad():
    expected = call().clone()
    function = getattr(library(), name)
    setattr(library(), name, functools.partial(starved, function))
    try:
        call()
        error = "none"
    except Exception as raised:
        error = type(raised).__name__
    setattr(library(), name, function)
    print(error, torch.equal(call(), expected))
"""


@pytest.mark.parametrize(
    ("call", "module", "name", "errors"),
    [
        ("decode", "cpu_decode", "decode_token", ["MemoryError"]),
        ("multiply", "linear", "linear_few_rows", ["MemoryError"]),
        ("prompt", "prefill", "prefill", ["MemoryError", "RuntimeError"]),  # the latter is torch's
        ("padded", "fused", "mix_tokens", ["MemoryError"]),
        ("train", "wkv7", "wkv7_backward", ["MemoryError"]),
    ],
)
def test_a_call_without_memory_raises(call, module, name, errors):
    command = [sys.executable, "-c", PROGRAM, call, module, name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(3):  # other threads of the process may be the ones that find no memory, and they cannot say so
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        if run.returncode == 0:
            break
    assert run.returncode == 0, (run.returncode, run.stderr[-2000:])
    error, is_same_afterwards = run.stdout.split()
    assert error in errors
    assert is_same_afterwards == "True"

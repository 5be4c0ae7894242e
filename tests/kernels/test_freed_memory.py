# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory that a prompt frees is used again by the next, unless the user wants otherwise."""

import os
import subprocess
import sys

import pytest


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")

# Pages that the system had to make during forward passes of a model that runs already
PROGRAM = """
import resource, torch
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
from rwkv7_world.kernels.freed_memory import keep_freed_memory

model = RWKV7ForCausalLM(RWKV7Config(vocab_size=64, hidden_size=256, num_hidden_layers=4)).eval()
ids = torch.zeros(1, 2048, dtype=torch.long)
with torch.no_grad():
    for _ in range(3):
        model(ids, use_cache=False, logits_to_keep=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        model(ids, use_cache=False, logits_to_keep=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, int(keep_freed_memory()))
"""

# Whether glibc takes less than `LARGEST_BLOCK` from its heap: after the import, after training, after inference
SETTING = """
import ctypes, torch

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def is_from_heap():
    before = libc.mallinfo2().hblks  # blocks that the system gave one by one
    libc.malloc(31 << 20)
    return int(libc.mallinfo2().hblks == before)

from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
imported = is_from_heap()
model = RWKV7ForCausalLM(RWKV7Config(vocab_size=64, hidden_size=64, num_hidden_layers=1)).eval()
ids = torch.zeros(1, 64, dtype=torch.long)
model(ids, labels=ids).loss.backward()
trained = is_from_heap()
with torch.no_grad():
    model(ids)
print(imported, trained, is_from_heap())
"""


def pages_made(**environment: str) -> tuple[int, bool]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    pages, kept = map(int, run.stdout.split())
    return pages, bool(kept)


def test_pages_are_made_anew_only_where_that_is_asked_for():
    kept, done = pages_made()
    returned, done_anyway = pages_made(RWKV7_KEEP_FREED_MEMORY="0")
    assert done and not done_anyway
    assert kept < returned / 4


def test_neither_import_nor_training_changes_the_allocator_of_the_process():
    run = subprocess.run([sys.executable, "-c", SETTING], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "0", "1"]


@pytest.mark.parametrize(
    "name, value", [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072")]
)
def test_settings_of_the_user_are_left_alone(name, value):
    assert not pages_made(**{name: value})[1]

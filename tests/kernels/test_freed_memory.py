# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory that a prompt frees is used again by the next, unless the user wants otherwise."""

import os
import subprocess
import sys

import pytest


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")

# Whether glibc takes less than `LARGEST_BLOCK` from its heap and lets the heap stay as large as it was when that is
# freed: after the import, after training, after inference. How many pages a forward pass makes anew depends on what
# happens to lie at the end of the heap, so the allocator itself is asked.
PROGRAM = """
import ctypes, torch

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = MallInfo
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]

def keeps_what_is_freed():
    mapped = libc.mallinfo2().hblks  # blocks that the system gave one by one
    block = libc.malloc(31 << 20)
    if libc.mallinfo2().hblks > mapped:
        return 0  # and not freed, which would move glibc's own threshold
    heap = libc.mallinfo2().arena
    libc.free(block)
    return int(libc.mallinfo2().arena == heap)

from rwkv7_world import RWKV7Config, RWKV7ForCausalLM
imported = keeps_what_is_freed()
model = RWKV7ForCausalLM(RWKV7Config(vocab_size=64, hidden_size=64, num_hidden_layers=1)).eval()
ids = torch.zeros(1, 64, dtype=torch.long)
model(ids, labels=ids).loss.backward()
trained = keeps_what_is_freed()
with torch.no_grad():
    model(ids)
print(imported, trained, keeps_what_is_freed())
"""


def kept_after_import_training_and_inference(**environment: str) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return run.stdout.split()


def test_inference_alone_changes_the_allocator_of_the_process():
    assert kept_after_import_training_and_inference() == ["0", "0", "1"]


@pytest.mark.parametrize(
    "name, value",
    [
        ("RWKV7_KEEP_FREED_MEMORY", "0"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=131072"),
    ],
)
def test_settings_of_the_user_are_left_alone(name, value):
    assert kept_after_import_training_and_inference(**{name: value}) == ["0", "0", "0"]

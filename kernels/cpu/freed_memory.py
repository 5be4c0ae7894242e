# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Keeps glibc from handing the memory of every intermediate result back to the system.

Those of a prompt are megabytes each. By default glibc returns such memory when it is freed, and the next layer has to
have every page of it made and cleared anew: a fifth of the time of a float32 prompt.
"""

import ctypes
import functools
import os
import sys


VARIABLE = "RWKV7_KEEP_FREED_MEMORY"  # 0 leaves glibc as it is
LARGEST_BLOCK = 32 << 20  # bytes; the most that glibc takes from its heap
MOST_KEPT = 256 << 20  # bytes of freed memory that stay with the process

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from malloc.h
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


@functools.cache
def keep_freed_memory() -> bool:
    """Lets up to `MOST_KEPT` bytes of freed memory stay with the process, which is what then happens to all of it.

    Whoever has set glibc's own variables is left alone, as are other systems and libraries without `mallopt`.

    Returns:
        Whether it was done.
    """
    if os.environ.get(VARIABLE) == "0" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, LARGEST_BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, MOST_KEPT))

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The tests of the Triton kernels in Triton's interpreter, on the CPU, in a process of their own.

The interpreter is chosen when Triton is imported, by an environment variable that the other tests must not see.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("name", ["test_wkv7_triton.py", "test_fused_triton.py"])
def test_kernels_are_right_in_the_interpreter(name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(name))]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    last_line = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 0 and "skipped" not in last_line, result.stdout[-4000:] + result.stderr[-1000:]

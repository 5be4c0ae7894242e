# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The tests that need torchao and bitsandbytes, in a process of their own that sees them.

transformers and PEFT import these wherever they find them, and torchao writes to stderr: other tests are not to see
them (`APART-test` in the Makefile).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.clean_environment import APART


TESTS = Path(__file__).parent
WITH_THEM = ("modeling/test_foreign_quantizers.py", "adapters/test_attach.py::TestFewBits::test_lora_on_bitsandbytes")


@pytest.mark.skipif(not APART.is_dir(), reason=f"torchao and bitsandbytes are not in {APART}")
def test_models_quantised_by_others_answer_and_learn():
    paths = [str(APART), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(TESTS / name) for name in WITH_THEM),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    last_line = result.stdout.strip().splitlines()[-1]
    assert result.returncode == 0 and "skipped" not in last_line, result.stdout[-4000:] + result.stderr[-1000:]

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Functions that `torch.compile` is to call once are marked as torch marks them."""

import torch

from rwkv7_world.kernels.constant_results import assume_constant_result


def test_it_marks_as_torch_does():
    ours, torchs = assume_constant_result(lambda: 0), torch.compiler.assume_constant_result(lambda: 0)
    assert vars(ours) == vars(torchs) != {}

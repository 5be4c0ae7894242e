# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Marks functions that `torch.compile` calls once, without importing torch's compiler, which takes over a second."""

from collections.abc import Callable


def assume_constant_result(function: Callable) -> Callable:
    """As `torch.compiler.assume_constant_result`, for functions that are asked in every process, compiled or not."""
    function._dynamo_marked_constant = True
    return function

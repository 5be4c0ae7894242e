# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of RWKV-7 in your hand: files, forks and mixtures (`states`), and features of it (`statistics`)."""

from .states import (
    as_initial_state,
    fingerprint,
    fork_state,
    interpolate_states,
    is_same_model,
    load_state,
    load_trained_state,
    save_state,
    select_rows,
    stack_states,
    state_from_blinkdl,
    state_size,
    state_to_blinkdl,
)
from .statistics import StateStatistics


__all__ = [
    "StateStatistics",
    "as_initial_state",
    "fingerprint",
    "fork_state",
    "interpolate_states",
    "is_same_model",
    "load_state",
    "load_trained_state",
    "save_state",
    "select_rows",
    "stack_states",
    "state_from_blinkdl",
    "state_size",
    "state_to_blinkdl",
]

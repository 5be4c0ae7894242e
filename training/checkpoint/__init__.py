# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: atomic, exchanged between kinds of machines, and its last model."""

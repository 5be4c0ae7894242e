# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Scoring: metrics as modules of the library `evaluate`, and benchmarks."""

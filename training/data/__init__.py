# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Data of every format as rows of conversations or text, see [`formats`]."""

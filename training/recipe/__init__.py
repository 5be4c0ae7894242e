# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A run in one file: its keys, their types and ranges (`recipe`), and the Python it may name (`hooks`)."""

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets as others wrote them: what training and evaluation both read."""

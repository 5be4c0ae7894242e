# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What data sets look like: rows of conversations or text of every format (`formats`), and files of records."""

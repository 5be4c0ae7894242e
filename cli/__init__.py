# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The `rwkv7-world` command: `main` reads the command line, every sub-command has a file of its own."""

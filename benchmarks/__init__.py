# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory, side by side with others; never a pass or fail."""

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A thin layer over the Trainer of transformers: batches, losses, parameter groups, scores."""

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning and pre-training: recipes, data, and a thin layer over the Trainer of transformers."""

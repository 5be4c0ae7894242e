# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What several processes have to agree on: numbers of batches, modalities, gradients."""

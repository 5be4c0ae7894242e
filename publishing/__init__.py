# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Models, adapters and trained states onto the Hugging Face Hub, checked and described."""

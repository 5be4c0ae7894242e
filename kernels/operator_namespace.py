# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The namespace of our custom operators in torch.

Each copy of the code in a process, as saved models carry them, has its own: an operator that is registered a second
time replaces the first, whose holders would call nothing.
"""

import re


NAMESPACE = re.sub(r"\W", "_", __package__.removesuffix(".kernels"), flags=re.ASCII)

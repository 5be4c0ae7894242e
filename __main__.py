# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m rwkv7_world`: the command, where its script is not on the path."""

import sys

from .cli.main import main


sys.exit(main())

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishes a folder on the Hugging Face Hub: `python hub_upload.py FOLDER REPO`, the same as `rwkv7-world upload`."""

import sys

from rwkv7_world.cli.main import main


if __name__ == "__main__":
    sys.exit(main(["upload", *sys.argv[1:]]))

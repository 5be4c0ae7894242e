#!/usr/bin/env bash
# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0 and 5.24.0 with Pillow 13.0.0: `load_image` ends with a bare `convert("RGB")`.
#   * A gray PNG of 16 bits becomes white but for its 256 darkest of 65536 levels: 128 * 257 is read as 255, not 128.
#   * Transparency is dropped, so that whatever color lies under it is seen (black, as drawing programs save it), though
#     `convert_to_rgb` of the same release composes it on white.
# Seen: "16-bit gray 128 -> 255, transparent -> 0, convert_to_rgb -> 255". Exits with 1 once that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.23.0 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version" pillow==13.0.0 numpy
    seen=$(cd "$folder" && "$folder/$version/bin/python" - 2>/dev/null <<'PYTHON'
import numpy as np
from PIL import Image
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image

Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save("deep.png")
Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save("transparent.png")
deep, transparent = (np.asarray(load_image(f"{name}.png")).max() for name in ("deep", "transparent"))
composed = convert_to_rgb(Image.open("transparent.png"), return_numpy=True).min()
print(f"16-bit gray 128 -> {deep}, transparent -> {transparent}, convert_to_rgb -> {composed}")
PYTHON
    )
    echo "transformers $version: $seen"
    [ "$seen" = "16-bit gray 128 -> 255, transparent -> 0, convert_to_rgb -> 255" ]
done

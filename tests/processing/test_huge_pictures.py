# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of 20000 x 20000 pixels: refused alike from files and from memory, before anything is made of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.composites import random_image, tiny_processor


TESTS = Path(__file__).parents[1]
IMAGE = "<|image_pad|>"
MOST = 30e6  # bytes; a copy in RGB would be 1.2e9

# Prints for every picture how much the peak of memory grew, and what was said
MEASURE = f"""
import json, sys
import numpy, torch
from PIL import Image
from helpers.composites import tiny_processor
from rwkv7_world.training.trainer.throughput import peak_memory

processor, side, cpu = tiny_processor("siglip", sees=sys.argv[1]), 20_000, torch.device("cpu")
processor(text={IMAGE!r}, images=Image.new("RGB", (30, 30)))
sources = {{
    "file": lambda: sys.argv[2],
    "bytes": lambda: open(sys.argv[2], "rb").read(),
    "array": lambda: numpy.zeros((side, side, 3), dtype=numpy.uint8),
    "tensor": lambda: torch.zeros(1).expand(3, side, side),
    "gray": lambda: Image.new("L", (side, side), 7),
}}
for name, make in sources.items():
    source = make()
    before = peak_memory(cpu)
    try:
        processor(text={IMAGE!r}, images=source)
        said = "nothing"
    except ValueError as error:
        said = str(error)
    print(json.dumps([name, peak_memory(cpu) - before, said]))
"""


@pytest.mark.parametrize("sees", ["siglip", "tiles"])
def test_a_huge_picture_is_refused_before_it_takes_memory(sees, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, sees, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    what = f"more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS"
    for name, grown, said in map(json.loads, run.stdout.splitlines()):
        source = path if name == "file" else "A picture in memory"
        assert said == f"{source}: not a picture that can be read ({what})"
        assert grown < MOST, name


def test_the_limit_is_that_of_pillow_and_can_be_lifted(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    processor, array = tiny_processor("siglip"), np.zeros((10, 11, 3), dtype=np.uint8)
    for source in (array, array.transpose(2, 0, 1), array[..., 0], Image.fromarray(array)):
        with pytest.raises(ValueError, match="more than 100 pixels"):
            processor(text=IMAGE, images=source)
    processor(text=IMAGE, images=np.zeros((10, 10, 3), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    processor(text=IMAGE, images=random_image())

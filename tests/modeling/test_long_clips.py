# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Hours of sound: memory grows with the samples alone, by a few copies of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile


TESTS = Path(__file__).parents[1]
RATE, MINUTES = 8_000, (4, 12)  # four minutes are what the encoder takes at a time
# Samples as the encoder takes them: 16,000 a second in float32. Three hours are 0.7 GB
BYTES_A_MINUTE = 60 * 16_000 * 4
MOST_COPIES = 8

# Prints for every file the peak of memory after it, how many features it made, and whether the model could read it
MEASURE = """
import json, sys
import torch
from helpers.composites import tiny_composite, tiny_processor
from rwkv7_world.training.trainer.throughput import peak_memory

processor, model = tiny_processor(None, "wavlm"), tiny_composite(None, "wavlm")
for path in sys.argv[1:]:
    conversation = [{"role": "user", "content": [{"type": "audio", "path": path}]}]
    inputs = processor.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs, use_cache=True, logits_to_keep=1).logits
    tokens = int((inputs["input_ids"] == processor.audio_token_id).sum())
    print(json.dumps([peak_memory(torch.device("cpu")), tokens, bool(logits.isfinite().all())]))
"""


def test_memory_grows_by_a_few_copies_of_the_samples(tmp_path):
    paths = [tmp_path / f"{minutes}.flac" for minutes in MINUTES]
    for path, minutes in zip(paths, MINUTES, strict=True):
        samples = np.random.default_rng(0).standard_normal(minutes * 60 * RATE) * 0.1
        soundfile.write(path, samples.astype(np.float32), RATE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    (first, tokens, _), (last, many_tokens, is_finite) = map(json.loads, run.stdout.splitlines())
    assert is_finite and many_tokens * MINUTES[0] == MINUTES[1] * tokens  # windows of a minute
    assert last - first < MOST_COPIES * (MINUTES[1] - MINUTES[0]) * BYTES_A_MINUTE

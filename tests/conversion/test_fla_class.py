# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A folder that we save loads in flash-linear-attention's own class, with the same logits.

Where there is no GPU its kernels run in Triton's interpreter, in a process of their own. Needs `pip install --no-deps
flash-linear-attention fla-core einops`.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from helpers.text_models import random_ids, randomize
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fla") is None, reason="flash-linear-attention is not installed"
)

# The interpreter has no device to time configurations on, so the first has to do
PROGRAM = """
import json, sys, torch, triton.runtime.autotuner as autotuner

make = autotuner.Autotuner.__init__
autotuner.Autotuner.__init__ = lambda self, fn, names, configs, *args, **kwargs: make(
    self, fn, names, configs[:1], *args, **kwargs)
autotuner.Autotuner._bench = lambda self, *args, **kwargs: [1.0] * 3
from fla.models import RWKV7ForCausalLM

folder, ids = sys.argv[1], torch.tensor(json.loads(sys.argv[2]))
with torch.no_grad():
    print(json.dumps(RWKV7ForCausalLM.from_pretrained(folder).eval()(ids, use_cache=False).logits.tolist()))
"""


@pytest.mark.parametrize("hidden_size, layers", [(128, 2), (192, 3)])
def test_logits_of_their_class_are_ours(hidden_size, layers, tmp_path):
    ranks = {"decay_low_rank_dim": 24, "a_low_rank_dim": 40, "v_low_rank_dim": 8, "gate_low_rank_dim": 56}
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": layers, "intermediate_size": 320}
    model = RWKV7ForCausalLM(RWKV7Config(vocab_size=37, **sizes, **ranks)).eval()
    randomize(model, seed=layers)
    model.save_pretrained(tmp_path)
    ids = random_ids(1, 12)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(ids.tolist())]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(json.loads(run.stdout.splitlines()[-1])), model(ids).logits, atol=1e-4, rtol=0
        )

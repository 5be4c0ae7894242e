# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Beside a class of transformers' own of the model type `rwkv7`: folders go to whom their configuration names.

The native class is a stand-in, written for these tests with the names and the layout of the one proposed for
transformers; what it computes does not matter here. Each test is a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from helpers.blinkdl import Sizes, random_checkpoint
from helpers.layouts import write_layout
from helpers.text_models import tiny_model


pytestmark = pytest.mark.skipif("rwkv7" in CONFIG_MAPPING_NAMES, reason="transformers has a class of its own")

SIZES = Sizes(vocab=70)

# A module `transformers.models.rwkv7` as transformers would ship it, registered as its own models are
NATIVE = """
import sys, types, torch, transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import configuration_auto, modeling_auto

class Rwkv7Config(PreTrainedConfig):
    model_type = "rwkv7"

class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.ln1 = nn.LayerNorm(size)

class Rwkv7Model(PreTrainedModel):
    config_class = Rwkv7Config
    base_model_prefix = "rwkv7"
    _keys_to_ignore_on_load_unexpected = [r"blocks", r"ln_out", r"head"]
    def __init__(self, config):
        super().__init__(config)
        self.emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList([Block(config.hidden_size) for _ in range(config.num_hidden_layers)])
        self.post_init()

class Rwkv7ForCausalLM(PreTrainedModel):
    config_class = Rwkv7Config
    base_model_prefix = "rwkv7"
    _keys_to_ignore_on_load_unexpected = [r"att\\.", r"ffn\\.", r"ln"]
    def __init__(self, config):
        super().__init__(config)
        self.rwkv7 = Rwkv7Model(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

for name, members in {
    "rwkv7": [Rwkv7Config, Rwkv7Model, Rwkv7ForCausalLM],
    "rwkv7.configuration_rwkv7": [Rwkv7Config],
    "rwkv7.modeling_rwkv7": [Rwkv7Model, Rwkv7ForCausalLM],
}.items():
    module = types.ModuleType(f"transformers.models.{name}")
    module.__path__ = []
    for member in members:
        member.__module__ = f"transformers.models.{name}"
        setattr(module, member.__name__, member)
    sys.modules[module.__name__] = module
transformers.models.rwkv7 = sys.modules["transformers.models.rwkv7"]
configuration_auto.CONFIG_MAPPING_NAMES["rwkv7"] = "Rwkv7Config"
modeling_auto.MODEL_MAPPING_NAMES["rwkv7"] = "Rwkv7Model"
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["rwkv7"] = "Rwkv7ForCausalLM"
for mapping in (modeling_auto.MODEL_MAPPING, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING):
    mapping._reverse_config_mapping["Rwkv7Config"] = "rwkv7"

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, logging
logging.set_verbosity_error()

def kind(model):
    return type(model).__module__.split(".")[0] + "." + type(model).__name__
"""


def run(program: str, *arguments: object) -> list[str]:
    """What a program prints in a process where transformers has the native class."""
    command = [sys.executable, "-c", NATIVE + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "official", "official", random_checkpoint(SIZES), SIZES)


def test_the_stand_in_is_found_as_transformers_own_classes_are(official):
    kinds = run("print(kind(AutoModelForCausalLM.from_pretrained(sys.argv[1])))", official)
    assert kinds == ["transformers.Rwkv7ForCausalLM"]


def test_our_import_leaves_official_folders_to_the_native_class(official, tmp_path):
    program = """
import rwkv7_world
for auto_class in (AutoModel, AutoModelForCausalLM):
    model = auto_class.from_pretrained(sys.argv[1])
    print(kind(model))
assert torch.equal(model.head.weight, rwkv7_world.RWKV7ForCausalLM.from_pretrained(sys.argv[1]).lm_head.weight)
model.save_pretrained(sys.argv[2])
print(kind(AutoModelForCausalLM.from_pretrained(sys.argv[2])))
print(AutoConfig.from_pretrained(sys.argv[1]).__class__.__module__)
"""
    assert run(program, official, tmp_path / "saved") == [
        "transformers.Rwkv7Model",
        "transformers.Rwkv7ForCausalLM",
        "transformers.Rwkv7ForCausalLM",
        "transformers.models.rwkv7.configuration_rwkv7",
    ]


def test_every_other_folder_is_ours(tmp_path):
    folders = [write_layout(tmp_path / layout, layout, random_checkpoint(SIZES), SIZES) for layout in ("fla", "Goose")]
    program = """
import rwkv7_world
for folder in sys.argv[1:]:
    print(kind(AutoModelForCausalLM.from_pretrained(folder)))
"""
    assert run(program, *folders) == ["rwkv7_world.RWKV7ForCausalLM"] * 2


def test_who_asks_for_our_class_gets_it(official, tmp_path):
    program = """
from rwkv7_world import RWKV7ForCausalLM, RWKV7Config
from rwkv7_world.cli.main import main
model = RWKV7ForCausalLM.from_pretrained(sys.argv[1])
print(kind(model), type(RWKV7Config.from_pretrained(sys.argv[1])).__name__)
model.save_pretrained(sys.argv[2])
print(kind(AutoModelForCausalLM.from_pretrained(sys.argv[2])))
main(["info", sys.argv[1]])
"""
    printed = run(program, official, tmp_path / "saved")
    assert printed[:3] == ["rwkv7_world.RWKV7ForCausalLM", "RWKV7Config", "rwkv7_world.RWKV7ForCausalLM"]
    assert printed[3:6] == ["model", "rwkv7,", "2"]


def test_saved_folders_load_by_their_own_code(tmp_path):
    """Without this package, and beside the native class, which keeps its own folders."""
    tiny_model().save_pretrained(tmp_path / "ours")
    official = write_layout(tmp_path / "official", "official", random_checkpoint(SIZES), SIZES)
    program = """
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
print(kind(AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)))
print(kind(AutoModelForCausalLM.from_pretrained(sys.argv[2])))
"""
    config = json.loads((official / "config.json").read_text())
    del config["auto_map"]
    (official / "config.json").write_text(json.dumps(config))
    assert run(program, tmp_path / "ours", official) == [
        "transformers_modules.RWKV7ForCausalLM",
        "transformers.Rwkv7ForCausalLM",
    ]

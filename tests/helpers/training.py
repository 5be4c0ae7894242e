# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny data sets and recipes, and runs of `rwkv7-world train`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from helpers import composites
from rwkv7_world import RWKV7Config, RWKV7ForCausalLM, RWKVWorldForConditionalGeneration


COLORS = ("red", "green", "blue", "white")
PACKAGE_PARENT = Path(__file__).parents[3]
QUIET_TRAINER = {"report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "use_cpu": True}


def save_text_model(folder: Path) -> Path:
    """A tiny text model with the official initialisation, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = composites.tiny_tokenizer()
    config = composites.tiny_config().text_config
    RWKV7ForCausalLM(RWKV7Config(**config.to_dict())).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_composite(folder: Path, vision: str | None = "siglip", audio: str | None = None) -> Path:
    """A tiny composite with the official initialisation, and its processor."""
    torch.manual_seed(0)
    RWKVWorldForConditionalGeneration(composites.tiny_config(vision, audio)).save_pretrained(folder)
    composites.tiny_processor(vision, audio).save_pretrained(folder)
    return folder


def write_llava(folder: Path, rows: int = 16) -> Path:
    """Pictures of one color each, and LLaVA's records that ask for it."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(rows):
        color = COLORS[index % len(COLORS)]
        Image.new("RGB", (24, 24), color).save(folder / f"{index}.png")
        turns = [{"from": "human", "value": "<image>\nwhat"}, {"from": "gpt", "value": color}]
        records.append({"id": index, "image": f"{index}.png", "conversations": turns})
    path = folder / "records.json"
    path.write_text(json.dumps(records))
    return path


def write_text(path: Path, rows: int = 40) -> Path:
    """Lines of a few words."""
    path.write_text("".join(f"the red circle {index} is {COLORS[index % len(COLORS)]}\n" for index in range(rows)))
    return path


def write_recipe(path: Path, trainer: dict | None = None, **content) -> Path:
    """A recipe with a quiet trainer."""
    path.write_text(yaml.safe_dump({**content, "trainer": {**QUIET_TRAINER, **(trainer or {})}}, sort_keys=False))
    return path


def start_command(*argv: str | Path, **kwargs) -> subprocess.Popen:
    """Starts `rwkv7-world` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "rwkv7_world.cli.main", *map(str, argv)], env=environment, **kwargs)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a saved model."""
    return load_file(folder / "model.safetensors")


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that are not the same bit for bit."""
    assert first.keys() == second.keys()
    return {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}

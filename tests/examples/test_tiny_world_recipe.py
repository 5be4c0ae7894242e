# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny World's recipe: its curriculum, its heads beside the model, and a few steps of it."""

import sys
from pathlib import Path

import datasets
import pytest
from safetensors.torch import load_file

from helpers.training import QUIET_TRAINER
from rwkv7_world.training.auxiliary import WithAuxiliaryLoss
from rwkv7_world.training.run import run_recipe


pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")
TINY_WORLD = Path(__file__).parents[2] / "examples" / "tiny_world"
sys.path.insert(0, str(TINY_WORLD))

import curriculum  # noqa: E402
import make_data  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The training sets, small."""
    folder = tmp_path_factory.mktemp("data")
    rows = {
        "speech_train": [make_data.speech_row((seed, False)) for seed in range(40)],
        "scenes_train": [make_data.scene_row(task) for task in make_data.scene_tasks(range(40), False)],
    }
    for name, members in rows.items():
        datasets.Dataset.from_list(members).save_to_disk(folder / name)
    return folder


def test_curriculum_begins_with_what_is_easy_and_takes_kinds_in_turn(data):
    rows = curriculum.read_curriculum(str(data), samples=600, block=5)
    kinds = ["audio" in rows[index] for index in range(20)]
    assert kinds == [True] * 5 + [False] * 5 + [True] * 5 + [False] * 5
    difficulties = [difficulty for rows_of_kind in rows.sets for difficulty in rows_of_kind["difficulty"]]
    early = {rows[index]["difficulty"] for index in range(30)}
    late = {rows[index]["difficulty"] for index in range(200, 600)}
    assert early == {1} and max(late) == max(difficulties)
    pictures = [row for row in (rows[index] for index in range(600)) if "caption" in row]
    captions = sum(row["answers"] == [row["caption"]] for row in pictures)
    assert 0.2 < captions / len(pictures) < 0.4


def test_folder_without_data_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder that make_data.py wrote"):
        curriculum.read_curriculum(str(tmp_path), samples=4, block=2)


def test_recipe_trains_model_and_heads_and_saves_the_model_alone(data, tmp_path):
    changes = {**{f"trainer.{key}": str(value).lower() for key, value in QUIET_TRAINER.items()}}
    changes |= {"output_dir": tmp_path / "run", "data.0.path": data, "data.0.options.samples": 64}
    changes |= {"data.0.options.block": 4, "trainer.per_device_train_batch_size": 4, "trainer.max_steps": 8}
    changes |= {"trainer.logging_steps": 1, "trainer.warmup_steps": 1, "trainer.save_strategy": "no"}
    trainer = run_recipe(TINY_WORLD / "recipe.yaml", tuple(f"{key}={value}" for key, value in changes.items()))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert isinstance(trainer.model, WithAuxiliaryLoss)
    shipped = load_file(TINY_WORLD / "checkpoint" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in saved.items()} == {n: t.shape for n, t in shipped.items()}

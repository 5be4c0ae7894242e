# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One global batch on one process and on two: the same losses, checkpoints that each loads of the other."""

from pathlib import Path

import pytest

from helpers.global_batches import (
    ADAPTER,
    BATCH,
    STEPS,
    assert_same_weights,
    begin_from,
    job,
    load,
    logged,
    make_recipe,
    prepare,
)
from helpers.many_processes import CONFIGS, launch
from helpers.training import differing
from rwkv7_world.training.run import run_recipe


VARIANTS = {
    "plain": {},
    "chunks": {"chunk_length": 6, "detach_state": False, "gradient_accumulation_steps": 2},
    "adapter": {"chunk_length": 6, "detach_state": False},
    "truncated": {"chunk_length": 6, "loss_reduction": "sample"},
    "mixed": {"train_sampling_strategy": "sequential"},
    "mixed chunks": {"train_sampling_strategy": "sequential", "chunk_length": 7, "detach_state": False},
    "micro-batches": {"loss_reduction": "micro_batch"},
    "stream": {},
}
WITH_ADAPTER = ("adapter", "truncated")
DATA = {"mixed": "media/media.jsonl", "mixed chunks": "media/media.jsonl", "stream": "texts"}


def make(folder: Path, variant: str) -> str:
    adapter = ADAPTER if variant in WITH_ADAPTER else None
    return make_recipe(folder, variant, VARIANTS[variant], adapter, DATA.get(variant, "chat.jsonl"))


def run(folder: Path, variant: str, out: Path, resume: bool = False, processes: int = 1) -> dict:
    """A job of a variant; only the means of micro-batches change with their size."""
    micro_batch = BATCH // 2 if variant == "micro-batches" else None
    return job(str(folder / f"{variant}.yaml"), out, resume, processes, micro_batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each variant run on one process."""
    folder = prepare(tmp_path_factory.mktemp("processes"))
    for variant in VARIANTS:
        make(folder, variant)
        run_recipe(**run(folder, variant, folder / "one" / variant))
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, folder) -> Path:
    """Each variant run on two processes, and gone on with on two from a checkpoint of one."""
    out, jobs = folder / request.param, []
    for variant in VARIANTS:
        jobs.append(run(folder, variant, out / variant, processes=2))
        resumed = begin_from(folder / "one" / variant, out / f"{variant}-of-one")
        jobs.append(run(folder, variant, resumed, resume=True, processes=2))
    launch(request.param, jobs)
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_evaluation_are_those_of_one_process(folder, two, variant):
    one = folder / "one" / variant
    scores = () if variant == "stream" else ("eval_exact_match",)
    for key in ("loss", "eval_loss", *scores):
        values = logged(one, key)
        assert values
        assert logged(two / variant, key) == pytest.approx(values, rel=1e-3), key
    # A process may already have met a bad row of the next step when it counts
    assert logged(two / variant, "skipped_rows")[-1] == logged(one, "skipped_rows")[-1] > 0
    if scores:
        assert predictions(two / variant) == predictions(one)
    assert_same_weights(one, two / variant)


def predictions(out: Path) -> list[str]:
    return sorted((out / "predictions" / f"eval-step-{STEPS}.jsonl").read_text().splitlines())


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_go_on_from_a_checkpoint_of_one(folder, two, variant):
    assert_same_weights(folder / "one" / variant, two / f"{variant}-of-one")


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_process_goes_on_from_a_checkpoint_of_two(folder, two, variant, tmp_path):
    resumed = begin_from(two / variant, tmp_path / variant)
    run_recipe(**run(folder, variant, resumed, resume=True))
    assert_same_weights(folder / "one" / variant, resumed)


def test_resumed_processes_end_with_the_same_weights_bit_for_bit(folder, two):
    variants = ("plain", "stream")
    again = {variant: begin_from(two / variant, two / f"{variant}-again") for variant in variants}
    launch(two.name, [run(folder, variant, out, resume=True, processes=2) for variant, out in again.items()])
    for variant in variants:
        assert not differing(load(two / variant), load(again[variant]))


def test_sharded_towers_learn_from_batches_of_which_one_process_has_nothing(folder, tmp_path):
    recipe = make_recipe(folder, "pictures", {}, data="media/pictures.jsonl")
    one, two = tmp_path / "one", tmp_path / "two"
    run_recipe(**job(recipe, one))
    config = tmp_path / "towers.yaml"
    config.write_text((CONFIGS / "fsdp2.yaml").read_text().replace("RWKV7Block", "RWKV7Block,SiglipEncoderLayer"))
    launch(config, [job(recipe, two, processes=2)])
    for key in ("loss", "eval_loss"):
        assert logged(two, key) == pytest.approx(logged(one, key), rel=1e-3), key
    assert predictions(two) == predictions(one)
    assert_same_weights(one, two)

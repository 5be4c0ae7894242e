# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""One global batch on one process and on two: the same losses, checkpoints that each loads of the other."""

from pathlib import Path

import pytest

from helpers.global_batches import ADAPTER, STEPS, assert_same_weights, begin_from, job, logged, make_recipe, prepare
from helpers.many_processes import launch
from rwkv7_world.training.run import run_recipe


VARIANTS = {
    "plain": {},
    "chunks": {"chunk_length": 6, "detach_state": False, "gradient_accumulation_steps": 2},
    "adapter": {"chunk_length": 6, "detach_state": False},
    "truncated": {"chunk_length": 6},
    "mixed": {"train_sampling_strategy": "sequential"},
    "mixed chunks": {"train_sampling_strategy": "sequential", "chunk_length": 7, "detach_state": False},
}
WITH_ADAPTER, WITH_MEDIA = ("adapter", "truncated"), ("mixed", "mixed chunks")


def make(folder: Path, variant: str) -> str:
    adapter = ADAPTER if variant in WITH_ADAPTER else None
    return make_recipe(folder, variant, VARIANTS[variant], adapter, has_media=variant in WITH_MEDIA)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Each variant run on one process."""
    folder = prepare(tmp_path_factory.mktemp("processes"))
    for variant in VARIANTS:
        run_recipe(**job(make(folder, variant), folder / "one" / variant))
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def two(request, folder) -> Path:
    """Each variant run on two processes, and gone on with on two from a checkpoint of one."""
    out, jobs = folder / request.param, []
    for variant in VARIANTS:
        recipe = str(folder / f"{variant}.yaml")
        jobs.append(job(recipe, out / variant, processes=2))
        resumed = begin_from(folder / "one" / variant, out / f"{variant}-of-one")
        jobs.append(job(recipe, resumed, resume=True, processes=2))
    launch(request.param, jobs)
    return out


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_evaluation_are_those_of_one_process(folder, two, variant):
    one = folder / "one" / variant
    for key in ("loss", "eval_loss", "eval_exact_match"):
        values = logged(one, key)
        assert values
        assert logged(two / variant, key) == pytest.approx(values, rel=1e-3), key
    # A process may already have met a bad row of the next step when it counts
    assert logged(two / variant, "skipped_rows")[-1] == logged(one, "skipped_rows")[-1] > 0
    said, expected = ((out / "predictions" / f"eval-step-{STEPS}.jsonl").read_text() for out in (two / variant, one))
    assert sorted(said.splitlines()) == sorted(expected.splitlines())
    assert_same_weights(one, two / variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_go_on_from_a_checkpoint_of_one(folder, two, variant):
    assert_same_weights(folder / "one" / variant, two / f"{variant}-of-one")


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_process_goes_on_from_a_checkpoint_of_two(folder, two, variant, tmp_path):
    resumed = begin_from(two / variant, tmp_path / variant)
    run_recipe(**job(str(folder / f"{variant}.yaml"), resumed, resume=True))
    assert_same_weights(folder / "one" / variant, resumed)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`torch.onnx.export` takes the models as they are, with a cache as the tensors of its state."""

import copy
import logging

import numpy as np
import pytest
import torch
from torch.export import Dim, export

from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7Cache, register_cache_export_support


pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[{}, {"deep_embed_dim": 4}], ids=["RWKV-7", "RWKV-7a"])
def model(request):
    return tiny_model(**request.param).eval()


@pytest.fixture(scope="module")
def read(model):
    """A cache that has seen tokens, of a class that exporters know."""
    register_cache_export_support()
    with torch.no_grad():
        return model(random_ids(2, 5)).cache


def session_of(program, tmp_path) -> onnxruntime.InferenceSession:
    program.save(tmp_path / "model.onnx")
    return onnxruntime.InferenceSession(tmp_path / "model.onnx")


def run(session: onnxruntime.InferenceSession, *inputs: torch.Tensor) -> list[torch.Tensor]:
    names = [value.name for value in session.get_inputs()]
    return [torch.from_numpy(x) for x in session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})]


def assert_same(actual: list[torch.Tensor], logits: torch.Tensor, cache) -> None:
    for ours, expected in zip(actual, [logits, *cache.state_tensors()], strict=True):
        np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_a_step_with_the_state_in_and_out(model, read, tmp_path):
    token, cache = random_ids(2, 1, seed=1), copy.deepcopy(read)
    program = torch.onnx.export(model, (token,), kwargs={"cache": copy.deepcopy(read)}, verbose=False)
    outputs = run(session_of(program, tmp_path), token, *cache.state_tensors())
    assert_same(outputs, model(token, cache=cache).logits, cache)


@torch.no_grad()
def test_a_prompt_of_any_length_from_nothing(model, tmp_path):
    shapes = {"input_ids": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}
    program = torch.onnx.export(model, (random_ids(2, 9),), dynamic_shapes=shapes, verbose=False)
    session = session_of(program, tmp_path)
    for batch, time in ((1, 1), (1, 33), (3, 17)):
        ids = random_ids(batch, time, seed=time)
        expected = model(ids)
        assert_same(run(session, ids), expected.logits, expected.cache)


@torch.no_grad()
def test_an_exported_program_takes_a_cache_and_returns_one(model, read, tmp_path, caplog):
    # torch 2.13 means to log that it reads the class of the cache, with an argument too few
    caplog.set_level(logging.ERROR, "torch._export.serde.serialize")
    token = random_ids(2, 1, seed=1)
    program = export(model, (token,), {"cache": copy.deepcopy(read)})
    torch.export.save(program, tmp_path / "model.pt2")
    for exported in (program, torch.export.load(tmp_path / "model.pt2")):
        cache = copy.deepcopy(read)
        actual = exported.module()(token, cache=copy.deepcopy(read))
        expected = model(token, cache=cache)
        torch.testing.assert_close(actual.logits, expected.logits)
        for ours, theirs in zip(actual.cache.state_tensors(), cache.state_tensors(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_cache_made_again_from_its_tensors_is_the_same(read):
    tensors, structure = torch.utils._pytree.tree_flatten(read)
    again = torch.utils._pytree.tree_unflatten(tensors, structure)
    assert again.get_seq_length() == read.get_seq_length() == 5
    assert all(map(torch.equal, again.state_tensors(), read.state_tensors()))


def test_functions_that_torch_maps_over_arguments_take_caches_in_any_state(model, read):
    half = copy.deepcopy(read)
    del half.layers[1].recurrent_states[0]
    for cache in (RWKV7Cache(model.config), half, read):
        said = []
        torch.utils._pytree.tree_map(said.append, ([cache],))
        assert all(map(torch.equal, said, cache.state_tensors()))
        (again,) = torch.utils._pytree.tree_map(lambda x: x, [cache])
        assert len(again.state_tensors()) == len(cache.state_tensors())

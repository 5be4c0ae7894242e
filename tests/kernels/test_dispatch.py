# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What runs: every way into the model with every backend, as `kernels/dispatch.py` decides it, or its refusal."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rwkv7_world
from helpers.text_models import random_ids, tiny_model
from rwkv7_world.kernels import dispatch
from rwkv7_world.kernels.cpu import decode as cpu_decode
from rwkv7_world.kernels.cpu import prefill as cpu_prefill
from rwkv7_world.kernels.cpu import structs
from rwkv7_world.kernels.dispatch import Execution, choose_execution, execution_here, explain_backends
from rwkv7_world.kernels.native_library import NativeLibraryError


PACKAGE = Path(rwkv7_world.__file__).parent
HERE = {name for name, reason in explain_backends().items() if reason == "ok"}
MASK = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1, 1], [1] * 10])

needs_cpp = pytest.mark.skipif("cpu" not in HERE, reason="no C++ library")


def prompt(model):
    model(random_ids(2, 10))


def padded_prompt(model):
    model(random_ids(2, 10), attention_mask=MASK)


def one_token(model):
    cache = model(random_ids(1, 10), use_cache=True).cache
    RAN.clear()
    model(random_ids(1, 1), cache=cache)


def generate(model):
    model.generate(random_ids(1, 10), max_new_tokens=3, do_sample=False)


def training(model):
    ids = random_ids(2, 10)
    with torch.enable_grad():
        model(ids, labels=ids).loss.backward()


RAN: set[str] = set()  # names of what ran


@pytest.fixture
def ran(monkeypatch) -> set[str]:
    """Collects what runs: engines of the whole model, fused kernels of layers, operators of the recurrence."""
    RAN.clear()

    def watched(name, function):
        def call(*args, **kwargs):
            RAN.add(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(cpu_decode, "decode_token", watched("whole model", cpu_decode.decode_token))
    monkeypatch.setattr(cpu_prefill, "prefill", watched("whole model", cpu_prefill.prefill))
    for name, kernels in list(dispatch._LAYER_KERNELS.items()):
        fused = watched(f"fused {name}", kernels.time_mix)
        monkeypatch.setitem(dispatch._LAYER_KERNELS, name, kernels._replace(time_mix=fused))
    for name, operator in list(dispatch._PYTORCH_BACKENDS.items()):
        monkeypatch.setitem(dispatch._PYTORCH_BACKENDS, name, watched(f"wkv7 {name}", operator))
    for name, kernels in list(dispatch._OTHER_BACKENDS.items()):
        run = watched(f"wkv7 {name}", kernels.run)
        monkeypatch.setitem(dispatch._OTHER_BACKENDS, name, kernels._replace(run=run))
    return RAN


@pytest.mark.parametrize("backend", ["reference", "chunked", pytest.param("cpu", marks=needs_cpp)])
@pytest.mark.parametrize(
    "entry, in_cpp",
    [
        (prompt, "whole model"),
        (padded_prompt, "fused cpu"),
        (one_token, "whole model"),
        (generate, "whole model"),
        (training, "wkv7 cpu"),
    ],
)
@torch.no_grad()
def test_every_entry_runs_on_what_was_asked_for(entry, in_cpp, backend, ran, monkeypatch):
    model = tiny_model()
    monkeypatch.setenv("RWKV7_BACKEND", backend)
    entry(model)
    assert ran == {in_cpp if backend == "cpu" else f"wkv7 {backend}"}


@pytest.mark.parametrize("entry", [prompt, padded_prompt, one_token, generate, training])
@pytest.mark.parametrize("backend", ["triton", "cuda", "nonsense"])
@torch.no_grad()
def test_every_entry_refuses_what_cannot_run(entry, backend, ran, monkeypatch):
    if backend in HERE:
        pytest.skip("it can run here")
    model = tiny_model()
    with monkeypatch.context() as patch:
        if entry is one_token:  # the prompt may run, and the token after it may not
            cache = model(random_ids(1, 10), use_cache=True).cache
        patch.setenv("RWKV7_BACKEND", backend)
        ran.clear()
        with pytest.raises(ValueError, match=f"wkv7 backend '{backend}'"):
            model(random_ids(1, 1), cache=cache) if entry is one_token else entry(model)
    assert not ran


@needs_cpp
class TestChoice:
    HIDDEN = torch.zeros(1, 3, 64)

    def test_inference_on_a_cpu_is_for_cpp_and_training_for_pytorch(self):
        with torch.no_grad():
            assert choose_execution(self.HIDDEN, 32) == Execution("cpu", "cpu", True)
        assert choose_execution(self.HIDDEN, 32) == Execution("cpu", None, False)

    @torch.no_grad()
    def test_what_cpp_does_not_take_is_for_pytorch(self):
        assert choose_execution(self.HIDDEN.double(), 32) == Execution("chunked", None, False)
        assert choose_execution(self.HIDDEN, 8) == Execution("chunked", None, False)
        with torch.autocast("cpu", torch.bfloat16):
            assert choose_execution(self.HIDDEN, 32) == Execution("cpu", None, False)

    @torch.no_grad()
    def test_it_is_decided_once_in_a_forward_pass(self, monkeypatch):
        from rwkv7_world.modeling_rwkv7_world import token_layout

        calls = []
        decide = token_layout.choose_execution
        monkeypatch.setattr(token_layout, "choose_execution", lambda *args: calls.append(args) or decide(*args))
        model = tiny_model(num_hidden_layers=3)
        for options in ({}, {"attention_mask": MASK}):
            calls.clear()
            model(random_ids(2, 10), **options)
            assert len(calls) == 1

    def test_it_says_in_words_what_runs(self, monkeypatch):
        assert str(execution_here("cpu", torch.bfloat16, 64)).startswith("cpu (layers: C++, the whole model")
        monkeypatch.setenv("RWKV7_BACKEND", "chunked")
        assert str(execution_here("cpu", torch.float32, 64)) == "chunked (layers: PyTorch, layer by layer)"


def test_no_other_module_reads_the_variable():
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for folder in ("kernels", "modeling_rwkv7_world", "cli", "evaluation", "training", "benchmarks", "state")
        for path in (PACKAGE / folder).rglob("*.py")
        if 'environ.get("RWKV7_BACKEND' in (text := path.read_text()) or "environ.get(BACKEND_VARIABLE" in text
    }
    assert readers == {"kernels/dispatch.py"}


@pytest.mark.parametrize(
    "module",
    [
        *(f"kernels.{name}" for name in ("dispatch", "wkv7", "cpu.weight_table", "triton.fused", "cuda.wkv7")),
        *(f"modeling_rwkv7_world.{name}" for name in ("whole_model", "token_layout", "modeling_rwkv7")),
    ],
)
def test_a_module_of_the_core_may_be_imported_first(module):
    """So there is no circle, and the kernels know no model."""
    program = (
        "import importlib, sys, types\n"
        f"package = types.ModuleType('rwkv7_world'); package.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['rwkv7_world'] = package\n"
        f"importlib.import_module('rwkv7_world.{module}')\n"
        "print(*(name for name in sys.modules if 'modeling_rwkv7_world' in name))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
    assert module.startswith("modeling") or not run.stdout.split()


@needs_cpp
class TestSharedStructures:
    """One list of fields for Python and C++."""

    def test_a_library_of_another_layout_is_refused(self, monkeypatch):
        library = cpu_decode._library()
        structs.check_structures(library)
        model = type("Model", (ctypes.Structure,), {"_fields_": structs.Model._fields_[::-1]})
        monkeypatch.setitem(structs._STRUCTURES, "Model", model)
        with pytest.raises(NativeLibraryError, match="its structure Model has offsets and size"):
            structs.check_structures(library)

    def test_a_list_without_its_last_field_is_refused(self, monkeypatch):
        shorter = type("Rows", (ctypes.Structure,), {"_fields_": structs.Rows._fields_[:-1]})
        monkeypatch.setitem(structs._STRUCTURES, "Rows", shorter)
        with pytest.raises(NativeLibraryError, match="its structure "):
            structs.check_structures(cpu_decode._library())

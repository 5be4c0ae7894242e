# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The C++ backend of `wkv7`: its numbers against the definition in float64, and what runs where it cannot be built."""

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from helpers.wkv7_inputs import assert_equal, run_with_gradients, wkv7_inputs
from helpers.wkv7_kernels import HALF, KernelTests
from rwkv7_world.kernels import native_library
from rwkv7_world.kernels import wkv7 as wkv7_module
from rwkv7_world.kernels.cpu import wkv7 as wkv7_cpu
from rwkv7_world.kernels.native_library import CPP, NativeLibraryError
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend, wkv7


reason = wkv7_cpu.why_not_built()
needs_cpu = pytest.mark.skipif(reason is not None, reason=f"no C++ backend: {reason}")


def run(*inputs, backend="cpu", **kwargs):
    return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend=backend, **kwargs)


@needs_cpu
class TestKernels(KernelTests):
    TIMES = (5, 70)
    OPERATOR = wkv7_cpu._forward_op
    run = staticmethod(run)

    @pytest.mark.parametrize("head_dim", [16, 48, 64, 128])
    @pytest.mark.parametrize("time", [0, 1, 2, 31, 32, 33, 100])
    def test_float32_equals_the_definition(self, time, head_dim):
        self.assert_right(wkv7_inputs(2, time, 2, head_dim, seed=time, dtype=torch.float32))

    @pytest.mark.parametrize("head_dim", [32, 96, 256])
    def test_other_head_sizes_equal_the_definition(self, head_dim):
        self.assert_right(wkv7_inputs(1, 35, 1, head_dim, dtype=torch.float32))

    @pytest.mark.parametrize("log_decay", [-4.5, -80.0, -200.0])
    def test_stronger_decays_equals_the_definition(self, log_decay):
        self.assert_right(wkv7_inputs(1, 100, 2, 64, dtype=torch.float32, log_decay=log_decay))

    @pytest.mark.parametrize("dtype", HALF)
    def test_a_single_token_of_half_precision_equals_the_definition(self, dtype):
        self.test_half_precision_equals_the_definition_up_to_its_rounding(dtype, 1)

    def test_every_element_of_a_single_token_is_written(self, monkeypatch):
        self.test_every_element_of_the_outputs_is_written(1, monkeypatch)

    def test_a_masked_single_token_leaves_the_state_as_it_was(self):
        inputs = wkv7_inputs(2, 1, 2, 64, dtype=torch.float32)
        with torch.no_grad():
            y, state = run(*inputs, mask=torch.tensor([[False], [True]]))
        assert (y[0] == 0).all() and torch.equal(state[0], inputs[6][0])
        assert not torch.equal(state[1], inputs[6][1])

    @pytest.mark.parametrize("threads", [2, 5])
    @pytest.mark.parametrize("head_dim", [64, 128])
    def test_threads_that_share_a_head_give_the_same(self, threads, head_dim):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for heads in (1, 3):
                inputs = wkv7_inputs(1, 40, heads, head_dim, dtype=torch.float32)
                self.assert_right(inputs)
                assert_equal(run_with_gradients(run, inputs), run_with_gradients(run, inputs), 0)
        finally:
            torch.set_num_threads(before)

    def test_only_what_requires_gradients_gets_them(self):
        inputs = [x.detach() for x in wkv7_inputs(1, 20, 1, 64, dtype=torch.float32)]
        inputs[6].requires_grad_()  # state tuning
        y, _ = run(*inputs)
        (gradient,) = torch.autograd.grad(y.sum(), [inputs[6]])
        assert gradient.shape == inputs[6].shape


def special_numbers(dtype):
    """All 2^16 of them in float16 and bfloat16, as (batch, time, heads, 16)."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).view(1, -1, 64, 16)


@needs_cpu
@pytest.mark.parametrize("dtype", HALF)
def test_every_half_precision_number_is_read_and_written_as_it_is(dtype):
    v = special_numbers(dtype).transpose(1, 2).reshape(-1, 2, 1, 16)  # two tokens, so that tiles are used
    zero = torch.zeros_like(v)
    r, k = zero.clone(), zero.clone()
    r[..., 0] = k[..., 0] = 1
    w = torch.full_like(v, -math.inf)  # forgets the token before
    y, _ = wkv7(r, w, k, v, zero, zero, backend="cpu")
    finite = v[:, 0].isfinite()
    assert torch.equal(y[:, 0][finite], v[:, 0][finite])
    assert torch.equal(y[:, 0].isnan(), v[:, 0].isnan())
    assert torch.equal(y[:, 0].isinf(), v[:, 0].isinf())


@needs_cpu
@pytest.mark.parametrize("dtype", HALF)
def test_results_are_rounded_to_the_nearest_half_precision_number(dtype):
    v = torch.randn(4, 2, 8, 64, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(-8, 8).repeat(4)
    one = torch.zeros_like(v)
    one[..., 0] = 1
    zero = torch.zeros_like(v)
    y, _ = wkv7(one.to(dtype), zero - math.inf, one, v, zero, zero, backend="cpu")
    assert torch.equal(y, v.to(dtype))


@needs_cpu
def test_compiles_and_exports_without_a_break():
    inputs = wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)

    def call(*inputs):
        return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True)

    expected = run_with_gradients(call, inputs)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_equal(run_with_gradients(compiled, inputs), expected, 0)

    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return call(*inputs)

    plain = tuple(x.detach() for x in inputs)
    exported = torch.export.export(Module(), plain)
    assert any("wkv7_cpu" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*plain)[0], expected["y"])


# ----------------------------------------------------------------------------------------------------- choosing it


@needs_cpu
def test_is_the_default_for_what_it_takes_and_chunked_for_the_rest(monkeypatch):
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    assert explain_backends()["cpu"] == explain_backends()["chunked"] == explain_backends()["reference"] == "ok"
    good = torch.zeros(1, 2, 1, 64)
    for inputs in (good, good.bfloat16(), good.half(), torch.zeros(1, 0, 1, 16), torch.zeros(1, 1, 1, 256)):
        assert select_backend(inputs=inputs) == "cpu"
    others = (good.double(), good.to("meta"), torch.zeros(1, 2, 1, 24), torch.zeros(1, 2, 1, 272))
    for inputs in others:
        assert select_backend(inputs=inputs) == "chunked"
        with pytest.raises(ValueError, match="'cpu' cannot run: it (takes|runs)"):
            select_backend("cpu", inputs)
    monkeypatch.setenv("RWKV7_BACKEND", "reference")
    assert select_backend(inputs=good) == "reference"
    assert select_backend("cpu", good) == "cpu"


@pytest.fixture
def nothing_built(monkeypatch, tmp_path):
    """As in a new process with an empty cache."""
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    monkeypatch.delenv("RWKV7_BUILD", raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    for cached in (wkv7_cpu._library, wkv7_module._warn_of_missing):
        cached.cache_clear()
    yield tmp_path
    for cached in (wkv7_cpu._library, wkv7_module._warn_of_missing):
        cached.cache_clear()


def assert_falls_back(reason: str, warns: bool = True):
    """The default runs on `chunked` with one warning, and asking for `cpu` is refused with the reason."""
    inputs = [x.detach() for x in wkv7_inputs(1, 5, 1, 16, dtype=torch.float32)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            y, _ = run(*inputs, backend=None)
    assert torch.equal(y, run(*inputs, backend="chunked")[0])
    messages = [str(w.message) for w in caught if "wkv7" in str(w.message)]
    assert len(messages) == int(warns) and all(reason in m and "chunked" in m for m in messages)
    assert explain_backends()["cpu"] != "ok" and reason in explain_backends()["cpu"]
    with pytest.raises(ValueError, match="wkv7 backend 'cpu' cannot run") as error:
        run(*inputs)
    assert reason in str(error.value) and "\n" not in str(error.value)


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_runs_without_a_compiler(nothing_built, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert_falls_back("no C++ compiler: 'no-such-compiler' not found")


def test_runs_without_ninja(nothing_built, monkeypatch):
    which = native_library.shutil.which
    monkeypatch.setattr(native_library.shutil, "which", lambda name, **k: name != "ninja" and which("sh", **k) or None)
    assert_falls_back("pip install ninja")


def test_runs_with_a_compiler_that_fails(nothing_built, monkeypatch):
    broken = executable(nothing_built / "c++", "echo 'wkv7.cpp:1:1: error: out of order' >&2; exit 1")
    monkeypatch.setenv("CXX", broken)
    assert_falls_back("building failed")


def test_runs_with_a_compiler_that_hangs(nothing_built, monkeypatch):
    monkeypatch.setenv("CXX", executable(nothing_built / "c++", "sleep 60"))
    monkeypatch.setattr(native_library, "BUILD_SECONDS", 0.5)
    assert_falls_back("longer than 0.5 s")


def test_runs_while_another_process_never_finishes_building(nothing_built, monkeypatch):
    import fcntl

    monkeypatch.setattr(native_library, "CPP", CPP._replace(check=lambda: None))
    monkeypatch.setattr(native_library, "BUILD_SECONDS", 0.3)
    folder = nothing_built / "extensions" / f"rwkv7_wkv7_cpu_{native_library._fingerprint(wkv7_cpu.SOURCE, CPP)}"
    folder.mkdir(parents=True)
    with (folder / "building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert_falls_back("another process has been building")


def test_runs_with_a_cache_that_cannot_be_written(nothing_built, monkeypatch):
    monkeypatch.setattr(native_library, "CPP", CPP._replace(check=lambda: None))
    (nothing_built / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(nothing_built / "file" / "extensions"))
    assert_falls_back("set TORCH_EXTENSIONS_DIR")


def test_runs_with_a_library_that_cannot_be_loaded(nothing_built):
    folder = nothing_built / "extensions" / f"rwkv7_wkv7_cpu_{native_library._fingerprint(wkv7_cpu.SOURCE, CPP)}"
    folder.mkdir(parents=True)
    (folder / "rwkv7_wkv7_cpu.so").write_text("no library")
    assert_falls_back("cannot load")


def test_says_nothing_when_building_was_switched_off(nothing_built, monkeypatch):
    monkeypatch.setenv("RWKV7_BUILD", "0")
    assert_falls_back("RWKV7_BUILD=0", warns=False)


def test_an_unknown_system_is_named(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(NativeLibraryError, match="not on win32"):
        native_library.load_library("any", wkv7_cpu.SOURCE)


LOAD_IN_A_PROCESS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("native_library", sys.argv[1])
native_library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native_library)
print(native_library.load_library("both", Path(sys.argv[2]))._name)
"""
SMALL_SOURCE = '#include <ATen/Parallel.h>\nextern "C" int threads() { return at::get_num_threads(); }\n'


@needs_cpu
def test_two_processes_may_build_at_once(tmp_path):
    source = tmp_path / "small.cpp"
    source.write_text(SMALL_SOURCE)
    stale = tmp_path / "extensions" / f"both_{native_library._fingerprint(source, CPP)}" / "lock"
    stale.parent.mkdir(parents=True)
    stale.touch()  # as a builder of torch that was killed leaves it
    command = [sys.executable, "-c", LOAD_IN_A_PROCESS, native_library.__file__, str(source)]
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"), "RWKV7_BUILD": "1"}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] and Path(outputs[0][0].strip()).is_file()


def test_restored_sources_may_be_read_by_whom_the_umask_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(native_library, "SOURCES", {"wkv7.cpp": "// source"})
    before = os.umask(0o022)
    try:
        native_library._restore_sources(tmp_path)
    finally:
        os.umask(before)
    (file,) = tmp_path.iterdir()
    assert (file.name, file.read_text(), file.stat().st_mode & 0o777) == ("wkv7.cpp", "// source", 0o644)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The C++ backend of `wkv7`: its numbers against the definition in float64, and what runs where it cannot be built."""

import functools
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from helpers.wkv7_inputs import STRONGEST_LOG_DECAY, assert_equal, largest_difference, run_with_gradients, wkv7_inputs
from rwkv7_world.kernels import native_library, wkv7_cpu
from rwkv7_world.kernels import wkv7 as wkv7_module
from rwkv7_world.kernels.native_library import CPP, NativeLibraryError
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend, wkv7


FORWARD, GRADIENT = 1e-6, 1e-5  # of the largest number of each result
HALF = {torch.bfloat16: 1e-2, torch.float16: 2e-3}

reason = wkv7_cpu.why_not_built()
needs_cpu = pytest.mark.skipif(reason is not None, reason=f"no C++ backend: {reason}")


def run(*inputs, backend="cpu", **kwargs):
    return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend=backend, **kwargs)


def assert_right(inputs, forward=FORWARD, gradient=GRADIENT, **kwargs):
    """`cpu` on `inputs` against `reference` on the same numbers in float64."""
    actual = run_with_gradients(functools.partial(run, **kwargs), inputs)
    in_float64 = functools.partial(run, backend="reference", **kwargs)
    expected = run_with_gradients(in_float64, [x.detach().double() for x in inputs])
    outputs = ("y", "final_state")
    for names, tolerance in ((outputs, forward), (expected.keys() - outputs, gradient)):
        assert_equal({n: actual[n] for n in names}, {n: expected[n] for n in names}, tolerance)


@needs_cpu
@pytest.mark.parametrize("head_dim", [16, 48, 64, 128])
@pytest.mark.parametrize("time", [0, 1, 2, 31, 32, 33, 100])
def test_float32_equals_the_definition(time, head_dim):
    assert_right(wkv7_inputs(2, time, 2, head_dim, seed=time, dtype=torch.float32))


@needs_cpu
@pytest.mark.parametrize("head_dim", [32, 96, 256])
def test_other_head_sizes_equal_the_definition(head_dim):
    assert_right(wkv7_inputs(1, 35, 1, head_dim, dtype=torch.float32))


@needs_cpu
@pytest.mark.parametrize("log_decay", [STRONGEST_LOG_DECAY, -4.5, -80.0, -200.0, 0.0])
def test_any_strength_of_decay_equals_the_definition(log_decay):
    assert_right(wkv7_inputs(1, 100, 2, 64, dtype=torch.float32, log_decay=log_decay))


@needs_cpu
@pytest.mark.parametrize("time", [1, 40])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_equals_the_definition_up_to_its_rounding(dtype, time):
    assert_right(wkv7_inputs(2, time, 2, 64, dtype=dtype), forward=HALF[dtype], gradient=HALF[dtype])


@needs_cpu
@pytest.mark.parametrize("dtype", HALF)
def test_state_is_not_rounded_to_half_precision(dtype):
    inputs = wkv7_inputs(2, 40, 2, 64, dtype=dtype)
    expected = run(*(x.double() for x in inputs), backend="reference")[1]
    assert largest_difference(run(*inputs)[1], expected) < FORWARD


@needs_cpu
def test_every_input_may_have_its_own_dtype():
    inputs = wkv7_inputs(1, 20, 1, 64, dtype=torch.float32)
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float16, torch.bfloat16, torch.float64]
    inputs[:6] = [x.detach().to(d).requires_grad_() for x, d in zip(inputs[:6], dtypes, strict=True)]
    assert_right(inputs, forward=1e-2, gradient=1e-2)
    gradients = torch.autograd.grad(run(*inputs)[0].sum(), inputs)
    assert [g.dtype for g in gradients[:6]] == dtypes


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
def test_a_masked_token_leaves_no_trace_whatever_it_holds():
    mask = torch.ones(4, 70, dtype=torch.bool)
    mask[0, :40] = mask[1, 33:] = mask[2, 10:50] = mask[2, 60] = False
    mask[3] = False
    inputs = wkv7_inputs(4, 70, 2, 64, dtype=torch.float32)
    assert_right(inputs, mask=mask)
    clean = run_with_gradients(functools.partial(run, mask=mask), inputs)
    with torch.no_grad():
        for x in inputs[:6]:
            x[~mask] = math.nan
    dirty = run_with_gradients(functools.partial(run, mask=mask), inputs)
    assert_equal(dirty, clean, 0)
    assert torch.equal(dirty["final_state"][3], inputs[6][3])
    assert all((dirty[name][~mask] == 0).all() for name in ("y", *(f"gradient of {n}" for n in "rwkvab")))


@needs_cpu
def test_a_masked_single_token_leaves_the_state_as_it_was():
    inputs = wkv7_inputs(2, 1, 2, 64, dtype=torch.float32)
    with torch.no_grad():
        y, state = run(*inputs, mask=torch.tensor([[False], [True]]))
    assert (y[0] == 0).all() and torch.equal(state[0], inputs[6][0])
    assert not torch.equal(state[1], inputs[6][1])


@needs_cpu
@pytest.mark.parametrize("lengths", [[33, 0, 1, 66], [0, 5, 0], [1, 1, 1], [0], [0, 0], [32, 32, 1, 64]])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_equal_the_definition(lengths, masked):
    inputs = wkv7_inputs(1, sum(lengths), 2, 64, states=len(lengths), dtype=torch.float32)
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    mask = torch.arange(sum(lengths))[None] % 3 > 0 if masked else None
    assert_right(inputs, cu_seqlens=boundaries, mask=mask)


@needs_cpu
@pytest.mark.parametrize("poisoned", range(7))
def test_nan_in_one_row_does_not_reach_another(poisoned):
    inputs = wkv7_inputs(3, 40, 2, 64, dtype=torch.float32)
    clean = run_with_gradients(run, inputs)
    with torch.no_grad():
        inputs[poisoned][1] = math.nan
    dirty = run_with_gradients(run, inputs)
    assert dirty["y"][1].isnan().any()
    assert_equal({n: x[[0, 2]] for n, x in dirty.items()}, {n: x[[0, 2]] for n, x in clean.items()}, 0)


@needs_cpu
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_threads_that_share_a_head_give_the_same(threads, head_dim):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for heads in (1, 3):
            inputs = wkv7_inputs(1, 40, heads, head_dim, dtype=torch.float32)
            assert_right(inputs)
            assert_equal(run_with_gradients(run, inputs), run_with_gradients(run, inputs), 0)
    finally:
        torch.set_num_threads(before)


@needs_cpu
def test_results_with_and_without_gradients_are_the_same():
    inputs = wkv7_inputs(2, 70, 2, 64, dtype=torch.float32)
    y, state = run(*inputs)
    with torch.no_grad():
        y_alone, state_alone = run(*inputs)
    assert y.requires_grad and not y_alone.requires_grad
    assert torch.equal(y, y_alone) and torch.equal(state, state_alone)


@needs_cpu
@pytest.mark.parametrize("time", [1, 40])
def test_every_element_of_the_outputs_is_written(time, monkeypatch):
    inputs = wkv7_inputs(2, time, 2, 48, dtype=torch.float32)
    mask = torch.arange(2 * time).view(2, time) % 5 > 0
    calls = [functools.partial(run, mask=mask), run]
    clean = [run_with_gradients(call, inputs) for call in calls]
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(math.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(math.nan))
    for call, expected in zip(calls, clean, strict=True):
        assert_equal(run_with_gradients(call, inputs), expected, 0)


@needs_cpu
def test_inputs_of_any_strides_give_the_same():
    inputs = wkv7_inputs(2, 40, 3, 64, dtype=torch.float32)
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:6]]
    strided.append(inputs[6].detach().mT.contiguous().mT)
    assert not any(x.is_contiguous() for x in strided)
    y, state = run(*inputs)
    dy = torch.ones(()).expand(y.shape)
    expected = torch.autograd.grad((y, state), inputs, (dy, torch.ones_like(state)))
    strided = [x.requires_grad_() for x in strided]
    y_strided, state_strided = run(*strided)
    actual = torch.autograd.grad((y_strided, state_strided), strided, (dy, torch.ones_like(state)))
    assert all(map(torch.equal, (y_strided, state_strided, *actual), (y, state, *expected)))


@needs_cpu
@pytest.mark.parametrize("used", ["y", "state"])
def test_gradients_come_through_either_output_alone(used):
    inputs = wkv7_inputs(2, 33, 1, 64, dtype=torch.float32)

    def gradients(inputs, backend):
        y, state = run(*inputs, backend=backend)
        return torch.autograd.grad((y if used == "y" else state).square().sum(), inputs, materialize_grads=True)

    expected = gradients([x.detach().double().requires_grad_() for x in inputs], "reference")
    for actual, wanted in zip(gradients(inputs, "cpu"), expected, strict=True):
        assert largest_difference(actual, wanted) < GRADIENT


@needs_cpu
def test_only_what_requires_gradients_gets_them():
    inputs = [x.detach() for x in wkv7_inputs(1, 20, 1, 64, dtype=torch.float32)]
    inputs[6].requires_grad_()  # state tuning
    y, _ = run(*inputs)
    (gradient,) = torch.autograd.grad(y.sum(), [inputs[6]])
    assert gradient.shape == inputs[6].shape


@needs_cpu
@pytest.mark.parametrize("with_gradients", [False, True])
def test_passes_the_checks_of_torch_for_custom_operators(with_gradients):
    inputs = [x.requires_grad_(with_gradients) for x in wkv7_inputs(1, 35, 2, 16, dtype=torch.float32, states=2)]
    mask = torch.arange(35)[None] % 4 > 0
    torch.library.opcheck(
        wkv7_cpu._forward_op,
        (*inputs, mask, torch.tensor([0, 10, 35]), with_gradients),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


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
    broken = executable(nothing_built / "c++", "echo 'wkv7_cpu.cpp:1:1: error: out of order' >&2; exit 1")
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

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend of `wkv7`: its numbers against the definition in float64, that it compiles, and when it is chosen.

Its kernels run on the GPU where there is one, else on the CPU: the same source through a C++ compiler, with the
headers in `cuda_on_host` in place of CUDA's, which run the threads of a block in turn.
"""

import contextlib
import ctypes
import functools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.wkv7_inputs import (
    STRONGEST_LOG_DECAY,
    assert_equal,
    largest_difference,
    repeated_key_inputs,
    run_with_gradients,
    wkv7_inputs,
)
from rwkv7_world.kernels import native_library, wkv7_cuda
from rwkv7_world.kernels.native_library import find_nvcc
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend, wkv7


FORWARD, GRADIENT = 1e-6, 1e-5  # of the largest number of each result
HALF = {torch.bfloat16: 1e-2, torch.float16: 2e-3}
CAPABILITIES = [(8, 0), (9, 0)]

ON_GPU = wkv7_cuda.why_not_here() is None
DEVICE = "cuda" if ON_GPU else "cpu"
COMPILER = shutil.which(os.environ.get("CXX", "c++").split()[0])
needs_kernels = pytest.mark.skipif(
    not ON_GPU and (COMPILER is None or sys.platform != "linux"),
    reason="neither a GPU nor a C++ compiler on Linux",
)
needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="no nvcc")


@pytest.fixture(scope="module")
def host_library(tmp_path_factory) -> ctypes.CDLL:
    """The CUDA file as C++."""
    path = tmp_path_factory.mktemp("cuda_on_host") / "wkv7_cuda.so"
    headers = Path(__file__).with_name("cuda_on_host")
    flags = ["-O2", "-std=c++17", "-shared", "-fPIC", f"-I{headers}", "-x", "c++"]
    flags.append("-U_FORTIFY_SOURCE")  # takes jumps between the stacks of fibers for errors
    subprocess.run([COMPILER, *flags, str(wkv7_cuda.SOURCE), "-o", str(path)], check=True)
    return wkv7_cuda.prepare(ctypes.CDLL(str(path)))


@pytest.fixture
def kernels(request, monkeypatch):
    """Makes `run` run the kernels, on the GPU or on the CPU. The library."""
    if ON_GPU:
        return wkv7_cuda._library()
    library = request.getfixturevalue("host_library")
    monkeypatch.setattr(wkv7_cuda, "_library", lambda: library)
    monkeypatch.setattr(wkv7_cuda, "_stream", lambda device: 0)
    return library


def run(*inputs, mask=None, cu_seqlens=None):
    """The backend on tensors of the CPU, past the choice of backends, which knows nothing of kernels on the CPU."""
    inputs = [x if x is None else x.to(DEVICE) for x in (*inputs, mask, cu_seqlens)]
    return tuple(x.cpu() for x in wkv7_cuda.wkv7_cuda(*inputs))


def reference(*inputs, **kwargs):
    return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend="reference", **kwargs)


def assert_right(inputs, forward=FORWARD, gradient=GRADIENT, **kwargs):
    """`cuda` on `inputs` against `reference` on the same numbers in float64. Returns its results."""
    actual = run_with_gradients(functools.partial(run, **kwargs), inputs)
    in_float64 = functools.partial(reference, **kwargs)
    expected = run_with_gradients(in_float64, [x.detach().double() for x in inputs])
    outputs = ("y", "final_state")
    for names, tolerance in ((outputs, forward), (expected.keys() - outputs, gradient)):
        assert_equal({n: actual[n] for n in names}, {n: expected[n] for n in names}, tolerance)
    return actual


def float32_inputs(batch, time, heads, **kwargs):
    return wkv7_inputs(batch, time, heads, 64, dtype=torch.float32, **kwargs)


@needs_kernels
@pytest.mark.parametrize("time", [0, 1, 2, 14, 15, 16, 17, 37])
def test_float32_equals_the_definition(kernels, time):
    assert_right(float32_inputs(2, time, 2, seed=time))


@needs_kernels
@pytest.mark.parametrize("log_decay", [STRONGEST_LOG_DECAY, -4.5, -200.0, 0.0])
def test_any_strength_of_decay_equals_the_definition(kernels, log_decay):
    assert_right(float32_inputs(1, 40, 1, log_decay=log_decay))


@needs_kernels
def test_one_key_over_and_over_is_removed_without_loss(kernels):
    assert_right(repeated_key_inputs(1, 40, 1, 64))


@needs_kernels
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_equals_the_definition_up_to_its_rounding(kernels, dtype):
    inputs = wkv7_inputs(2, 18, 1, 64, dtype=dtype)
    actual = assert_right(inputs, forward=HALF[dtype], gradient=HALF[dtype])
    expected = reference(*(x.double() for x in inputs))[1]
    assert largest_difference(actual["final_state"], expected) < FORWARD  # the state is not rounded


@needs_kernels
def test_every_input_may_have_its_own_dtype(kernels):
    inputs = float32_inputs(1, 18, 1)
    dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float16, torch.bfloat16, torch.float64]
    inputs[:6] = [x.detach().to(d).requires_grad_() for x, d in zip(inputs[:6], dtypes, strict=True)]
    actual = assert_right(inputs, forward=1e-2, gradient=1e-2)
    assert [actual[f"gradient of {name}"].dtype for name in "rwkvab"] == dtypes


@needs_kernels
@pytest.mark.parametrize("time", [9, 37])
def test_a_masked_token_leaves_no_trace_whatever_it_holds(kernels, time):
    mask = torch.ones(4, time, dtype=torch.bool)
    mask[0, : time // 2] = mask[1, time // 3 :] = mask[2, 2:7] = mask[2, -2] = False
    mask[3] = False
    inputs = float32_inputs(4, time, 1)
    clean = assert_right(inputs, mask=mask)
    with torch.no_grad():
        for x in inputs[:6]:
            x[~mask] = math.nan
    dirty = run_with_gradients(functools.partial(run, mask=mask), inputs)
    assert_equal(dirty, clean, 0)
    assert torch.equal(dirty["final_state"][3], inputs[6][3])
    assert all((dirty[name][~mask] == 0).all() for name in ("y", *(f"gradient of {n}" for n in "rwkvab")))


@needs_kernels
@pytest.mark.parametrize("lengths", [[17, 0, 1, 20], [0, 5, 0], [1, 1, 1], [0], [0, 0], [15, 16, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_equal_the_definition(kernels, lengths, masked):
    inputs = float32_inputs(1, sum(lengths), 2, states=len(lengths))
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    mask = torch.arange(sum(lengths))[None] % 3 > 0 if masked else None
    assert_right(inputs, cu_seqlens=boundaries, mask=mask)


@needs_kernels
@pytest.mark.parametrize("poisoned", range(7))
def test_nan_in_one_row_does_not_reach_another(kernels, poisoned):
    inputs = float32_inputs(3, 5, 1)
    clean = run_with_gradients(run, inputs)
    with torch.no_grad():
        inputs[poisoned][1] = math.nan
    dirty = run_with_gradients(run, inputs)
    assert dirty["y"][1].isnan().any()
    assert_equal({n: x[[0, 2]] for n, x in dirty.items()}, {n: x[[0, 2]] for n, x in clean.items()}, 0)


@needs_kernels
def test_few_heads_and_many_give_the_same_bits(kernels, monkeypatch):
    inputs = float32_inputs(2, 20, 1)
    found = []
    for processors in (1, 1000):  # one block of threads a head, or four
        monkeypatch.setattr(wkv7_cuda, "num_processors", lambda device, n=processors: n)
        found.append(run_with_gradients(run, inputs))
    assert_equal(*found, 0)


@needs_kernels
def test_a_prompt_and_then_token_by_token_gives_the_bits_of_the_whole(kernels):
    inputs = [x.detach() for x in float32_inputs(1, 20, 2)]
    state, pieces = inputs[6], []
    for start, end in ((0, 17), (17, 18), (18, 20)):
        y, state = run(*(x[:, start:end] for x in inputs[:6]), state)
        pieces.append(y)
    assert all(map(torch.equal, (torch.cat(pieces, 1), state), run(*inputs)))


@needs_kernels
@pytest.mark.parametrize("time", [5, 20])
def test_results_do_not_depend_on_the_order_in_which_threads_run(kernels, time):
    inputs = float32_inputs(2, time, 2)
    expected = run_with_gradients(run, inputs)
    if ON_GPU:
        assert_equal(run_with_gradients(run, inputs), expected, 0)
        return
    reversed_order = ctypes.c_int.in_dll(kernels, "cuda_on_host_reversed")
    reversed_order.value = 1
    try:
        assert_equal(run_with_gradients(run, inputs), expected, 0)
    finally:
        reversed_order.value = 0


@needs_kernels
def test_no_initial_state_is_a_zero_state(kernels):
    inputs = [x.detach() for x in float32_inputs(2, 5, 1)]
    expected = run(*inputs[:6], torch.zeros_like(inputs[6]))
    assert all(map(torch.equal, run(*inputs[:6], None), expected))


@needs_kernels
@pytest.mark.parametrize("time", [5, 20])
def test_results_with_and_without_gradients_are_the_same(kernels, time):
    inputs = float32_inputs(2, time, 1)
    y, state = run(*inputs)
    with torch.no_grad():
        y_alone, state_alone = run(*inputs)
    assert y.requires_grad and not y_alone.requires_grad
    assert torch.equal(y, y_alone) and torch.equal(state, state_alone)


@needs_kernels
@pytest.mark.parametrize("time", [1, 20])
def test_every_element_of_the_outputs_is_written(kernels, time, monkeypatch):
    inputs = float32_inputs(2, time, 1)
    mask = torch.arange(2 * time).view(2, time) % 5 > 0
    calls = [functools.partial(run, mask=mask), run]
    clean = [run_with_gradients(call, inputs) for call in calls]
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(math.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(math.nan))
    for call, expected in zip(calls, clean, strict=True):
        assert_equal(run_with_gradients(call, inputs), expected, 0)


@needs_kernels
def test_inputs_of_any_strides_and_alignment_give_the_same(kernels):
    inputs = float32_inputs(2, 18, 2)

    def in_memory_of_any_kind(*inputs):
        strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:6]]
        strided.append(torch.cat([torch.zeros(1), inputs[6].flatten()])[1:].view(inputs[6].shape))
        assert not any(x.is_contiguous() for x in strided[:6]) and strided[6].data_ptr() % 16
        return run(*strided)

    assert_equal(run_with_gradients(in_memory_of_any_kind, inputs), run_with_gradients(run, inputs), 0)


@needs_kernels
@pytest.mark.parametrize("used", ["y", "state"])
def test_gradients_come_through_either_output_alone(kernels, used):
    inputs = float32_inputs(1, 18, 1)

    def gradients(inputs, function):
        y, state = function(*inputs)
        return torch.autograd.grad((y if used == "y" else state).square().sum(), inputs, materialize_grads=True)

    expected = gradients([x.detach().double().requires_grad_() for x in inputs], reference)
    for actual, wanted in zip(gradients(inputs, run), expected, strict=True):
        assert largest_difference(actual, wanted) < GRADIENT


@needs_kernels
@pytest.mark.parametrize("with_gradients", [False, True])
def test_passes_the_checks_of_torch_for_custom_operators(kernels, with_gradients):
    inputs = [x.detach().to(DEVICE).requires_grad_(with_gradients) for x in float32_inputs(1, 18, 1, states=2)]
    mask = (torch.arange(18)[None] % 4 > 0).to(DEVICE)
    torch.library.opcheck(
        wkv7_cuda._forward_op,
        (*inputs, mask, torch.tensor([0, 7, 18], device=DEVICE), with_gradients),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@needs_kernels
def test_compiles_without_a_break(kernels):
    inputs = [x.to(DEVICE) for x in float32_inputs(1, 5, 1)]
    compiled = torch.compile(wkv7_cuda.wkv7_cuda, fullgraph=True, backend="aot_eager")
    assert_equal(run_with_gradients(compiled, inputs), run_with_gradients(wkv7_cuda.wkv7_cuda, inputs), 0)


@needs_kernels
def test_an_error_of_the_launch_is_told(kernels, monkeypatch):
    monkeypatch.setattr(kernels, "wkv7_forward", lambda *_: 1)
    with pytest.raises(RuntimeError, match=f"wkv7_forward .* failed: {kernels.wkv7_error(1).decode()}"):
        run(*float32_inputs(1, 1, 1))


# ------------------------------------------------------------------------------------------------------- compiling it


@needs_nvcc
def test_compiles_for_gpus_without_spilling_registers(tmp_path):
    toolchain = native_library.cuda_toolchain(CAPABILITIES)
    command = toolchain.command("any", wkv7_cuda.SOURCE, tmp_path / "library.so")
    report = subprocess.run([*command, "-Xptxas", "-v"], check=True, capture_output=True, text=True).stderr
    pattern = r"entry function '\w*?(forward|backward)_kernel\w*' for 'sm_(\d+)'\n.*\n.* (\d+) bytes spill stores"
    kernels = ["forward", "forward", "backward"]
    assert sorted(re.findall(pattern, report)) == sorted((k, s, "0") for k in kernels for s in ("80", "90"))


# ------------------------------------------------------------------------------------------------------- choosing it


def on_gpu(dtype=torch.float32, head_dim=64):
    """All that the choice of a backend looks at."""
    return type("OnGPU", (), {"device": torch.device("cuda"), "dtype": dtype, "shape": (1, 2, 1, head_dim)})()


@pytest.fixture
def with_gpu(monkeypatch, tmp_path):
    """As in a new process with one GPU and an empty cache."""
    explain_backends()  # builds what else has to be built where it always is
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    monkeypatch.delenv("RWKV7_BUILD", raising=False)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITIES[1])
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    library = wkv7_cuda._library
    library.cache_clear()
    yield tmp_path
    library.cache_clear()


def assert_refused(reason: str):
    assert reason in explain_backends()["cuda"]
    with pytest.raises(ValueError, match="wkv7 backend 'cuda' cannot run") as error:
        select_backend("cuda", on_gpu())
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_what_it_does_not_take_is_refused_in_one_line():
    for inputs, reason in (
        (torch.zeros(1, 2, 1, 64), "it runs on NVIDIA GPUs, and the inputs are on cpu"),
        (on_gpu(torch.float64), "not torch.float64"),
        (on_gpu(head_dim=128), "heads of size 64, not 128"),
    ):
        with pytest.raises(ValueError, match=f"wkv7 backend 'cuda' cannot run: .*{reason}") as error:
            select_backend("cuda", inputs)
        assert "\n" not in str(error.value)


def test_runs_only_where_it_is_asked_for(with_gpu, monkeypatch):
    monkeypatch.setattr(wkv7_cuda, "_library", lambda: None)
    assert explain_backends()["cuda"] == "ok"
    assert select_backend(inputs=on_gpu()) != "cuda" and select_backend(inputs=torch.zeros(1, 2, 1, 64)) != "cuda"
    assert select_backend("cuda", on_gpu()) == "cuda"
    monkeypatch.setenv("RWKV7_BACKEND", "cuda")
    assert select_backend(inputs=on_gpu()) == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_there_is_no_gpu():
    assert_refused("there is no GPU")


def test_says_that_pytorch_is_not_built_for_cuda(with_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert_refused("this PyTorch is not built for CUDA")


def test_says_that_there_is_no_nvcc(with_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", str(with_gpu))
    assert_refused("no nvcc: not on PATH nor in CUDA_HOME")


def test_says_that_nvcc_fails(with_gpu, monkeypatch):
    nvcc = with_gpu / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho \"nvcc fatal: Unsupported gpu architecture '$10'\" >&2; exit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(with_gpu))
    assert_refused("building failed: nvcc fatal: Unsupported gpu architecture")


@needs_nvcc
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_is_built_and_loaded_and_says_that_the_driver_cannot_run_it(with_gpu):
    assert_refused("its kernels cannot run on GPU 0: ")
    assert list(with_gpu.glob("extensions/rwkv7_wkv7_cuda_*/rwkv7_wkv7_cuda.so"))

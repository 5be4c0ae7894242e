# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend of `wkv7`: its numbers against the definition in float64, that it compiles, and when it is chosen.

Its kernels run on the GPU where there is one, else on the CPU: the same source through a C++ compiler, with the
headers in `cuda_on_host` in place of CUDA's, which run the threads of a block in turn.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.wkv7_inputs import assert_equal, repeated_key_inputs, run_with_gradients, wkv7_inputs
from helpers.wkv7_kernels import KernelTests
from rwkv7_world.kernels import native_library
from rwkv7_world.kernels.cuda import wkv7 as wkv7_cuda
from rwkv7_world.kernels.native_library import find_nvcc
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend


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


def float32_inputs(batch, time, heads, **kwargs):
    return wkv7_inputs(batch, time, heads, 64, dtype=torch.float32, **kwargs)


@needs_kernels
@pytest.mark.usefixtures("kernels")
class TestKernels(KernelTests):
    TIMES, DEVICE = (5, 18), DEVICE
    OPERATOR = wkv7_cuda._forward_op
    run = staticmethod(run)

    @pytest.mark.parametrize("time", [0, 1, 2, 14, 15, 16, 17, 37])
    def test_float32_equals_the_definition(self, time):
        self.assert_right(float32_inputs(2, time, 2, seed=time))

    @pytest.mark.parametrize("log_decay", [-4.5, -200.0])
    def test_stronger_decays_equals_the_definition(self, log_decay):
        self.assert_right(float32_inputs(1, 40, 1, log_decay=log_decay))

    def test_one_key_over_and_over_is_removed_without_loss(self):
        self.assert_right(repeated_key_inputs(1, 40, 1, 64))

    def test_few_heads_and_many_give_the_same_bits(self, monkeypatch):
        inputs = float32_inputs(2, 20, 1)
        found = []
        for processors in (1, 1000):  # one block of threads a head, or four
            monkeypatch.setattr(wkv7_cuda, "num_processors", lambda device, n=processors: n)
            found.append(run_with_gradients(run, inputs))
        assert_equal(*found, 0)

    def test_a_prompt_and_then_token_by_token_gives_the_bits_of_the_whole(self):
        inputs = [x.detach() for x in float32_inputs(1, 20, 2)]
        state, pieces = inputs[6], []
        for start, end in ((0, 17), (17, 18), (18, 20)):
            y, state = run(*(x[:, start:end] for x in inputs[:6]), state)
            pieces.append(y)
        assert all(map(torch.equal, (torch.cat(pieces, 1), state), run(*inputs)))

    def test_results_do_not_depend_on_the_order_in_which_threads_run(self, kernels, time):
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

    def test_no_initial_state_is_a_zero_state(self):
        inputs = [x.detach() for x in float32_inputs(2, 5, 1)]
        expected = run(*inputs[:6], torch.zeros_like(inputs[6]))
        assert all(map(torch.equal, run(*inputs[:6], None), expected))

    def test_an_error_of_the_launch_is_told(self, kernels, monkeypatch):
        monkeypatch.setattr(kernels, "wkv7_forward", lambda *_: 1)
        with pytest.raises(RuntimeError, match=f"wkv7_forward .* failed: {kernels.wkv7_error(1).decode()}"):
            run(*float32_inputs(1, 1, 1))


@needs_kernels
def test_compiles_without_a_break(kernels):
    inputs = [x.to(DEVICE) for x in float32_inputs(1, 5, 1)]
    compiled = torch.compile(wkv7_cuda.wkv7_cuda, fullgraph=True, backend="aot_eager")
    assert_equal(run_with_gradients(compiled, inputs), run_with_gradients(wkv7_cuda.wkv7_cuda, inputs), 0)


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

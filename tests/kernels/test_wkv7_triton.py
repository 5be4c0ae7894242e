# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The Triton backend of `wkv7`: its numbers against the definition in float64, and when it is chosen.

What needs Triton's kernels runs where there is a GPU, and in Triton's interpreter (`test_triton_interpreter.py`).
"""

import subprocess
import sys

import pytest
import torch

from helpers.wkv7_inputs import assert_equal, repeated_key_inputs, run_with_gradients, wkv7_inputs
from helpers.wkv7_kernels import KernelTests
from rwkv7_world.kernels.triton import wkv7 as wkv7_triton
from rwkv7_world.kernels.wkv7 import explain_backends, select_backend, wkv7


reason = wkv7_triton.why_not_here()
needs_triton = pytest.mark.skipif(reason is not None, reason=f"no Triton backend: {reason}")
DEVICE = "cpu" if wkv7_triton.is_interpreted() or not torch.cuda.is_available() else "cuda"


def run(*inputs, **kwargs):
    """`wkv7` on tensors of the CPU, run where the kernels run."""
    r, w, k, v, a, b, state = (x.to(DEVICE) for x in inputs)
    kwargs = {name: x if x is None else x.to(DEVICE) for name, x in kwargs.items()}
    y, state = wkv7(r, w, k, v, a, b, initial_state=state, output_final_state=True, backend="triton", **kwargs)
    return y.cpu(), state.cpu()


@needs_triton
class TestKernels(KernelTests):
    HEAD_DIM, TIMES, DEVICE = 16, (5, 35), DEVICE  # the interpreter is slow
    STATE_TOLERANCE = 1e-3  # products of 16-bit inputs
    OPERATOR = wkv7_triton._forward_op
    run = staticmethod(run)

    @pytest.mark.parametrize("time", [0, 1, 2, 16, 17, 33])
    @pytest.mark.parametrize("head_dim", [16, 48, 64])
    def test_float32_equals_the_definition(self, time, head_dim):
        self.assert_right(wkv7_inputs(2, time, 1, head_dim, seed=time, dtype=torch.float32))

    @pytest.mark.parametrize("head_dim", [96, 128, 256])
    def test_wide_heads_equal_the_definition(self, head_dim):
        self.assert_right(wkv7_inputs(1, 18, 1, head_dim, dtype=torch.float32))

    @pytest.mark.parametrize("time", [5, 20])
    def test_heads_do_not_mix(self, time):
        self.assert_right(wkv7_inputs(1, time, 3, 16, dtype=torch.float32))

    def test_decays_far_stronger_than_those_of_rwkv_7_stay_finite(self):
        self.assert_right(wkv7_inputs(1, 40, 1, 16, dtype=torch.float32, log_decay=-4.5), gradient=1e-4)

    def test_one_key_over_and_over_is_removed_without_loss(self):
        self.assert_right(repeated_key_inputs(1, 40, 1, 64))

    @pytest.mark.parametrize("head_dim", [48, 64])
    def test_processors_that_share_a_head_give_the_same_every_time(self, head_dim, monkeypatch):
        inputs = wkv7_inputs(1, 20, 1, head_dim, dtype=torch.float32)
        monkeypatch.setattr(wkv7_triton, "num_processors", lambda device: 1000)
        assert wkv7_triton._num_value_blocks(inputs[0], None) == head_dim // 16
        self.assert_right(inputs)
        assert_equal(run_with_gradients(run, inputs), run_with_gradients(run, inputs), 0)

    def test_no_initial_state_is_a_zero_state(self):
        for time in (4, 20):
            inputs = [x.detach() for x in wkv7_inputs(2, time, 1, 16, dtype=torch.float32)]
            expected = run(*inputs[:6], torch.zeros_like(inputs[6]))
            y, state = wkv7(*(x.to(DEVICE) for x in inputs[:6]), output_final_state=True, backend="triton")
            assert torch.equal(y.cpu(), expected[0]) and torch.equal(state.cpu(), expected[1])


@needs_triton
def test_compiles_and_exports_without_a_break():
    inputs = [x.detach().to(DEVICE) for x in wkv7_inputs(1, 20, 1, 16, dtype=torch.float32)]

    def call(*inputs):
        return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend="triton")

    def gradients(function):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y, state = function(*leaves)
        return torch.autograd.grad(y.sum() + state.sum(), leaves)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, gradients(compiled), gradients(call)))

    class Module(torch.nn.Module):
        def forward(self, *inputs):
            return call(*inputs)

    exported = torch.export.export(Module(), tuple(inputs))
    assert any("wkv7_triton" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*inputs)[0], call(*inputs)[0])


# ----------------------------------------------------------------------------------------------------- choosing it


def test_inputs_on_the_cpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' cannot run: it runs on GPUs.* cpu .TRITON_INTERPRET=1") as error:
        select_backend("triton", torch.zeros(1, 2, 1, 64))
    assert "\n" not in str(error.value)


@needs_triton
def test_what_it_does_not_take_is_refused_by_name():
    good = torch.zeros(1, 2, 1, 64, device=DEVICE)
    assert select_backend("triton", good) == "triton"
    with pytest.raises(ValueError, match="not torch.float64"):
        select_backend("triton", good.double())
    for size in (24, 272):
        with pytest.raises(ValueError, match=f"head sizes from 16 to 256 in steps of 16, not {size}"):
            select_backend("triton", torch.zeros(1, 2, 1, size, device=DEVICE))


@pytest.mark.parametrize("here", [True, False])
def test_is_the_default_on_gpus_where_triton_is_installed(here, monkeypatch):
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    monkeypatch.setattr(wkv7_triton, "_import_error", lambda: None if here else "Triton cannot be imported (gone)")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = type("OnGPU", (), {"device": torch.device("cuda"), "dtype": torch.float32, "shape": (1, 2, 1, 64)})()
    assert select_backend(inputs=on_gpu) == ("triton" if here else "chunked")
    assert explain_backends()["triton"] == ("ok" if here else "Triton cannot be imported (gone)")
    assert select_backend(inputs=torch.zeros(1, 2, 1, 64)) != "triton"
    on_gpu.dtype = torch.float64
    assert select_backend(inputs=on_gpu) == "chunked"


def test_runs_without_triton():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from rwkv7_world.kernels.wkv7 import explain_backends, wkv7\n"
        "wkv7(*torch.zeros(6, 1, 20, 1, 16)); print(explain_backends()['triton'])"
    )
    assert "Triton cannot be imported" in subprocess.check_output([sys.executable, "-c", script], text=True)

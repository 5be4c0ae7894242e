# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What every kernel of `wkv7` has to get right, whatever it is written in: tests for a backend's class to inherit."""

import functools
import math
from collections.abc import Callable

import pytest
import torch

from rwkv7_world.kernels.wkv7 import wkv7

from .wkv7_inputs import STRONGEST_LOG_DECAY, assert_equal, largest_difference, run_with_gradients, wkv7_inputs


FORWARD, GRADIENT = 1e-6, 1e-5  # of the largest number of each result
HALF = {torch.bfloat16: 1e-2, torch.float16: 2e-3}


def reference(*inputs, **kwargs):
    return wkv7(*inputs[:6], initial_state=inputs[6], output_final_state=True, backend="reference", **kwargs)


class KernelTests:
    """A subclass says how its kernels run, and what sizes they are asked for.

    Attributes:
        HEAD_DIM: Of most tests.
        TIMES: Tokens, fewer and more than between two checkpoints.
        DEVICE: Where the kernels run.
        OPERATOR: The custom operator of the forward pass.
        STATE_TOLERANCE: Of the final state after inputs of half precision; it is not rounded to that.
    """

    HEAD_DIM = 64
    TIMES = (5, 40)
    DEVICE = "cpu"
    OPERATOR: Callable
    STATE_TOLERANCE = FORWARD

    def run(self, *inputs, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """`y` and the final state of r, w, k, v, a, b and a state, all on the CPU."""
        raise NotImplementedError

    @pytest.fixture(params=["short", "long"])
    def time(self, request) -> int:
        return self.TIMES[request.param == "long"]

    def inputs(self, batch: int, time: int, heads: int, head_dim: int | None = None, dtype=torch.float32, **kwargs):
        return wkv7_inputs(batch, time, heads, head_dim or self.HEAD_DIM, dtype=dtype, **kwargs)

    def results(self, inputs, **kwargs) -> dict[str, torch.Tensor]:
        return run_with_gradients(functools.partial(self.run, **kwargs), inputs)

    def assert_right(self, inputs, forward=FORWARD, gradient=GRADIENT, **kwargs) -> dict[str, torch.Tensor]:
        """The kernels on `inputs` against `reference` on the same numbers in float64. Returns their results."""
        actual = self.results(inputs, **kwargs)
        in_float64 = [x.detach().double() for x in inputs]
        expected = run_with_gradients(functools.partial(reference, **kwargs), in_float64)
        outputs = ("y", "final_state")
        for names, tolerance in ((outputs, forward), (expected.keys() - outputs, gradient)):
            assert_equal({n: actual[n] for n in names}, {n: expected[n] for n in names}, tolerance)
        return actual

    @pytest.mark.parametrize("log_decay", [STRONGEST_LOG_DECAY, 0.0])
    @pytest.mark.parametrize("dtype", [torch.float32, *HALF])
    def test_the_strongest_and_no_decay_equal_the_definition(self, log_decay, dtype):
        inputs = self.inputs(1, self.TIMES[1], 1, 64, dtype=dtype, log_decay=log_decay)
        self.assert_right(inputs, forward=HALF.get(dtype, FORWARD), gradient=HALF.get(dtype, GRADIENT))

    @pytest.mark.parametrize("dtype", HALF)
    def test_half_precision_equals_the_definition_up_to_its_rounding(self, dtype, time):
        inputs = self.inputs(2, time, 1, 64, dtype=dtype)
        actual = self.assert_right(inputs, forward=HALF[dtype], gradient=HALF[dtype])
        state = reference(*(x.double() for x in inputs))[1]
        assert largest_difference(actual["final_state"], state) < self.STATE_TOLERANCE

    def test_every_input_may_have_its_own_dtype(self):
        inputs = self.inputs(1, 20, 1)
        dtypes = [torch.bfloat16, torch.float32, torch.float16, torch.float16, torch.bfloat16, torch.float64]
        inputs[:6] = [x.detach().to(d).requires_grad_() for x, d in zip(inputs[:6], dtypes, strict=True)]
        actual = self.assert_right(inputs, forward=1e-2, gradient=1e-2)
        assert [actual[f"gradient of {name}"].dtype for name in "rwkvab"] == dtypes

    def test_a_masked_token_leaves_no_trace_whatever_it_holds(self, time):
        mask = torch.ones(4, time, dtype=torch.bool)
        mask[0, : time // 2] = mask[1, time // 3 :] = mask[2, 2 : time - 2] = mask[2, -1] = False
        mask[3] = False
        inputs = self.inputs(4, time, 1)
        clean = self.assert_right(inputs, mask=mask)
        with torch.no_grad():
            for x in inputs[:6]:
                x[~mask] = math.nan
        dirty = self.results(inputs, mask=mask)
        assert_equal(dirty, clean, 0)
        assert torch.equal(dirty["final_state"][3], inputs[6][3])
        assert all((dirty[name][~mask] == 0).all() for name in ("y", *(f"gradient of {n}" for n in "rwkvab")))

    @pytest.mark.parametrize("lengths", [[33, 0, 1, 20], [0, 5, 0], [1, 1, 1], [0], [0, 0], [32, 16, 1], [15, 17]])
    @pytest.mark.parametrize("masked", [False, True])
    def test_packed_sequences_equal_the_definition(self, lengths, masked):
        inputs = self.inputs(1, sum(lengths), 2, states=len(lengths))
        boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
        mask = torch.arange(sum(lengths))[None] % 3 > 0 if masked else None
        self.assert_right(inputs, cu_seqlens=boundaries, mask=mask)

    @pytest.mark.parametrize("poisoned", range(7))
    def test_nan_in_one_row_does_not_reach_another(self, poisoned, time):
        inputs = self.inputs(3, time, 1)
        clean = self.results(inputs)
        with torch.no_grad():
            inputs[poisoned][1] = math.nan
        dirty = self.results(inputs)
        assert dirty["y"][1].isnan().any()
        assert_equal({n: x[[0, 2]] for n, x in dirty.items()}, {n: x[[0, 2]] for n, x in clean.items()}, 0)

    def test_results_with_and_without_gradients_are_the_same(self, time):
        inputs = self.inputs(2, time, 1)
        y, state = self.run(*inputs)
        with torch.no_grad():
            y_alone, state_alone = self.run(*inputs)
        assert y.requires_grad and not y_alone.requires_grad
        assert torch.equal(y, y_alone) and torch.equal(state, state_alone)

    def test_every_element_of_the_outputs_is_written(self, time, monkeypatch):
        inputs = self.inputs(2, time, 1)
        mask = torch.arange(2 * time).view(2, time) % 5 > 0
        layouts = ({"mask": mask}, {})
        clean = [self.results(inputs, **layout) for layout in layouts]
        empty, empty_like = torch.empty, torch.empty_like
        monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(math.nan))
        monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(math.nan))
        for layout, expected in zip(layouts, clean, strict=True):
            assert_equal(self.results(inputs, **layout), expected, 0)

    def test_inputs_of_any_strides_and_alignment_give_the_same(self):
        inputs = self.inputs(2, 20, 2)

        def in_memory_of_any_kind(*inputs):
            strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:6]]
            strided.append(torch.cat([torch.zeros(1), inputs[6].mT.flatten()])[1:].view(inputs[6].shape).mT)
            assert not any(x.is_contiguous() for x in strided) and strided[6].data_ptr() % 16
            return self.run(*strided)

        assert_equal(run_with_gradients(in_memory_of_any_kind, inputs), self.results(inputs), 0)

    def test_a_gradient_of_equal_numbers_may_be_one_number_in_memory(self):
        inputs = self.inputs(2, 20, 1)

        def gradients(one):
            y, state = self.run(*inputs)
            return torch.autograd.grad((y, state), inputs, (one(y), one(state)))

        expanded = gradients(lambda x: torch.ones(()).expand(x.shape))
        assert all(map(torch.equal, expanded, gradients(torch.ones_like)))

    @pytest.mark.parametrize("used", ["y", "state"])
    def test_gradients_come_through_either_output_alone(self, used):
        inputs = self.inputs(2, self.TIMES[1], 1)

        def gradients(inputs, function):
            y, state = function(*inputs)
            return torch.autograd.grad((y if used == "y" else state).square().sum(), inputs, materialize_grads=True)

        expected = gradients([x.detach().double().requires_grad_() for x in inputs], reference)
        for actual, wanted in zip(gradients(inputs, self.run), expected, strict=True):
            assert largest_difference(actual, wanted) < GRADIENT

    @pytest.mark.parametrize("with_gradients", [False, True])
    def test_passes_the_checks_of_torch_for_custom_operators(self, with_gradients):
        inputs = [x.detach().to(self.DEVICE).requires_grad_(with_gradients) for x in self.inputs(1, 35, 2, states=2)]
        mask = (torch.arange(35)[None] % 4 > 0).to(self.DEVICE)
        torch.library.opcheck(
            type(self).OPERATOR,
            (*inputs, mask, torch.tensor([0, 10, 35], device=self.DEVICE), with_gradients),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )

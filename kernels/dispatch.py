# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The one seam: what runs a forward pass of RWKV-7.

Decided once per forward pass, by `choose_execution`, from the device, the dtype, what is built, what watches or traces
the pass, and the override `RWKV7_BACKEND`, which no other module reads. There are four answers:

* plain PyTorch, layer by layer, around the recurrence of a backend in PyTorch (`reference`, `chunked`, `scan`) or
  another (`cpu` where gradients are wanted, `cuda`);
* Triton's fused kernels, layer by layer, on a GPU;
* C++, layer by layer, in inference on a CPU;
* C++, the whole model in one call, where there is neither padding nor packing either.

Which product a single linear layer takes is another matter (`cpu/linear.py`): it gives the same whatever runs here.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from .constant_results import assume_constant_result
from .cpu import fused as cpu_fused
from .cpu import time_mix as cpu_time_mix
from .cpu import wkv7 as cpu
from .cpu.structs import DTYPES
from .cuda import wkv7 as cuda
from .guards import is_plain_inference, is_plain_tensor
from .native_library import build_is_switched_off
from .reference.wkv7_chunked import wkv7_chunked
from .reference.wkv7_loop import wkv7_reference
from .reference.wkv7_scan import wkv7_scan
from .triton import fused as triton_fused
from .triton import wkv7 as triton


BACKEND_VARIABLE = "RWKV7_BACKEND"

Operator = Callable[..., tuple[torch.Tensor, torch.Tensor]]

# A backend in PyTorch takes (r, w, k, v, a, b, state), all of one floating dtype of at least float32, inputs
# (B, T, H, N) and state (B, H, V, K), and returns (y, final state) in that dtype. `wkv7` sees to dtypes, masks and
# packing.
_PYTORCH_BACKENDS: dict[str, Operator] = {"chunked": wkv7_chunked, "reference": wkv7_reference, "scan": wkv7_scan}


class _Kernels(NamedTuple):
    """A backend in another language, which sees to everything itself. Where it cannot run it gives the reason."""

    run: Operator
    why_not_here: Callable[[], str | None]
    why_unsuitable: Callable[[torch.Tensor], str | None]


_OTHER_BACKENDS = {
    "cpu": _Kernels(cpu.wkv7_cpu, cpu.why_not_built, cpu.why_unsuitable),
    "triton": _Kernels(triton.wkv7_triton, triton.why_not_here, triton.why_unsuitable),
    "cuda": _Kernels(cuda.wkv7_cuda, cuda.why_not_here, cuda.why_unsuitable),
}
# For inputs on the CPU the fastest first; without `scan`, which nothing but an export to ONNX needs
_BACKENDS = ("cpu", "chunked", "reference", "triton", "cuda")


class LayerKernels(NamedTuple):
    """Fused kernels that stand in for what a layer does between its matrices.

    Attributes:
        mix_tokens: `x + (previous - x) * mix` for each of several mixes.
        time_mix: From the projections of a time mix to what its output matrix reads, see `cpu/time_mix.py`.
        squared_relu: `relu(x)^2`.
        shift_tokens: Whether `mix_tokens` also takes (batch, hidden) as `previous`, the token before each row.
    """

    mix_tokens: Callable[..., tuple[torch.Tensor, ...]]
    time_mix: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    squared_relu: Callable[[torch.Tensor], torch.Tensor]
    shift_tokens: bool


_LAYER_KERNELS = {
    "cpu": LayerKernels(cpu_fused.mix_tokens, cpu_time_mix.time_mix, cpu_fused.squared_relu, True),
    "triton": LayerKernels(triton_fused.mix_tokens, triton_fused.time_mix, triton_fused.squared_relu, False),
}


class Execution(NamedTuple):
    """What runs a forward pass.

    Attributes:
        backend: Of the recurrence, for `wkv7`.
        fused: Whose kernels stand in for what a layer does between its matrices, "cpu" or "triton"; `None` is PyTorch.
        may_run_whole_model: Whether C++ may run all layers in one call.
    """

    backend: str
    fused: str | None
    may_run_whole_model: bool

    def layer_kernels(self, hidden_states: torch.Tensor, *parameters: torch.Tensor) -> LayerKernels | None:
        """The fused kernels for a layer with these parameters, or `None`, where PyTorch has to run it.

        C++ reads memory, so it has to be that of plain tensors, and nothing may differentiate or trace the layer; an
        adapter, a quantiser or a hook may have come between since this was decided.
        """
        if self.fused != "cpu":
            return None if self.fused is None else _LAYER_KERNELS[self.fused]
        tensors = (hidden_states, *parameters)
        is_plain = is_plain_inference() and all(x.dtype in DTYPES and is_plain_tensor(x) for x in tensors)
        return _LAYER_KERNELS["cpu"] if is_plain else None

    def __str__(self) -> str:
        layers = "C++, the whole model in one call where nothing is padded or hooked"
        if not self.may_run_whole_model:
            layers = {None: "PyTorch", "cpu": "C++", "triton": "Triton"}[self.fused] + ", layer by layer"
        return f"{self.backend} (layers: {layers})"


def choose_execution(hidden_states: torch.Tensor, head_dim: int) -> Execution:
    """What runs a forward pass.

    Args:
        hidden_states: (batch, time, hidden), what enters the layers.
        head_dim: Of the recurrence; divides the hidden size.

    Raises:
        ValueError: If `RWKV7_BACKEND` names no backend, or one that cannot run here or on this.
    """
    backend = select_backend(inputs=hidden_states.unflatten(-1, (-1, head_dim)))
    if backend == "triton":
        return Execution(backend, "triton", may_run_whole_model=False)
    if backend != "cpu" or not is_plain_inference() or type(hidden_states) is not torch.Tensor:
        return Execution(backend, None, may_run_whole_model=False)
    return Execution(backend, None if cpu_fused.why_not_built() else "cpu", may_run_whole_model=True)


@contextlib.contextmanager
def override_backend(backend: str | None) -> Iterator[None]:
    """Lets `RWKV7_BACKEND` be `backend` meanwhile; `None` leaves it.

    Raises:
        ValueError: If no backend has that name, given here or by the variable, or it cannot run here.
    """
    before = os.environ.get(BACKEND_VARIABLE)
    select_backend(backend)
    os.environ[BACKEND_VARIABLE] = backend or before or ""
    try:
        yield
    finally:
        os.environ.pop(BACKEND_VARIABLE)
        if before is not None:
            os.environ[BACKEND_VARIABLE] = before


def execution_here(device: torch.device | str, dtype: torch.dtype, head_dim: int) -> Execution:
    """What would run inference of a model on a device, of a dtype and a head size.

    Raises:
        ValueError: As `choose_execution` does.
    """
    with torch.no_grad():
        return choose_execution(torch.empty(1, 1, head_dim, device=device, dtype=dtype), head_dim)


def explain_backends() -> dict[str, str]:
    """For each backend "ok", or why it cannot run here. Builds what has to be built, and imports Triton."""
    return {name: name in _OTHER_BACKENDS and _OTHER_BACKENDS[name].why_not_here() or "ok" for name in _BACKENDS}


def available_backends() -> list[str]:
    """Names of the backends that can run here, the default one on the CPU first. Builds what has to be built."""
    return [name for name, reason in explain_backends().items() if reason == "ok"]


def select_backend(backend: str | None = None, inputs: torch.Tensor | None = None) -> str:
    """Name of the backend that runs: the argument, else the environment variable `RWKV7_BACKEND`, else the default.

    The default is `triton` for inputs on a GPU, `cpu` for those on the CPU, and `chunked` elsewhere, for inputs that
    these do not take, and where Triton is not installed or `cpu` cannot be built. `cuda` runs only if asked for.
    While `torch.onnx.export` traces, `scan` runs whatever the variable says: ONNX knows none of the others, or no
    other length of them.

    Args:
        backend: Name of a backend.
        inputs: Any of the operator's inputs (batch, time, heads, head_dim); without, float32 on the CPU is assumed.

    Raises:
        ValueError: If no backend has that name, or the one asked for cannot run, here or on these inputs.
    """
    if not backend and torch.compiler.is_compiling() and _traces_for_onnx():
        return "scan"
    name = backend or os.environ.get(BACKEND_VARIABLE)
    if not name:
        return _default_backend(inputs)
    if name not in _BACKENDS and name not in _PYTORCH_BACKENDS:
        raise ValueError(f"Unknown wkv7 backend {name!r}; available here: {', '.join(available_backends())}.")
    if (kernels := _OTHER_BACKENDS.get(name)) is not None:
        reason = inputs is not None and kernels.why_unsuitable(inputs) or kernels.why_not_here()
        if reason:
            raise ValueError(f"wkv7 backend {name!r} cannot run: {reason}.")
    return name


def _default_backend(inputs: torch.Tensor | None) -> str:
    if inputs is not None and inputs.device.type == "cuda":
        return "chunked" if triton.why_unsuitable(inputs) or triton.why_not_here() else "triton"
    unsuitable = inputs is not None and cpu.why_unsuitable(inputs)
    return "chunked" if unsuitable or _cpu_is_missing() else "cpu"


@assume_constant_result
def _traces_for_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


@assume_constant_result
def _cpu_is_missing() -> bool:
    """Whether the default has to do without `cpu`. Says so once, unless building was switched off on purpose."""
    reason = cpu.why_not_built()
    if reason and not build_is_switched_off():
        _warn_of_missing(reason)
    return reason is not None


@functools.cache
def _warn_of_missing(reason: str) -> None:
    warnings.warn(
        f"The fast CPU backend of wkv7 is not available, the slower `chunked` runs instead: {reason}. "
        "RWKV7_BUILD=0 silences this.",
        RuntimeWarning,
        stacklevel=5,
    )


def operator_of(backend: str) -> tuple[Operator, bool]:
    """The recurrence of a backend, and whether it sees to dtypes, masks and packing itself."""
    if (kernels := _OTHER_BACKENDS.get(backend)) is not None:
        return kernels.run, True
    return _PYTORCH_BACKENDS[backend], False

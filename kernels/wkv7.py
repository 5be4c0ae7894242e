# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The recurrent core of RWKV-7 as one function, whatever backend runs it.

For every head, with the state `S` of shape (value, key), the operator computes

    S_t = S_{t-1} diag(exp(w_t)) + (S_{t-1} a_t) b_t^T + v_t k_t^T        y_t = S_t r_t

which is equation (WKV) of "RWKV-7 Goose with Expressive Dynamic State Evolution" (arXiv 2503.14456), where the model
passes `a = -kk` and `b = kk * in_context_learning_rate`.
"""

import functools
import os
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch

from .constant_results import assume_constant_result
from .cpu import wkv7 as wkv7_cpu
from .cuda import wkv7 as wkv7_cuda
from .native_library import build_is_switched_off
from .reference.wkv7_chunked import wkv7_chunked
from .reference.wkv7_loop import wkv7_reference
from .reference.wkv7_scan import wkv7_scan
from .triton import wkv7 as wkv7_triton


BACKEND_VARIABLE = "RWKV7_BACKEND"

# A backend in PyTorch takes (r, w, k, v, a, b, state), all of one floating dtype of at least float32, inputs
# (B, T, H, N) and state (B, H, V, K), and returns (y, final state) in that dtype. Dtypes, masks and packing are seen
# to here.
_PYTORCH_BACKENDS: dict[str, Callable[..., tuple[torch.Tensor, torch.Tensor]]] = {
    "chunked": wkv7_chunked,
    "reference": wkv7_reference,
    "scan": wkv7_scan,
}


class _Kernels(NamedTuple):
    """A backend in another language, which sees to everything itself. Where it cannot run it gives the reason."""

    run: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    why_not_here: Callable[[], str | None]
    why_unsuitable: Callable[[torch.Tensor], str | None]


_OTHER_BACKENDS = {
    "cpu": _Kernels(wkv7_cpu.wkv7_cpu, wkv7_cpu.why_not_built, wkv7_cpu.why_unsuitable),
    "triton": _Kernels(wkv7_triton.wkv7_triton, wkv7_triton.why_not_here, wkv7_triton.why_unsuitable),
    "cuda": _Kernels(wkv7_cuda.wkv7_cuda, wkv7_cuda.why_not_here, wkv7_cuda.why_unsuitable),
}
# For inputs on the CPU the fastest first; without `scan`, which nothing but an export to ONNX needs
_BACKENDS = ("cpu", "chunked", "reference", "triton", "cuda")


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
    if name not in _BACKENDS:
        raise ValueError(f"Unknown wkv7 backend {name!r}; available here: {', '.join(available_backends())}.")
    if (kernels := _OTHER_BACKENDS.get(name)) is not None:
        reason = inputs is not None and kernels.why_unsuitable(inputs) or kernels.why_not_here()
        if reason:
            raise ValueError(f"wkv7 backend {name!r} cannot run: {reason}.")
    return name


def _default_backend(inputs: torch.Tensor | None) -> str:
    if inputs is not None and inputs.device.type == "cuda":
        return "chunked" if wkv7_triton.why_unsuitable(inputs) or wkv7_triton.why_not_here() else "triton"
    unsuitable = inputs is not None and wkv7_cpu.why_unsuitable(inputs)
    return "chunked" if unsuitable or _cpu_is_missing() else "cpu"


@assume_constant_result
def _traces_for_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


@assume_constant_result
def _cpu_is_missing() -> bool:
    """Whether the default has to do without `cpu`. Says so once, unless building was switched off on purpose."""
    reason = wkv7_cpu.why_not_built()
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


def wkv7(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    *,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Runs the RWKV-7 recurrence over a batch of sequences. Differentiable in every floating argument.

    Args:
        r: Receptance (query), (batch, time, heads, head_dim), float32, bfloat16, float16 or float64.
        w: Log of the decay, same shape, entries <= 0 (RWKV-7: in (-0.6066, 0)).
        k: Key, same shape.
        v: Value, same shape.
        a: Removal direction `-kk`, same shape.
        b: Replacement direction `kk * a`, same shape.
        initial_state: State before the first token, (batch, heads, value, key), float32 (float64 for float64
            inputs); zero if `None`. With `cu_seqlens`: (sequences, heads, value, key).
        output_final_state: Whether to return the state after the last token.
        mask: (batch, time), true for real tokens. A masked position leaves the state as it was and outputs zero,
            wherever it stands and whatever its inputs hold.
        cu_seqlens: (sequences + 1,), int, from 0 to `time`: boundaries of sequences packed in a batch of one. Each
            starts from its own row of `initial_state`.
        backend: Name of the backend, see [`select_backend`]. Those in PyTorch can be differentiated twice.

    Returns:
        `y` of the inputs' shape and dtype, and the final state in the state's shape and dtype or `None`.

    Raises:
        ValueError: If shapes, dtypes or boundaries do not fit, or the backend asked for cannot run.
    """
    _check_inputs(r, w, k, v, a, b)
    name = select_backend(backend, r)
    if mask is not None:
        _check_mask(mask, r)
    num_states = r.shape[0] if cu_seqlens is None else _check_cu_seqlens(cu_seqlens, r)
    if initial_state is not None:
        _check_initial_state(initial_state, num_states, r)

    if name in _OTHER_BACKENDS:
        run = _OTHER_BACKENDS[name].run
    else:
        run = functools.partial(_run_in_pytorch, _PYTORCH_BACKENDS[name])
    y, final_state = run(r, w, k, v, a, b, initial_state, mask, cu_seqlens)
    return y, final_state if output_final_state else None


def _run_in_pytorch(run, r, w, k, v, a, b, state, mask, cu_seqlens):
    """Runs a backend that knows neither mask nor packing, in at least float32."""
    inputs = (r, w, k, v, a, b)
    if mask is not None:
        padded = ~mask.bool()[..., None, None]  # (B, T, 1, 1)
        inputs = tuple(x.masked_fill(padded, 0) for x in inputs)
    dtype = _state_dtype(r)
    inputs = tuple(x.to(dtype) for x in inputs)
    if state is None:
        num_states = r.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
        state = torch.zeros(num_states, r.shape[2], r.shape[3], r.shape[3], dtype=dtype, device=r.device)

    y, state = run(*inputs, state) if cu_seqlens is None else _run_packed(run, inputs, state, cu_seqlens)
    return y.to(r.dtype), state


def _run_packed(run, inputs, state, cu_seqlens):
    """Runs packed sequences as the rows of a padded batch; padding is zero, which leaves the state as it was."""
    lengths = cu_seqlens.diff().long()
    total, longest = inputs[0].shape[1], int(lengths.max()) if len(lengths) else 0
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths, output_size=total)
    column = torch.arange(total, device=lengths.device) - cu_seqlens[:-1].long()[row]
    rows = []
    for x in inputs:
        padded = x.new_zeros(len(lengths), longest, *x.shape[2:])
        rows.append(padded.index_put((row, column), x[0]))  # (sequences, longest, H, N)
    y, final_state = run(*rows, state)
    return y[row, column][None], final_state


def _state_dtype(r):
    return torch.float64 if r.dtype == torch.float64 else torch.float32


def _check_initial_state(initial_state, num_states, r):
    shape, dtype = (num_states, r.shape[2], r.shape[3], r.shape[3]), _state_dtype(r)
    if tuple(initial_state.shape) != shape:
        raise ValueError(
            f"initial_state has shape {tuple(initial_state.shape)}, expected {shape} (batch, heads, value, key)."
        )
    if initial_state.dtype != dtype:
        raise ValueError(f"initial_state is {initial_state.dtype}, expected {dtype}: the state is never rounded.")


def _check_inputs(r, w, k, v, a, b):
    if r.dim() != 4:
        raise ValueError(f"r has shape {tuple(r.shape)}, expected (batch, time, heads, head_dim).")
    if not r.is_floating_point():
        raise ValueError(f"r is {r.dtype}, expected a floating dtype.")
    for name, x in (("w", w), ("k", k), ("v", v), ("a", a), ("b", b)):
        if x.shape != r.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected that of r, {tuple(r.shape)}.")
        if x.device != r.device:
            raise ValueError(f"{name} is on {x.device}, expected the device of r, {r.device}.")


def _check_mask(mask, r):
    if mask.shape != r.shape[:2]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected (batch, time) = {tuple(r.shape[:2])}.")


def _check_cu_seqlens(cu_seqlens, r) -> int:
    if r.shape[0] != 1:
        raise ValueError(f"cu_seqlens needs a batch of one packed row, but the batch is {r.shape[0]}.")
    if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or len(cu_seqlens) == 0:
        raise ValueError(f"cu_seqlens must be a vector of integers, got {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}.")
    if not torch.compiler.is_compiling():
        ascending = bool((cu_seqlens.diff() >= 0).all())
        if not ascending or cu_seqlens[0] != 0 or cu_seqlens[-1] != r.shape[1]:
            raise ValueError(f"cu_seqlens must rise from 0 to the time {r.shape[1]}, got {cu_seqlens.tolist()}.")
    return len(cu_seqlens) - 1

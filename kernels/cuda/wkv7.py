# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WKV-7 in CUDA C++ for heads of 64: `wkv7.cu`, built by nvcc on first use, as differentiable custom operators.

Token by token with the state in registers. Inputs are read in their own dtype, the state and all sums are float32;
padding and packing are done in the kernels. Runs only where it is asked for: no GPU has run it yet.
"""

import ctypes
import functools
from pathlib import Path

import torch

from ..constant_results import assume_constant_result
from ..native_library import NativeLibraryError, cuda_toolchain, load_library, why_missing
from ..triton.wkv7 import num_processors, on_device
from ..wkv7_operators import DTYPES, as_kernels_read, define_operators, num_sequences, run_operator


SOURCE = Path(__file__).with_name("wkv7.cu")

HEAD_DIM = 64
CHECKPOINT_INTERVAL = 15  # as in the CUDA file
SHORT = 16  # tokens of a sequence up to which its heads are split over several blocks of threads
_STATE_ALIGNMENT = 16  # bytes; the kernels read states four numbers at a time


class _Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("dtype", ctypes.c_int64)]


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("sequences", "tokens", "heads")),
        *((name, _Rows) for name in "rwkvab"),
        *((name, ctypes.c_void_p) for name in ("boundaries", "mask", "checkpoints")),
    ]


class _Forward(ctypes.Structure):
    _fields_ = [
        ("problem", _Problem),
        ("initial_state", ctypes.c_void_p),
        ("y", _Rows),
        ("final_state", ctypes.c_void_p),
    ]


class _Backward(ctypes.Structure):
    _fields_ = [
        ("problem", _Problem),
        ("dy", _Rows),
        ("d_final", ctypes.c_void_p),
        *((f"d{name}", _Rows) for name in "rwkvab"),
        ("d_initial", ctypes.c_void_p),
    ]


def prepare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tells ctypes what the functions of a library built from the CUDA file take."""
    launch = [ctypes.c_int, ctypes.c_void_p]  # device, stream
    library.wkv7_forward.argtypes = [ctypes.POINTER(_Forward), ctypes.c_int, *launch]
    library.wkv7_backward.argtypes = [ctypes.POINTER(_Backward), *launch]
    library.wkv7_error.restype = ctypes.c_char_p
    return library


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The CUDA library for the GPUs that are here, or why there is none. Tried once in a process."""
    devices = range(torch.cuda.device_count())
    try:
        toolchain = cuda_toolchain({torch.cuda.get_device_capability(device) for device in devices})
        library = prepare(load_library("rwkv7_wkv7_cuda", SOURCE, toolchain))
    except NativeLibraryError as error:
        return str(error)
    for device in devices:
        with torch.cuda.device(device):
            if error := library.wkv7_check(device):
                return f"its kernels cannot run on GPU {device}: {library.wkv7_error(error).decode()}"
    return library


def why_unsuitable(r: torch.Tensor) -> str | None:
    """Why inputs like `r` are not for this backend, or `None`."""
    if r.device.type != "cuda":
        return f"it runs on NVIDIA GPUs, and the inputs are on {r.device}"
    if r.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {r.dtype}"
    if r.shape[-1] != HEAD_DIM:
        return f"it takes heads of size {HEAD_DIM}, not {r.shape[-1]}"
    return None


@assume_constant_result
def why_not_here() -> str | None:
    """Why no inputs can run on this backend in this process, or `None`. Builds the library if need be."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    if torch.version.cuda is None:
        return "this PyTorch is not built for CUDA"
    return why_missing(_library())


def wkv7_cuda(
    r: torch.Tensor,
    w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in CUDA C++.

    Args:
        r, w, k, v, a, b: (batch, time, heads, 64), float32, bfloat16 or float16, not necessarily all the same; `w` is
            the log decay.
        state: (batch or sequences, heads, value, key), float32, or `None` for zero.
        mask: (batch, time), true for real tokens; others leave the state as it was and output zero.
        cu_seqlens: (sequences + 1,), int: boundaries of sequences packed in a batch of one.

    Returns:
        `y` of the shape and dtype of `r`, and the final state, float32.
    """
    return run_operator(_forward_op, (r, w, k, v, a, b), state, mask, cu_seqlens)


# ---------------------------------------------------------------------------------------------------------- internals


def _run_forward(inputs, state, mask, cu_seqlens, y, final_state, checkpoints):
    state, layout = _aligned(state), as_kernels_read(mask, cu_seqlens)
    problem = _problem(inputs, *layout, checkpoints)
    split = problem.tokens <= SHORT * problem.sequences or problem.sequences * problem.heads < num_processors(y.device)
    _launch("wkv7_forward", _Forward(problem, _address(state), _rows(y), _address(final_state)), y.device, split)


def _run_backward(inputs, mask, cu_seqlens, checkpoints, dy, d_final, d_initial):
    d_final, layout = _aligned(d_final), as_kernels_read(mask, cu_seqlens)
    gradients = [torch.empty_like(x) for x in inputs]
    problem = _problem(inputs, *layout, checkpoints)
    arguments = (problem, _rows(dy), _address(d_final), *map(_rows, gradients), _address(d_initial))
    _launch("wkv7_backward", _Backward(*arguments), dy.device)
    return gradients


_forward_op = define_operators("wkv7_cuda", CHECKPOINT_INTERVAL, _run_forward, _run_backward)


def _launch(function: str, arguments: ctypes.Structure, device: torch.device, *options) -> None:
    library = _library()
    with on_device(device):
        error = getattr(library, function)(ctypes.byref(arguments), *options, device.index or 0, _stream(device))
    if error:
        raise RuntimeError(f"{function} of the backend `cuda` failed: {library.wkv7_error(error).decode()}.")


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _aligned(state: torch.Tensor | None) -> torch.Tensor | None:
    return state.clone() if state is not None and state.data_ptr() % _STATE_ALIGNMENT else state


def _address(x: torch.Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _rows(x: torch.Tensor) -> _Rows:
    return _Rows(x.data_ptr(), DTYPES.index(x.dtype))


def _problem(inputs, mask, cu_seqlens, checkpoints) -> _Problem:
    """What both kernels are told. The caller keeps the tensors until they are launched; then the stream does."""
    batch, time, heads, _ = inputs[0].shape
    sizes = (num_sequences(inputs[0], cu_seqlens), batch * time, heads)
    return _Problem(*sizes, *map(_rows, inputs), *map(_address, (cu_seqlens, mask, checkpoints)))

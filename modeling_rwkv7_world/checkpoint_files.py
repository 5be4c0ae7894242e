# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads files of weights, `.pth` and `.safetensors`: only tensors, mapped from disk, nothing in a file ever runs."""

import os
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# Pages of a mapped file count as memory of the process until it is unmapped
MAX_MAPPED_BYTES = 256 * 2**20


def can_be_hub_id(name: str) -> bool:
    """Whether `name` may be an id of the Hub, `owner/name` or `name`; else it can only be a path."""
    return not (name.startswith((".", "~", "/")) or name.endswith("/") or name.count("/") > 1 or "\\" in name)


def open_pth(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth` file, mapped: their bytes are read when used.

    Args:
        path: A flat dict of bfloat16, float16 or float32 tensors, written by `torch.save` of PyTorch 1.6 or later.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is truncated, or holds anything but tensors.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a file")
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: refused, it holds more than tensors and could run code if it were read") from error
    except (RuntimeError, EOFError, KeyError, OSError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path}: not a .pth file, or not a whole one (torch.load cannot read it)") from error
    _check_tensors(tensors, path)
    return tensors


def read_tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of those asked for, one by one; each must be copied or used up before the next.

    The file is mapped anew every `MAX_MAPPED_BYTES`, so that memory does not grow with the file.
    """
    tensors, mapped = open_weights(path), 0
    for name in names:
        if mapped > MAX_MAPPED_BYTES:
            tensors, mapped = open_weights(path), 0
        mapped += tensors[name].nbytes
        yield name, tensors[name]


def open_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of either kind, told by its suffix; see [`open_safetensors`] and [`open_pth`]."""
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pth(path)


def open_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file, mapped: their bytes are read when used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or not a whole one ({error})") from error


def _check_tensors(tensors: object, path: Path) -> None:
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(f"{path}: holds a {type(tensors).__name__}, expected a dict of tensors by name")
    claimed = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path}: the entry {name!r} is a {type(tensor).__name__}, expected a tensor")
        if tensor.layout != torch.strided or tensor.dtype not in FLOAT_DTYPES:
            raise ValueError(f"{path}: {name} is a tensor of {tensor.dtype}, expected bfloat16, float16 or float32")
        claimed += tensor.nbytes
    if claimed > os.path.getsize(path):  # strides of 0 can make a small file pretend to be a huge one
        raise ValueError(f"{path}: its tensors claim {claimed} bytes, more than the file has")

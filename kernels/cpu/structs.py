# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The structures that Python and C++ share, as `structs.h` lists their fields."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

from .. import wkv7_operators
from ..native_library import NativeLibraryError, built_on_first_use, source_text


SOURCE = Path(__file__).with_name("structs.h")
DTYPES = {dtype: place for place, dtype in enumerate(wkv7_operators.DTYPES)}  # as in `cpu_numbers.h`

_LIST = re.compile(r"#define RWKV7_FIELDS_(\w+)\(field\)((?:.*\\\n)*.*)")
_FIELD = re.compile(r"field\((\w+), (\w+)\)")
_NUMBERS = {"integer": ctypes.c_int64, "real": ctypes.c_float}  # any other kind is a structure or an address


def _read_structures() -> dict[str, type[ctypes.Structure]]:
    """Every structure of `structs.h` by its name, in the order of the file."""
    structures = {}
    for name, listed in _LIST.findall(source_text(SOURCE)):
        fields = [
            (field, structures.get(kind) or _NUMBERS.get(kind, ctypes.c_void_p))
            for kind, field in _FIELD.findall(listed)
        ]
        structures[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structures


_STRUCTURES = _read_structures()
Gradients, Layer, LowRank, Model = (_STRUCTURES[name] for name in ("Gradients", "Layer", "LowRank", "Model"))
Norm, Problem, Quantized = (_STRUCTURES[name] for name in ("Norm", "Problem", "Quantized"))
Settings, TimeMix = _STRUCTURES["Settings"], _STRUCTURES["TimeMix"]


class Rows(_STRUCTURES["Rows"]):
    """A contiguous tensor: its address and its dtype."""

    @classmethod
    def of(cls, x: torch.Tensor | None) -> "Rows":
        """The rows of `x`, whom the caller keeps alive; none for `None`."""
        return cls(None, 0) if x is None else cls(x.data_ptr(), DTYPES[x.dtype])


def addresses_of(states: list[tuple[torch.Tensor, ...]]) -> ctypes.Array:
    """Of the states of all layers, each as `State` has them: both last tokens and the matrices."""
    addresses = [tensor.data_ptr() for state in states for tensor in state]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def library_of_structures(name: str, source: Path) -> Callable[[Callable[[ctypes.CDLL], None]], Callable]:
    """As `built_on_first_use`, for C++ with the structures: a library that has others is refused, not called."""

    def decorate(declare: Callable[[ctypes.CDLL], None]) -> Callable[[], ctypes.CDLL | str]:
        def check_and_declare(library: ctypes.CDLL) -> None:
            check_structures(library)
            declare(library)

        return built_on_first_use(name, source)(check_and_declare)

    return decorate


def check_structures(library: ctypes.CDLL) -> None:
    """Compares size and offsets of every structure with those that a library was compiled with.

    Raises:
        NativeLibraryError: If they differ, by name; the library must not be called then.
    """
    library.struct_layouts.argtypes, library.struct_layouts.restype = [ctypes.c_void_p], ctypes.c_int64
    numbers = (ctypes.c_int64 * library.struct_layouts(None))()
    library.struct_layouts(numbers)
    compiled = iter(numbers)
    for name, structure in _STRUCTURES.items():
        ours = [getattr(structure, field).offset for field, _ in structure._fields_] + [ctypes.sizeof(structure)]
        theirs = [next(compiled, None) for _ in ours]
        if ours != theirs:
            raise NativeLibraryError(f"its structure {name} has offsets and size {theirs}, and Python's {ours}")

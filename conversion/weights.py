# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The weights of a folder that is to be written: where each tensor comes from, and what is done to it on the way."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from .folder import write_shards


Shape = tuple[int, ...]
Reader = Callable[[Iterable[str]], Iterator[tuple[str, torch.Tensor]]]


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` itself."""
    return tensor


@dataclass(frozen=True)
class Weight:
    """Where a tensor of the folder comes from.

    Attributes:
        name: In the source; `None` if `tensor` is given.
        change: What makes it the tensor of the folder; must work on the device "meta" too.
        tensor: The tensor itself.
    """

    name: str | None
    change: Callable[[torch.Tensor], torch.Tensor] = unchanged
    tensor: torch.Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """All tensors of a folder by name: where they come from, in which dtype they are written, how many numbers."""

    weights: dict[str, Weight]
    dtypes: dict[str, torch.dtype]
    numbers: dict[str, int]

    @property
    def stored(self) -> dict[str, int]:
        """Bytes of every tensor."""
        return {name: self.numbers[name] * self.dtypes[name].itemsize for name in self.weights}

    @property
    def written_dtypes(self) -> tuple[torch.dtype, ...]:
        """Every dtype once."""
        return tuple(sorted(set(self.dtypes.values()), key=str))


def check_exactly(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], prefix: str, owner: str) -> None:
    """Checks that a part of a checkpoint holds exactly the tensors that it must.

    Args:
        shapes: Shapes by name, without the prefix.
        expected: What they must be.
        prefix: Of their names in the file.
        owner: What to call the part in a message.

    Raises:
        ValueError: Names the first tensor that is missing, of another shape, or unknown.
    """
    for name, shape in expected.items():
        if name not in shapes:
            raise ValueError(f"the tensor {prefix}{name} is missing")
        if shapes[name] != shape:
            raise ValueError(f"{prefix}{name} has the shape {shapes[name]}, expected {shape}")
    unknown = sorted(shapes.keys() - expected.keys())
    if unknown:
        raise ValueError(f"unexpected tensor {prefix}{unknown[0]} in {owner}")


def make_plan(
    weights: dict[str, Weight],
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, torch.dtype],
    dtype: torch.dtype | None,
) -> Plan:
    """The plan of a folder.

    Args:
        weights: Its tensors.
        shapes: Shapes of the tensors in the source.
        dtypes: Their dtypes.
        dtype: Of what is written; `None` keeps that of every tensor.
    """
    outlines = {
        name: weight.change(torch.empty(shapes[weight.name], dtype=dtypes[weight.name], device="meta"))
        if weight.tensor is None
        else weight.tensor
        for name, weight in weights.items()
    }
    return Plan(
        weights,
        {name: dtype or outline.dtype for name, outline in outlines.items()},
        {name: outline.numel() for name, outline in outlines.items()},
    )


def write_plan(
    plan: Plan,
    folder: Path,
    read: Reader,
    bar: tqdm,
    max_shard_size: int | str,
    place: Callable[[str], str],
) -> None:
    """Writes the weights into `folder`, one shard in memory at a time.

    Args:
        plan: What to write.
        folder: An existing folder.
        read: Gives name and tensor of the names asked for, one by one.
        bar: Is told the bytes as they are read.
        max_shard_size: Largest file, in bytes or as "5GB".
        place: Gives the file of a name of the source, and the name there, for messages.

    Raises:
        ValueError: If a tensor holds numbers that are not finite.
    """
    places = {
        name: f"{name} of the encoder" if weight.tensor is not None else place(weight.name)
        for name, weight in plan.weights.items()
    }
    write_shards(folder, plan.stored, lambda names: read_plan(plan, names, read, bar), max_shard_size, places=places)


def place_in(source: Path) -> Callable[[str], str]:
    """What messages call the tensors of one file or folder."""
    return lambda name: f"{source}: {name}"


def read_plan(plan: Plan, names: Iterable[str], read: Reader, bar: tqdm) -> dict[str, torch.Tensor]:
    """The tensors of a plan that are named, in memory; see [`write_plan`]."""
    shard, by_source = {}, {}
    for name in names:
        weight = plan.weights[name]
        if weight.tensor is None:
            by_source.setdefault(weight.name, []).append(name)  # a fused matrix becomes several
        else:
            shard[name] = _copy(weight.tensor, plan.dtypes[name], bar)
    for source_name, tensor in read(by_source):
        for name in by_source[source_name]:
            shard[name] = _copy(plan.weights[name].change(tensor), plan.dtypes[name], bar)
    return shard


def _copy(tensor: torch.Tensor, dtype: torch.dtype, bar: tqdm) -> torch.Tensor:
    copied = tensor.to(dtype, copy=True).contiguous()
    bar.update(copied.nbytes)
    return copied

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Text models of every layout to BlinkDL's `.pth` files, bit for bit."""

import os
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from tqdm.utils import CallbackIOWrapper

from ..modeling_rwkv7_world.blinkdl_names import Sizes, all_entries
from .folder import check_finite, progress_bar
from .output import whole_file
from .text_checkpoint import absolute, open_text_checkpoint
from .weights import Weight, make_plan, read_plan


@dataclass(frozen=True)
class Conversion:
    """What was converted: sizes, number of parameters, dtypes written, tensors kept aside, whether text has ids."""

    sizes: Sizes
    parameters: int
    dtypes: tuple[torch.dtype, ...]
    kept_aside: tuple[str, ...] = ()
    has_tokenizer: bool = False


def convert_to_blinkdl(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> Conversion:
    """Writes a text model of any layout as one file with BlinkDL's names.

    A folder that `convert_to_hub` wrote gives back the file that it came from, every tensor bit for bit.

    Args:
        source: What [`open_text_checkpoint`] takes.
        destination: The new file; one that ends in `.safetensors` is of that kind. If anything fails there is none.
        dtype: Of the tensors written. `None` keeps that of every tensor.
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the source holds no RWKV-7 text model, or one that such a file cannot hold; if `destination`
            is taken.
        OSError: If something cannot be read or written.
    """
    checkpoint, destination = open_text_checkpoint(source), absolute(destination)
    checkpoint.check_epsilons()
    weights = {name: Weight(name) for name in all_entries(checkpoint.sizes) if name in checkpoint.dtypes}
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    total = sum(plan.stored.values())
    with whole_file(destination) as path, progress_bar(total, show_progress) as bar:
        if destination.suffix == ".safetensors":
            tensors = read_plan(plan, weights, checkpoint.read, bar)
            check_finite(tensors, checkpoint.source)
            save_file(tensors, path, {"format": "pt"})
        else:
            tensors = {name: tensor.to(plan.dtypes[name]) for name, tensor in checkpoint.read(weights)}
            check_finite(tensors, checkpoint.source)
            with open(path, "wb") as file:
                torch.save(tensors, CallbackIOWrapper(bar.update, file, "write"))
    return Conversion(checkpoint.sizes, sum(plan.numbers.values()), plan.written_dtypes)

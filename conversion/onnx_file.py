# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A text model as an ONNX file: one graph for a step and for a prompt, the state going in and out as tensors.

Inputs and outputs, with N from 0 to the number of layers less one:

    input_ids            (batch, time)                       int64
    state.N.time_mix     (batch, hidden)                     float32, last token as the time mix of layer N saw it
    state.N.channel_mix  (batch, hidden)                     float32, last token as the channel mix of layer N saw it
    state.N.recurrent    (batch, heads, head_dim, head_dim)  float32, (value, key)
    attention_mask       (batch, time)                       int64, only if asked for: 0 for padding, anywhere
    logits               (batch, time, vocabulary)           float32

Every state is an input under its name, and an output under its name after "new_".
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from ..configuration.optional_libraries import missing, optional_imports
from ..modeling_rwkv7_world.cache_rwkv7 import CHANNEL_MIX, TIME_MIX, RWKV7Cache
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from .folder import check_finite
from .output import whole_files


LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
SUFFIX = ".onnx"
STATE_NAMES = ("time_mix", "channel_mix", "recurrent")  # of a layer, in their order
NEW = "new_"
MAX_DIFFERENCE = 1e-3  # from PyTorch, in parts of the largest element; float32 in another order gives about 1e-6
_EXAMPLE = (2, 3)  # batch and time: any but 0 and 1, which torch.export takes for constants
_CHECKED = (3, 17)  # others than those of the example


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        files: The ONNX file, and those beside it.
        size: Bytes of all of them.
        parameters: How many the model has.
        difference: The largest of the logits between PyTorch and ONNX Runtime, see [`compare_with_pytorch`].
    """

    files: tuple[Path, ...]
    size: int
    parameters: int
    difference: float


class StateAsTensors(nn.Module):
    """A model as the graph has it: tensors in and out, by position.

    Args:
        model: The model.
        last_logits: Whether there are logits of the last token only.
    """

    def __init__(self, model: RWKV7ForCausalLM, last_logits: bool = False):
        super().__init__()
        self.model = model
        self.last_logits = last_logits

    def forward(
        self, input_ids: torch.Tensor, states: list[list[torch.Tensor]], attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
        """Logits, and the states of every layer in the order of `STATE_NAMES`."""
        cache = RWKV7Cache(self.model.config)
        for layer, (time_mix, channel_mix, recurrent) in enumerate(states):
            cache.update_shift_state(time_mix, layer, TIME_MIX)
            cache.update_shift_state(channel_mix, layer, CHANNEL_MIX)
            cache.update_recurrent_state(recurrent, layer)
        keep = {"logits_to_keep": 1} if self.last_logits else {}
        logits = self.model(input_ids, attention_mask=attention_mask, cache=cache, **keep).logits
        new = cache.state_tensors()  # one-token states are (batch, hidden, 1)
        new = [x.squeeze(-1) if x.dim() == 3 else x for x in new]
        return logits, [new[first : first + len(STATE_NAMES)] for first in range(0, len(new), len(STATE_NAMES))]


def state_names(model: RWKV7ForCausalLM) -> list[str]:
    """Names of the states, in their order."""
    return [f"state.{layer}.{name}" for layer in range(len(model.model.layers)) for name in STATE_NAMES]


def first_states(model: RWKV7ForCausalLM, batch: int) -> list[list[torch.Tensor]]:
    """The states before the first token, of every layer in the order of `STATE_NAMES`: learned ones, or zeros."""
    config = model.config
    shapes = ((config.hidden_size,), (config.hidden_size,), (config.num_heads, config.head_dim, config.head_dim))
    layers = [zip(_learned_starts(layer), shapes, strict=True) for layer in model.model.layers]
    starts = [[torch.zeros(shape) if x is None else x.detach() for x, shape in layer] for layer in layers]
    return [[x.expand(batch, *x.shape).clone() for x in layer] for layer in starts]


def files_of(destination: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The files that `export_onnx` may write: OUT.onnx, OUT.onnx.data and OUT.start.npz.

    Raises:
        ValueError: If the name has another ending.
    """
    file = Path(destination)
    if file.suffix != SUFFIX:
        raise ValueError(f"{file}: the name of an ONNX file ends in {SUFFIX}")
    return file, file.with_name(f"{file.name}.data"), file.with_suffix(".start.npz")


def check_libraries() -> None:
    """Checks that what writes and reads ONNX files is installed.

    Raises:
        ModuleNotFoundError: Names the first that is missing.
    """
    for library in LIBRARIES:
        if find_spec(library) is None:
            raise missing(library)


@torch.no_grad()
def export_onnx(
    model: RWKV7ForCausalLM,
    destination: str | os.PathLike[str],
    attention_mask: bool = False,
    last_logits: bool = False,
    external_data: bool = False,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> OnnxFile:
    """Writes a text model as an ONNX file, and compares ONNX Runtime's result with PyTorch's.

    Beside OUT.onnx may stand OUT.onnx.data, the weights, and OUT.start.npz, the states before the first token by name,
    for a batch of one, if the model has learned them; else they are zeros.

    Args:
        model: A text model in float32 on the CPU. It is put in evaluation mode.
        destination: A new file that ends in .onnx. If anything fails there is none.
        attention_mask: Whether the graph has this input, for batches with padding.
        last_logits: Whether there are logits of the last token only, (batch, 1, vocabulary).
        external_data: Whether weights go to a file of their own, as more than 1.5 GiB always do: protobuf refuses
            messages of 2 GiB.
        on_stage: Called with what is done next, "tracing", "writing" or "comparing".

    Raises:
        ValueError: If the model is no text model, is quantised, not in float32 on the CPU or not finite; if a file is
            taken; if ONNX Runtime's result is not PyTorch's.
        ModuleNotFoundError: If onnx, onnxscript or onnxruntime is missing.
        OSError: If a file cannot be written.
    """
    destination, data, start = files_of(destination)
    check_libraries()
    _check_model(model)
    exported = StateAsTensors(model, last_logits).eval()
    with whole_files(destination, data, start) as file:
        on_stage("tracing")
        program = _trace(exported, attention_mask)
        on_stage("writing")
        program.save(file, external_data=external_data)
        if any(x is not None for layer in model.model.layers for x in _learned_starts(layer)):
            states = [x.numpy() for x in pytree.tree_leaves(first_states(model, 1))]
            np.savez(file.with_name(start.name), **dict(zip(state_names(model), states, strict=True)))
        on_stage("comparing")
        difference = compare_with_pytorch(exported, file, attention_mask)
    files = tuple(path for path in (destination, data, start) if path.exists())
    size, parameters = sum(path.stat().st_size for path in files), sum(x.numel() for x in model.parameters())
    return OnnxFile(files, size, parameters, difference)


@torch.no_grad()
def compare_with_pytorch(exported: StateAsTensors, file: Path, attention_mask: bool) -> float:
    """How far ONNX Runtime is from PyTorch, after random tokens from a random state.

    Returns:
        The largest difference of the logits in parts of the largest logit, or of 1 if that is less.

    Raises:
        ValueError: If logits or states differ by more than rounding explains.
    """
    with optional_imports():
        import onnxruntime

    inputs = _random_inputs(exported.model, *_CHECKED, attention_mask)
    names = _input_names(exported.model, attention_mask)
    feed = {name: x.numpy() for name, x in zip(names, pytree.tree_leaves(inputs), strict=True)}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    theirs = [torch.from_numpy(x) for x in session.run(None, feed)]
    ours = pytree.tree_leaves(exported(*inputs))
    parts = torch.stack([(x - y).abs().max() / y.abs().max().clamp_min(1) for x, y in zip(theirs, ours, strict=True)])
    if not (parts <= MAX_DIFFERENCE).all():
        raise ValueError(
            f"ONNX Runtime's result is not PyTorch's: it differs by {parts.max():.1e} of the largest element"
        )
    return float(parts[0])


# ---------------------------------------------------------------------------------------------------------- internals


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, RWKV7ForCausalLM):
        raise ValueError(f"a {type(model).__name__} cannot be an ONNX file, only a text model, RWKV7ForCausalLM, can")
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError("a quantised model cannot be an ONNX file; export the model that it was made from")
    if model.config.deep_embed_attn_dim is not None:
        raise ValueError("an RWKV-7b model (DEA) has a state that grows, which the graph has no place for")
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or not parameter.is_cpu:
            place = f"{parameter.dtype} on {parameter.device}"
            raise ValueError(f"{name} is {place}: an ONNX file is made from a model in float32 on the CPU")
    check_finite(dict(model.named_parameters()))


def _trace(exported: StateAsTensors, attention_mask: bool) -> "torch.onnx.ONNXProgram":
    """The graph, made from an example of a few tokens."""
    batch, time = Dim("batch"), Dim("time")
    tokens = {0: batch, 1: time}
    states = [[{0: batch} for _ in STATE_NAMES] for _ in exported.model.model.layers]
    shapes = (tokens, states, tokens) if attention_mask else (tokens, states)
    with _quiet():
        program = torch.onnx.export(
            exported,
            _random_inputs(exported.model, *_EXAMPLE, attention_mask),
            dynamic_shapes=shapes,
            input_names=_input_names(exported.model, attention_mask),
            output_names=["logits", *(NEW + name for name in state_names(exported.model))],
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in which file of this machine each was made
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of operators of torchvision, of axes that it has named already, and of itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _input_names(model: RWKV7ForCausalLM, attention_mask: bool) -> list[str]:
    return ["input_ids", *state_names(model), *["attention_mask"] * attention_mask]


def _learned_starts(layer: nn.Module) -> tuple[torch.Tensor | None, ...]:
    """What a layer's states start from, in the order of `STATE_NAMES`, if it was learned."""
    return layer.attn.initial_token(), layer.ffn.initial_token(), layer.attn.initial_state()


def _random_inputs(model: RWKV7ForCausalLM, batch: int, time: int, attention_mask: bool) -> tuple:
    """Arguments of [`StateAsTensors.forward`], with padding in the first row if there is a mask."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, time), generator=generator)
    states = [[torch.randn(x.shape, generator=generator) for x in layer] for layer in first_states(model, batch)]
    if not attention_mask:
        return ids, states
    mask = torch.ones_like(ids)
    mask[0, : time // 2] = 0
    return ids, states, mask

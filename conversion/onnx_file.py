# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A text model as an ONNX file: one graph for a step and for a prompt, the state going in and out as tensors.

Inputs and outputs, with N from 0 to the number of layers less one:

    input_ids            (batch, time)                       int64
    attention_mask       (batch, time)                       int64, only if asked for: 0 for padding, anywhere
    state.N.time_mix     (batch, hidden)                     float32, last token as the time mix of layer N saw it
    state.N.channel_mix  (batch, hidden)                     float32, last token as the channel mix of layer N saw it
    state.N.recurrent    (batch, heads, head_dim, head_dim)  float32, (value, key)
    logits               (batch, time, vocabulary)           float32

Every state is an input under its name, and an output under its name after "new_".
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from ..modeling_rwkv7_world.cache_rwkv7 import CHANNEL_MIX, TIME_MIX, RWKV7Cache
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from .output import whole_files


STATE_NAMES = ("time_mix", "channel_mix", "recurrent")  # of a layer, in their order
NEW = "new_"
MAX_FILE_BYTES = 2 * 10**9  # protobuf refuses a message of 2 GiB
MAX_DIFFERENCE = 1e-3  # from PyTorch, in parts of the largest element; float32 in another order gives about 1e-5
_EXAMPLE = (2, 3)  # batch and time: any but 0 and 1, which torch.export takes for constants
_CHECKED = (2, 17)


@dataclass(frozen=True)
class OnnxFile:
    """What was written: files, their bytes, the number of parameters, whether the model begins in learned states.

    Attributes:
        difference: The largest of the logits from PyTorch's through ONNX Runtime, or `None` if that is not installed.
    """

    files: tuple[Path, ...]
    size: int
    parameters: int
    difference: float | None


class StateAsTensors(nn.Module):
    """A model as the graph has it: tensors in and out, by position."""

    def __init__(self, model: RWKV7ForCausalLM, last_logits: bool = False):
        super().__init__()
        self.model = model
        self.last_logits = last_logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, states: list[list[torch.Tensor]]
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


def state_names(layers: int) -> list[str]:
    """Names of the states of a model with so many layers, in their order."""
    return [f"state.{layer}.{name}" for layer in range(layers) for name in STATE_NAMES]


def first_states(model: RWKV7ForCausalLM, batch: int) -> list[list[torch.Tensor]]:
    """The states before the first token: zeros, or what the model has learned."""
    config = model.config
    shapes = ((config.hidden_size,), (config.hidden_size,), (config.num_heads, config.head_dim, config.head_dim))
    states = []
    for layer in model.model.layers:
        learned = (layer.attn.initial_token(), layer.ffn.initial_token(), layer.attn.initial_state())
        starts = (
            torch.zeros(shape) if x is None else x.detach().float() for x, shape in zip(learned, shapes, strict=True)
        )
        states.append([start.expand(batch, *start.shape).clone() for start in starts])
    return states


def export_onnx(
    model: RWKV7ForCausalLM,
    destination: str | os.PathLike[str],
    attention_mask: bool = False,
    last_logits: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> OnnxFile:
    """Writes a model as an ONNX file, and compares it with PyTorch through ONNX Runtime where that is installed.

    Beside the file OUT.onnx stand OUT.onnx.data, the weights, if there are too many for one file, and OUT.start.npz,
    the states before the first token, if the model has learned them; else they are zeros.

    Args:
        model: A text model in float32 on the CPU.
        destination: A new file. If anything fails there is none.
        attention_mask: Whether the graph has this input, for batches with padding.
        last_logits: Whether there are logits of the last token only, (batch, 1, vocabulary).
        max_file_bytes: More bytes of weights than this go to a file of their own.
        on_stage: Called with what is done next.

    Raises:
        ValueError: If the model is of RWKV-7b, quantised or not of float32, `destination` is taken, or ONNX Runtime's
            result is not PyTorch's.
        ModuleNotFoundError: If onnx or onnxscript is missing.
        OSError: If a file cannot be written.
    """
    if model.config.deep_embed_attn_dim is not None:
        raise ValueError("an RWKV-7b model (DEA) has a state that grows, which the graph has no place for")
    for library in ("onnx", "onnxscript"):
        if find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
    destination = Path(destination)
    others = destination.with_name(f"{destination.name}.data"), destination.with_suffix(".start.npz")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    exported = StateAsTensors(model.eval(), last_logits).eval()
    with whole_files(destination, *others) as file, torch.no_grad():
        on_stage("tracing")
        program = _trace(exported, attention_mask)
        on_stage("writing")
        program.save(file, external_data=parameters * torch.float32.itemsize > max_file_bytes)
        if any(parameter is not None for parameter in _learned_starts(model)):
            start = [x.numpy() for layer in first_states(model, 1) for x in layer]
            np.savez(
                file.with_name(others[1].name), **dict(zip(state_names(len(model.model.layers)), start, strict=True))
            )
        on_stage("comparing")
        difference = compare_with_pytorch(exported, file, attention_mask) if find_spec("onnxruntime") else None
    files = tuple(path for path in (destination, *others) if path.exists())
    return OnnxFile(files, sum(path.stat().st_size for path in files), parameters, difference)


def compare_with_pytorch(exported: StateAsTensors, file: Path, attention_mask: bool) -> float:
    """The largest difference of the logits, of random tokens from a random state.

    Raises:
        ValueError: If it is larger than rounding explains, or there are numbers that are none.
    """
    import onnxruntime

    inputs = _random_inputs(exported.model, *_CHECKED, attention_mask)
    names = _input_names(exported.model, attention_mask)
    feed = {name: x.numpy() for name, x in zip(names, _flat(*inputs), strict=True)}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    theirs = [torch.from_numpy(x) for x in session.run(None, feed)]
    logits, states = exported(*inputs)
    ours = _flat(logits, None, states)
    parts = [float((x - y).abs().max() / y.abs().max().clamp_min(1)) for x, y in zip(theirs, ours, strict=True)]
    if not max(parts) <= MAX_DIFFERENCE:
        raise ValueError(
            f"ONNX Runtime's result is not PyTorch's: it differs by {max(parts):.1e} of the largest element"
        )
    return float((theirs[0] - logits).abs().max())


# ---------------------------------------------------------------------------------------------------------- internals


def _trace(exported: StateAsTensors, attention_mask: bool) -> "torch.onnx.ONNXProgram":
    """The graph, made from an example of a few tokens."""
    batch, time = Dim("batch"), Dim("time")
    tokens = {0: batch, 1: time}
    layers = len(exported.model.model.layers)
    shapes = {
        "input_ids": tokens,
        "attention_mask": tokens if attention_mask else None,
        "states": [[{0: batch}] * len(STATE_NAMES)] * layers,
    }
    names = state_names(layers)
    with _quiet():
        return torch.onnx.export(
            exported,
            _random_inputs(exported.model, *_EXAMPLE, attention_mask),
            dynamic_shapes=shapes,
            input_names=_input_names(exported.model, attention_mask),
            output_names=["logits", *(NEW + name for name in names)],
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's lines on operators that torchvision would have brought."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _input_names(model: RWKV7ForCausalLM, attention_mask: bool) -> list[str]:
    return ["input_ids", *["attention_mask"] * attention_mask, *state_names(len(model.model.layers))]


def _learned_starts(model: RWKV7ForCausalLM) -> list[torch.Tensor | None]:
    modules = [
        module
        for x in model.model.layers
        for module in (x.attn.initial_token, x.ffn.initial_token, x.attn.initial_state)
    ]
    return [module() for module in modules]


def _random_inputs(model: RWKV7ForCausalLM, batch: int, time: int, attention_mask: bool):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, time), generator=generator)
    mask = torch.ones_like(ids) if attention_mask else None
    if attention_mask:
        mask[0, : time // 2] = 0
    states = [[torch.randn(x.shape, generator=generator) for x in layer] for layer in first_states(model, batch)]
    return ids, mask, states


def _flat(first: torch.Tensor, mask: torch.Tensor | None, states: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [x for x in (first, mask) if x is not None] + [x for layer in states for x in layer]

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The state of RWKV-7 in your hand: keep it, copy it, mix it, exchange it with BlinkDL's `rwkv` package.

A state is an [`RWKV7Cache`]: what `model(...).cache` is, and what every model takes as `cache`. A model writes into
the cache that it is given, so give it a copy (`copy.deepcopy` or `fork_state`) of one that is still needed. Functions
here return new states and leave those given alone.

`generate` takes the first `get_seq_length()` ids for tokens that the state has read already. A state of which that is
0, an initial state, is followed by new tokens only: `as_initial_state` makes one.
"""

import copy
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ..conversion.output import usual_mode
from ..modeling_rwkv7_world.cache_rwkv7 import CHANNEL_MIX, LOW_RANKS, QUERY, TABLES, TIME_MIX, RWKV7Cache, SeenTokens
from ..modeling_rwkv7_world.checkpoint_files import open_pth
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7Model


__all__ = [
    "as_initial_state",
    "fingerprint",
    "fork_state",
    "interpolate_states",
    "is_same_model",
    "load_state",
    "load_trained_state",
    "save_state",
    "select_rows",
    "stack_states",
    "state_from_blinkdl",
    "state_size",
    "state_to_blinkdl",
]

# Axes of the matrix state behind the heads: ours, BlinkDL's and the official class's; fla's and that of the class
# proposed for transformers. Nothing in the numbers tells them apart.
ORDERS = ("value_key", "key_value")
FILE_FORMAT = "rwkv7-state"
_SEEN = ("rows", "segments", "row_of_id")  # tensors of `SeenTokens`
FINGERPRINT_NUMBERS = 64  # of every parameter


class LayerState(NamedTuple):
    """What a layer carries, in the order of BlinkDL's state list."""

    time_mix: torch.Tensor  # (batch, hidden), the last token
    wkv: torch.Tensor  # (batch, heads, value, key)
    channel_mix: torch.Tensor  # (batch, hidden), the last token


def fork_state(state: RWKV7Cache, copies: int) -> RWKV7Cache:
    """Every row of the batch `copies` times, one after the other: one prefix for many continuations.

    Raises:
        ValueError: If `copies` is not positive, or no token was read yet.
    """
    if copies < 1:
        raise ValueError(f"copies is {copies}, expected at least 1.")
    _check_read(state)
    forked = copy.deepcopy(state)
    forked.batch_repeat_interleave(copies)
    return forked


def select_rows(state: RWKV7Cache, rows: int | Sequence[int]) -> RWKV7Cache:
    """The state of some rows of the batch, in the order given.

    Raises:
        ValueError: If there is no such row, or no token was read yet.
    """
    _check_read(state)
    rows = [rows] if isinstance(rows, int) else list(rows)
    for row in rows:
        if not 0 <= row < state.batch_size:
            raise ValueError(f"There is no row {row}: the state has rows 0 to {state.batch_size - 1}.")
    selected = copy.deepcopy(state)
    selected.batch_select_indices(torch.tensor(rows))
    return selected


def stack_states(states: Sequence[RWKV7Cache]) -> RWKV7Cache:
    """One batch of the rows of several states; an initial state unless all have read as many tokens.

    Raises:
        ValueError: If there is none, or they are of different models.
    """
    if not states:
        raise ValueError("There are no states to stack.")
    layers = [_layers(state) for state in states]
    _check_alike(layers)
    stacked = [
        LayerState(*(torch.cat(tensors) for tensors in zip(*layer, strict=True)))
        for layer in zip(*layers, strict=True)
    ]
    counts = {state.get_seq_length() for state in states}
    return _build(RWKV7Cache(states[0].config), stacked, counts.pop() if len(counts) == 1 else 0)


def interpolate_states(first: RWKV7Cache, second: RWKV7Cache, weight: float) -> RWKV7Cache:
    """An initial state on the line from `first` (`weight` 0) to `second` (`weight` 1); weights beyond are allowed.

    Raises:
        ValueError: If they are of different models or batch sizes, or no token was read yet.
    """
    layers = _layers(first), _layers(second)
    _check_alike(layers)
    if first.batch_size != second.batch_size:
        raise ValueError(f"The states have {first.batch_size} and {second.batch_size} rows, expected the same number.")
    mixed = [
        LayerState(*(torch.lerp(a, b.to(a), weight) for a, b in zip(*layer, strict=True)))
        for layer in zip(*layers, strict=True)
    ]
    return _build(RWKV7Cache(first.config), mixed, seen_tokens=0)


def as_initial_state(state: RWKV7Cache) -> RWKV7Cache:
    """A copy that counts no tokens, so that `generate` takes all ids that it is given for new ones."""
    initial = copy.deepcopy(state)
    initial.seen_tokens = 0
    return initial


def state_size(state: RWKV7Cache) -> int:
    """Size of all tensors in bytes, which does not depend on the number of tokens read, except in RWKV-7b."""
    _check_read(state)
    seen = [] if state.seen is None else [getattr(state.seen, name) for name in _SEEN]
    return sum(tensor.nbytes for tensor in [*state.state_tensors(), *seen])


def fingerprint(model: PreTrainedModel) -> str:
    """A short text that tells by which weights a state was made, see [`is_same_model`].

    It holds two hashes of numbers from every parameter, one of them rounded to bfloat16, one of them to float16: a
    model in float32 shares one with either of its roundings, and these share one if they come from bfloat16 weights.

    Args:
        model: A text model with or without head, or a composite that holds one; a head does not matter.
    """
    digests = {dtype: hashlib.sha256() for dtype in (torch.bfloat16, torch.float16)}
    for name, parameter in sorted(_text_model(model).named_parameters()):
        step = max(1, parameter.numel() // FINGERPRINT_NUMBERS)
        sample = parameter.detach().flatten()[::step].cpu()
        for dtype, digest in digests.items():
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(sample.to(dtype).view(torch.int16).numpy().tobytes())
    return "-".join(digest.hexdigest()[:32] for digest in digests.values())


def is_same_model(first: str, second: str) -> bool:
    """Whether two fingerprints are of the same weights, in whatever dtypes these were loaded."""
    return any(one == other for one, other in zip(first.split("-"), second.split("-"), strict=False))


def save_state(state: RWKV7Cache, path: str | os.PathLike[str], model: PreTrainedModel) -> None:
    """Writes the state as a safetensors file that remembers its model; of RWKV-7b with its whole context.

    Args:
        state: What `model` made.
        path: The file, overwritten if there is one.
        model: The model; its fingerprint goes into the file.

    Raises:
        ValueError: If no token was read yet.
    """
    tensors = {
        f"layers.{index}.{name}": tensor.contiguous()
        for index, layer in enumerate(_states_of_layers(state))
        for name, tensor in layer._asdict().items()
    }
    tensors |= {name: tensor.contiguous() for name, tensor in _context_tensors(state).items()}
    seen_tokens = str(state.get_seq_length())
    save_file(tensors, path, {"format": FILE_FORMAT, "fingerprint": fingerprint(model), "seen_tokens": seen_tokens})
    usual_mode(Path(path))


def load_state(path: str | os.PathLike[str], model: PreTrainedModel) -> RWKV7Cache:
    """The state that `save_state` wrote, on the devices of `model`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no state, or that of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or not a whole one ({error})") from error
    if metadata.get("format") != FILE_FORMAT or not metadata.get("seen_tokens", "").isdecimal():
        raise ValueError(f"{path}: not a state that rwkv7_world.state.save_state wrote")
    own = fingerprint(model)
    if not is_same_model(metadata.get("fingerprint", ""), own):
        raise ValueError(
            f"{path}: the state of another model (fingerprint {metadata.get('fingerprint')}, this model has {own})"
        )
    names = [[f"layers.{i}.{part}" for part in LayerState._fields] for i in range(len(_text_model(model).layers))]
    layers = [LayerState(*(_tensor(tensors, name, path) for name in layer)) for layer in names]
    state = _new_state(model, layers, int(metadata["seen_tokens"]), f"{path}: ")
    if "tokens.rows" in tensors:
        _restore_context(state, model, tensors, path)
    return state


def load_trained_state(path: str | os.PathLike[str], model: PreTrainedModel, batch_size: int = 1) -> RWKV7Cache:
    """An initial state from state tuning: the tensors `blocks.N.att.time_state` (heads, value, key) of a file.

    Args:
        path: A `.pth` file, of which other tensors are left alone, or a safetensors file.
        model: The model that it was trained for.
        batch_size: Rows of the state, all alike.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, has no trained state, or one of other sizes.
    """
    try:
        tensors = load_file(path) if Path(path).suffix == ".safetensors" else open_pth(Path(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file, or not a whole one ({error})") from error
    layers = []
    for index in range(len(_text_model(model).layers)):
        wkv = _tensor(tensors, f"blocks.{index}.att.time_state", path)[None].float()
        wkv = wkv.repeat(batch_size, *[1] * (wkv.dim() - 1))
        no_token = torch.zeros(batch_size, _text_model(model).config.hidden_size)
        layers.append(LayerState(no_token, wkv, no_token))
    return _new_state(model, layers, 0, f"{path}: ")


def state_to_blinkdl(state: RWKV7Cache, row: int = 0, order: str = "value_key") -> list[torch.Tensor]:
    """One row as the state list of the `rwkv` package, copied.

    Args:
        state: What a model made.
        row: Of the batch.
        order: Axes of the matrix states, `"value_key"` as in that package, or `"key_value"` as in fla's cache.

    Returns:
        For every layer the last token of time mix (hidden,), the matrix state (heads, value, key) in float32 and the
        last token of channel mix (hidden,).

    Raises:
        ValueError: If there is no such row or order, or no token was read yet.
    """
    layers = _layers(select_rows(state, row))
    return [tensor[0].clone() for layer in layers for tensor in _in_order(layer, order)]


def state_from_blinkdl(
    tensors: Sequence[torch.Tensor], model: PreTrainedModel, order: str = "value_key"
) -> RWKV7Cache:
    """An initial state of one row from the state list of the `rwkv` package, or one like it.

    Args:
        tensors: As `state_to_blinkdl` returns them. They are copied.
        model: The model with the same weights.
        order: Axes of the matrix states, see `state_to_blinkdl`.

    Raises:
        ValueError: If the number or shapes of the tensors are not those of the model, or there is no such order.
    """
    expected = len(LayerState._fields) * len(_text_model(model).layers)
    if len(tensors) != expected:
        raise ValueError(f"The list has {len(tensors)} tensors, expected {expected}.")
    rows = [tensor[None] for tensor in tensors]
    layers = [_in_order(LayerState(*rows[index : index + 3]), order) for index in range(0, expected, 3)]
    return _new_state(model, layers, 0, "")


def _in_order(layer: LayerState, order: str) -> LayerState:
    """A layer's state with the axes of its matrix in another order, or back."""
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, expected {' or '.join(map(repr, ORDERS))}.")
    return layer if order == ORDERS[0] else layer._replace(wkv=layer.wkv.transpose(-2, -1))


def _text_model(model: torch.nn.Module) -> RWKV7Model:
    for module in model.modules():
        if isinstance(module, RWKV7Model):
            return module
    raise ValueError(f"{type(model).__name__} has no RWKV-7 text model in it.")


def _tensor(tensors: dict[str, torch.Tensor], name: str, path: str | os.PathLike[str]) -> torch.Tensor:
    if name not in tensors:
        raise ValueError(f"{path}: the tensor {name} is missing")
    return tensors[name]


def _check_read(state: RWKV7Cache) -> None:
    if not all(state.has_previous_state(index) for index in range(len(state.layers))):
        raise ValueError("The state is empty: no token was read yet.")


def _layers(state: RWKV7Cache) -> list[LayerState]:
    """The tensors of a state, not copied.

    Raises:
        ValueError: If no token was read yet, or the state holds more than these.
    """
    layers = _states_of_layers(state)
    if state.seen is not None:
        raise ValueError(
            f"The state holds its context of {state.seen.rows.shape[1]} tokens, as an RWKV-7b model looks back at "
            "them: it can be forked, selected from and saved, but neither mixed, stacked nor exchanged."
        )
    return layers


def _states_of_layers(state: RWKV7Cache) -> list[LayerState]:
    """The tensors of a state but those of a context, not copied."""
    _check_read(state)
    return [
        LayerState(
            state.get_conv_state(index, TIME_MIX).squeeze(-1),
            state.get_recurrent_state(index),
            state.get_conv_state(index, CHANNEL_MIX).squeeze(-1),
        )
        for index in range(len(state.layers))
    ]


def _context_tensors(state: RWKV7Cache) -> dict[str, torch.Tensor]:
    """What the state of an RWKV-7b model holds besides, by names in a file."""
    if state.seen is None:
        return {}
    tensors = {f"tokens.{name}": getattr(state.seen, name) for name in _SEEN}
    for index, layer in enumerate(state.layers):
        tensors[f"layers.{index}.query"] = state.get_conv_state(index, QUERY).squeeze(-1)
        tensors |= {f"layers.{index}.{name}": tensor for name, tensor in layer.context.items()}
    return tensors


def _restore_context(
    state: RWKV7Cache, model: PreTrainedModel, tensors: dict[str, torch.Tensor], path: str | os.PathLike[str]
) -> None:
    """Puts what `_context_tensors` gave into a state for `model`."""
    weight = _text_model(model).embeddings.weight
    seen = {name: _tensor(tensors, f"tokens.{name}", path) for name in _SEEN}
    state.seen = SeenTokens(**{name: tensor.to(weight.device) for name, tensor in seen.items()})
    for index, layer in enumerate(state.layers):
        state.update_shift_state(_tensor(tensors, f"layers.{index}.query", path).to(weight), index, QUERY)
        for name in (*LOW_RANKS, *TABLES):
            layer.context[name] = _tensor(tensors, f"layers.{index}.{name}", path).to(weight)


def _check_alike(states: Sequence[list[LayerState]]) -> None:
    shapes = {tuple(tensor.shape[1:] for layer in state for tensor in layer) for state in states}
    if len(shapes) > 1:
        raise ValueError("The states are of models of different sizes.")


def _new_state(model: PreTrainedModel, layers: list[LayerState], seen_tokens: int, source: str) -> RWKV7Cache:
    """A state for `model`, in its dtypes and on its devices.

    Raises:
        ValueError: If a shape does not fit; the message begins with `source`.
    """
    text_model = _text_model(model)
    config = text_model.config
    token, wkv = (config.hidden_size,), (config.num_heads, config.head_dim, config.head_dim)
    moved = []
    for index, (layer, block) in enumerate(zip(layers, text_model.layers, strict=True)):
        for (name, tensor), shape in zip(layer._asdict().items(), (token, wkv, token), strict=True):
            if tuple(tensor.shape[1:]) != shape:
                found = tuple(tensor.shape[1:])
                raise ValueError(f"{source}the {name} of layer {index} has the shape {found}, expected {shape}.")
        weight = block.attn.r_k
        state_dtype = torch.promote_types(weight.dtype, torch.float32)
        moved.append(LayerState(layer[0].to(weight), layer[1].to(weight.device, state_dtype), layer[2].to(weight)))
    return _build(RWKV7Cache(config), moved, seen_tokens)


def _build(state: RWKV7Cache, layers: list[LayerState], seen_tokens: int) -> RWKV7Cache:
    """The empty `state`, filled with copies of these tensors."""
    query = state.config.deep_embed_attn_dim  # of RWKV-7b, which begins without a context
    for index, layer in enumerate(layers):
        if query is not None:
            state.update_shift_state(layer.time_mix.new_zeros(len(layer.time_mix), query), index, QUERY)
        state.update_shift_state(layer.time_mix, index, TIME_MIX)
        state.update_recurrent_state(layer.wkv, index)
        state.update_shift_state(layer.channel_mix, index, CHANNEL_MIX)
    state.seen_tokens = seen_tokens
    return state

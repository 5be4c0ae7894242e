# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Back-propagation through time in chunks ("infctx"): sequences of any length in the memory of one chunk.

The recurrent state goes from chunk to chunk. Truncated, no gradient goes back with it, as in RWKV-PEFT's infctx. Else
the gradient is that of the whole sequence: the states between the chunks are found first, then the chunks are gone
through from the last to the first, each computed once more and given the gradient of the state that it left.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from ...modeling_rwkv7_world.cache_rwkv7 import RWKV7Cache
from ...modeling_rwkv7_world.causal_lm_loss import IGNORED_LABEL


# What has a column for every token, and what stands in a column that is added
_OF_TOKENS = {"input_ids": 0, "attention_mask": 0, "position_ids": 0, "l2wrap": 0}
# What a chunk has of one token more, the one that its last token predicts
_OF_PREDICTED = {"labels": IGNORED_LABEL, "loss_weights": 0}
MAX_SEED = 2**62

# By modality the inputs that a composite encodes
_MEDIA = {"image": ("pixel_values", "image_grid_thw"), "audio": ("input_features", "input_features_mask")}


@dataclass
class ChunkedBatch:
    """A batch in chunks of time.

    Attributes:
        inputs: Of the model, with `input_ids`, `labels` and `loss_weights`, all (batch, time), and no raw media.
        chunk_length: Tokens of a chunk.
        features: By "image" and "audio" the projected features of all media, (tokens, 1 + layers, hidden): those that
            stand for the tokens, then those of the DeepStack, layer by layer.
        placeholders: Likewise where these belong, (batch, time) bool.
    """

    inputs: Mapping[str, Any]
    chunk_length: int
    features: Mapping[str, torch.Tensor] = field(default_factory=dict)
    placeholders: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self._leaves = {
            kind: features.detach().requires_grad_(features.requires_grad) for kind, features in self.features.items()
        }

    def __len__(self) -> int:
        return -(-self.inputs["input_ids"].shape[1] // self.chunk_length)

    def chunk(self, index: int, with_media_graph: bool = False) -> dict[str, Any]:
        """Inputs of the model for one chunk.

        Args:
            index: Which.
            with_media_graph: Whether its media belong to the graph of what encoded them; for all others gradients of
                media are kept for [`ChunkedBatch.media_gradient`].
        """
        start = index * self.chunk_length
        stop = start + self.chunk_length
        chunk = dict(self.inputs)
        chunk |= {name: chunk[name][:, start:stop] for name in _OF_TOKENS if chunk.get(name) is not None}
        chunk |= {name: chunk[name][:, start : stop + 1] for name in _OF_PREDICTED}
        media = {}
        for kind, mask in self.placeholders.items():
            rows = (mask.flatten().cumsum(0).view_as(mask) - 1)[:, start:stop][mask[:, start:stop]]
            features = (self.features if with_media_graph else self._leaves)[kind][rows]
            if len(rows):
                # Out of sight of FSDP, which takes the gradient of an input for the end of the module's backward pass
                tokens, *layers = features.unbind(1)
                deepstack = [[layer] for layer in layers] or None
                media[kind] = SimpleNamespace(pooler_output=[tokens], deepstack_features=deepstack)
        return chunk | ({"mm_encoder_outputs": media} if media else {})

    @property
    def device(self) -> torch.device:
        """Where the batch is."""
        return self.inputs["input_ids"].device

    def has_loss(self, index: int) -> bool:
        """Whether a chunk predicts anything, or has penalties of L2Wrap."""
        first, length = index * self.chunk_length, self.chunk_length
        predicted = self.inputs["labels"][:, first + 1 : first + 1 + length] != IGNORED_LABEL
        penalties = self.inputs.get("l2wrap")
        return bool(predicted.any()) or (penalties is not None and bool(penalties[:, first : first + length].any()))

    def media_gradient(self, scale: float) -> torch.Tensor | float:
        """Something whose gradient is what the chunks so far found for the media, over `scale`."""
        pairs = [(self.features[kind], leaf.grad) for kind, leaf in self._leaves.items() if leaf.grad is not None]
        return sum((features * (gradient / scale)).sum() for features, gradient in pairs)


def encode_media(model: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[dict, dict, dict]:
    """The inputs without raw media, and what [`ChunkedBatch`] has of these: features and where they belong.

    Raises:
        ValueError: If there are not as many placeholders as features, or if the text model attends to images.
    """
    inputs, features, placeholders = dict(inputs), {}, {}
    for kind, names in _MEDIA.items():
        raw = {name: inputs.pop(name) for name in names if inputs.get(name) is not None}
        if not raw:
            continue
        encode = getattr(model, f"get_{kind}_features")
        encoded = encode(**raw, return_dict=True)
        if getattr(encoded, "memories", None) is not None:
            raise ValueError("chunk_length: tokens that attend to whole images cannot be trained in chunks of time.")
        layers = [encoded.pooler_output, *(getattr(encoded, "deepstack_features", None) or ())]
        features[kind] = torch.stack([torch.cat(list(layer)) for layer in layers], dim=1)
        placeholders[kind] = inputs["input_ids"] == getattr(model.config, f"{kind}_token_id")
        found, expected = int(placeholders[kind].sum()), len(features[kind])
        if found != expected:
            raise ValueError(f"The batch has {found} {kind} placeholders for {expected} {kind} features.")
    return inputs, features, placeholders


def lengthen(inputs: Mapping[str, Any], time: int) -> dict[str, Any]:
    """Pads a batch on the right to at least `time` tokens, so that all processes go through as many chunks."""
    missing = time - inputs["input_ids"].shape[1]
    inputs = dict(inputs)
    if missing <= 0:
        return inputs
    if inputs.get("attention_mask") is None:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for name, value in {**_OF_TOKENS, **_OF_PREDICTED}.items():
        if inputs.get(name) is not None:
            inputs[name] = F.pad(inputs[name], (0, missing), value=value)
    return inputs


@dataclass
class ChunkRunner:
    """How a chunk is computed and differentiated.

    Attributes:
        config: Of the model.
        loss: Takes the inputs of a chunk and the state before it, which it makes the state after it; gives the loss.
        backward: Differentiates.
        holding_back: A context in which processes do not exchange gradients.
        loss_scale: What `backward` multiplies what it differentiates with.
        may_skip: Whether a chunk may go without a backward pass if it predicts nothing.
    """

    config: PreTrainedConfig
    loss: Callable[[dict[str, Any], RWKV7Cache], torch.Tensor]
    backward: Callable[[torch.Tensor], None]
    holding_back: Callable[[], AbstractContextManager] = nullcontext
    loss_scale: float = 1.0
    may_skip: bool = True

    @torch.no_grad()
    def evaluate(self, batch: ChunkedBatch) -> torch.Tensor:
        """The loss of a batch."""
        cache = RWKV7Cache(self.config, rows_may_begin=True)
        return sum(self.loss(batch.chunk(index), cache) for index in range(len(batch)))

    def truncated(self, batch: ChunkedBatch) -> torch.Tensor:
        """The loss of a batch, and gradients that end where a chunk begins."""
        cache, total, last = RWKV7Cache(self.config, rows_may_begin=True), 0.0, len(batch) - 1
        for index in range(len(batch)):
            is_last = index == last
            with_graph = is_last or not self.may_skip or batch.has_loss(index)
            with self._exchange(is_last), torch.set_grad_enabled(with_graph):
                loss = self.loss(batch.chunk(index, with_media_graph=is_last), cache)
                if with_graph:
                    self.backward(loss + (batch.media_gradient(self.loss_scale) if is_last else 0.0))
            cache.replace_states([state.detach() for state in cache.state_tensors()])
            total = total + loss.detach()
        return total

    def whole(self, batch: ChunkedBatch) -> torch.Tensor:
        """The loss of a batch, and gradients of the whole sequence; each chunk but the last is computed twice."""
        seeds = torch.randint(MAX_SEED, (len(batch),)).tolist()
        states = self._states_before(batch, seeds)
        total, gradients = 0.0, []
        for index in reversed(range(len(batch))):
            is_last = index == 0
            cache = states.pop()
            before = [state.detach().requires_grad_() for state in cache.state_tensors()]
            cache.replace_states([state.clone() for state in before])  # the model writes into them
            with self._exchange(is_last):
                with _seeded(seeds[index], batch.device):
                    loss = self.loss(batch.chunk(index, with_media_graph=is_last), cache)
                later = _inner_product(cache.state_tensors(), gradients) if gradients else 0.0
                self.backward(loss + later + (batch.media_gradient(self.loss_scale) if is_last else 0.0))
            gradients = [state.grad / self.loss_scale for state in before]
            total = total + loss.detach()
        return total

    @torch.no_grad()
    def _states_before(self, batch: ChunkedBatch, seeds: list[int]) -> list[RWKV7Cache]:
        """The state before each chunk."""
        states = [RWKV7Cache(self.config, rows_may_begin=True)]
        for index in range(len(batch) - 1):
            states.append(deepcopy(states[-1]))
            with _seeded(seeds[index], batch.device):
                self.loss(batch.chunk(index), states[-1])
        return states

    def _exchange(self, is_last: bool) -> AbstractContextManager:
        """Processes exchange gradients once, when all of the batch are there."""
        return nullcontext() if is_last else self.holding_back()


def _inner_product(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> torch.Tensor:
    return sum((one * other).sum() for one, other in zip(tensors, others, strict=True))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The same random numbers whenever a chunk is computed, as for dropout."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield

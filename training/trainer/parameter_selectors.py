# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that a recipe names: what is trained, what stays frozen, and at which learning rate."""

import re
from collections.abc import Iterable

from torch import nn


# By name, what the names of a part's parameters hold. A parameter belongs to every part that it matches, and to "text"
# where it matches none of the towers and projectors.
_PATTERNS = {
    "vision_encoder": r"(^|\.)vision_tower\.",
    "audio_encoder": r"(^|\.)audio_tower\.",
    "encoder": r"(^|\.)(vision|audio)_tower\.",
    "vision_projector": r"(^|\.)(vision_projector|deepstack_projectors)\.",
    "audio_projector": r"(^|\.)audio_projector\.",
    "projector": r"(^|\.)((vision|audio)_projector|deepstack_projectors)\.",
    "auxiliary": r"^auxiliary\.",
    "embeddings": r"^(?!auxiliary).*(^|\.)embeddings\.weight$",
    "head": r"(^|\.)lm_head\.",
}
_CONSTANT = re.compile(r"(^|\.)audio_tower\.embed_positions\.")  # Whisper's sinusoids
_OUTSIDE_TEXT = ("encoder", "projector", "auxiliary")
ALL_PARTS = ("text", "projector", "encoder")  # that there are in any model, of which none lies in another
PARTS = (*(name for name in _PATTERNS if name != "auxiliary"), "text")


def parts_of(name: str) -> list[str]:
    """The parts that the parameter `name` belongs to, the narrowest first."""
    parts = [part for part, pattern in _PATTERNS.items() if re.search(pattern, name)]
    if any(part in _OUTSIDE_TEXT for part in parts):
        return [part for part in parts if part not in ("embeddings", "head")]
    return [*parts, "text"]


def check_parts(names: Iterable[str], model: nn.Module) -> None:
    """Refuses names of parts that there are not, or that the model does not have.

    Raises:
        ValueError: Names the part and those that the model has.
    """
    present = {part for name, _ in model.named_parameters() for part in parts_of(name)}
    for part in names:
        if part not in present:
            having = ", ".join(name for name in PARTS if name in present)
            raise ValueError(f"{part!r} is no part of the model to train; this model has {having}")


def trains_anything(train: Iterable[str], freeze: Iterable[str]) -> bool:
    """Whether there can be a model of which these parts leave something to train."""
    endings = ("vision_tower.x", "audio_tower.x", "vision_projector.x", "audio_projector.x", "embeddings.weight")
    return any(
        _is_trained(f"model.{name}", set(train), set(freeze)) for name in (*endings, "lm_head.weight", "norm.x")
    )


def _is_trained(name: str, train: set[str], freeze: set[str]) -> bool:
    parts = set(parts_of(name))
    return _CONSTANT.search(name) is None and bool(train & parts) and not freeze & parts


def set_trainable(model: nn.Module, train: Iterable[str], freeze: Iterable[str] = ()) -> None:
    """Freezes all but some parts, of which constants stay frozen: the positions of Whisper's encoder.

    Args:
        model: A text model or a composite.
        train: Parts to train, of `PARTS`.
        freeze: Parts of these to freeze all the same, for instance "embeddings".

    Raises:
        ValueError: If the model has no such part, or nothing remains to train.
    """
    train, freeze = set(train), set(freeze)
    check_parts([*train, *freeze], model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_trained(name, train, freeze))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"nothing is left to train: train is {sorted(train)}, freeze is {sorted(freeze)}")

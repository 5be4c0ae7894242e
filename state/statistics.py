# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""States as embeddings of texts: every element standardised (z-score) over varied texts."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..conversion.output import usual_mode
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7StateEncoding


__all__ = ["StateStatistics"]

PARTS = RWKV7StateEncoding._fields
EPS = 1e-6  # added to deviations: a number that never changes stays 0


class StateStatistics:
    """Mean and deviation of every number of a model's states, collected batch by batch.

    ```python
    statistics = StateStatistics()
    for batch in varied_texts:
        statistics.update(model.model.encode_state(**batch))
    features = statistics.normalize(model.model.encode_state(**texts))  # (texts, features)
    ```
    """

    def __init__(self):
        self.count = 0
        self.mean: dict[str, torch.Tensor] = {}
        self.squares: dict[str, torch.Tensor] = {}  # sum of squared distances from the mean

    def update(self, states: RWKV7StateEncoding) -> None:
        """Takes the states of more texts into account (Chan, Golub and LeVeque's parallel update, in float64).

        Raises:
            ValueError: If they are of another model than those before.
        """
        batch = len(states.recurrent)
        total = self.count + batch
        for name, tensor in states._asdict().items():
            tensor = tensor.detach().double()
            mean = tensor.mean(dim=0)
            squares = (tensor - mean).square().sum(dim=0)
            if self.count:
                self._check(name, mean)
                distance = mean - self.mean[name]
                squares += self.squares[name] + distance.square() * (self.count * batch / total)
                mean = self.mean[name] + distance * (batch / total)
            self.mean[name], self.squares[name] = mean, squares
        self.count = total

    def normalize(self, states: RWKV7StateEncoding, parts: tuple[str, ...] = PARTS) -> torch.Tensor:
        """Feature vectors of texts, (batch, features), float32.

        Args:
            states: What `encode_state` returned.
            parts: Which vectors to take, in this order: "time_mix", "recurrent", "channel_mix".

        Raises:
            ValueError: If fewer than two texts were seen, a part is unknown, or the states are of another model.
        """
        if self.count < 2:
            raise ValueError(f"A deviation takes at least 2 texts, {self.count} were seen: call update first.")
        features = []
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"Unknown part {part!r}, expected {', '.join(PARTS)}.")
            tensor = getattr(states, part).double()
            self._check(part, tensor[0])
            deviation = (self.squares[part] / (self.count - 1)).sqrt()
            features.append(((tensor - self.mean[part]) / (deviation + EPS)).flatten(1))
        return torch.cat(features, dim=1).float()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file."""
        tensors = {f"mean.{name}": tensor for name, tensor in self.mean.items()}
        tensors |= {f"squares.{name}": tensor for name, tensor in self.squares.items()}
        save_file(tensors | {"count": torch.tensor(self.count)}, path)
        usual_mode(Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "StateStatistics":
        """Reads what `save` wrote.

        Raises:
            OSError: If there is no such file.
            ValueError: If the file holds something else.
        """
        statistics = cls()
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: no safetensors file, or a truncated one ({error}).") from error
        expected = {f"{kind}.{name}" for kind in ("mean", "squares") for name in PARTS}
        if tensors.keys() != expected | {"count"}:
            raise ValueError(f"{path}: holds no statistics of states.")
        shapes = {name: tensors[f"mean.{name}"].shape for name in PARTS}
        if tensors["count"].numel() != 1 or any(tensors[f"squares.{name}"].shape != shapes[name] for name in PARTS):
            raise ValueError(f"{path}: means, squares and count of the statistics do not go together.")
        statistics.count = int(tensors.pop("count"))
        for name, tensor in tensors.items():
            kind, _, part = name.partition(".")
            getattr(statistics, kind)[part] = tensor
        return statistics

    def _check(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.shape != self.mean[name].shape:
            raise ValueError(
                f"The {name} state has shape {tuple(tensor.shape)}, those seen before {tuple(self.mean[name].shape)}."
            )

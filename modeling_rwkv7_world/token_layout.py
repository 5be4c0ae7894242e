# Copyright 2026 The rwkv7-world authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Which tokens of a batch are real and which token precedes each: padding and packing, worked out once per forward."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers.utils.import_utils import is_tracing

from ..kernels.dispatch import Execution, choose_execution


if TYPE_CHECKING:
    from .token_context import TokenContext


# Rows that `previous` and `last` look up: what a sequence starts from, the carried row, then the tokens themselves.
START_ROW, CARRIED_ROW, FIRST_TOKEN_ROW = 0, 1, 2


@dataclass
class PackedSequences:
    """Sequences packed in the rows of a batch, as segments of the flattened (batch * time) axis.

    Attributes:
        cu_seqlens: (segments + 1,) boundaries.
        first: (continued,) segments that begin a row and continue its cached state.
        continued: (continued,) rows of which the first token continues the cached state; others begin a new sequence.
        last: (batch,) segment that ends each row: the one whose final state the row keeps.
    """

    cu_seqlens: torch.Tensor
    first: torch.Tensor
    continued: torch.Tensor
    last: torch.Tensor


@dataclass
class TokenLayout:
    """The neighbours of every token, and what runs the layers. Without padding or packing the first four are `None`.

    Attributes:
        mask: (batch, time) bool, true for real tokens.
        previous: (batch, time) row of the previous real token of the same sequence, see [`TokenLayout.shift`].
        last: (batch,) row of the last real token.
        packed: Segments of a packed batch.
        token_ids: (batch, time), for layers that look tokens up.
        context: All tokens so far, for layers that attend to them.
        executions: What runs the layers, by the kind of device, as `execution` decided it.
    """

    mask: torch.Tensor | None = None
    previous: torch.Tensor | None = None
    last: torch.Tensor | None = None
    packed: PackedSequences | None = None
    token_ids: torch.Tensor | None = None
    context: "TokenContext | None" = None
    executions: dict[str, Execution] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | dict | None = None,
        position_ids: torch.Tensor | None = None,
        past_length: int = 0,
        rows_may_begin: bool = False,
    ) -> "TokenLayout":
        """Works out the layout of one forward pass.

        Args:
            inputs_embeds: (batch, time, hidden).
            attention_mask: (batch, past + time), 0 for padding, anywhere in a row; or the mapping by layer type that
                `generate` prepares for caches of fixed size.
            position_ids: (batch, time). A position 0 on a real token that is not the first of its row starts a new
                packed sequence.
            past_length: Tokens seen before, which a mask may cover too.
            rows_may_begin: Whether a position 0 on the first token of a row starts a new sequence too, and does not
                continue the cached state.

        Raises:
            ValueError: If there are no tokens, or the mask does not fit.
        """
        if inputs_embeds.shape[1] == 0:
            raise ValueError(f"The input has no tokens: its shape is {tuple(inputs_embeds.shape[:2])}.")
        mask = _local_mask(attention_mask, inputs_embeds, past_length)
        starts = _packed_starts(position_ids, mask, inputs_embeds, rows_may_begin)
        if mask is None and starts is None:
            return cls()
        batch, time = inputs_embeds.shape[:2]
        rows = torch.arange(FIRST_TOKEN_ROW, time + FIRST_TOKEN_ROW, device=inputs_embeds.device).expand(batch, time)
        latest = rows if mask is None else _latest_real(rows, mask)
        previous = torch.cat([torch.full_like(latest[:, :1], CARRIED_ROW), latest[:, :-1]], dim=1)
        if starts is None:
            return cls(mask, previous, latest[:, -1])
        return cls(mask, previous.masked_fill(starts, START_ROW), latest[:, -1], _pack(starts))

    @property
    def is_plain(self) -> bool:
        """Whether there is neither padding nor packing."""
        return self.previous is None

    def execution(self, hidden_states: torch.Tensor, head_dim: int) -> Execution:
        """What runs the layers on these hidden states: decided once a forward pass, for each kind of device.

        Raises:
            ValueError: If `RWKV7_BACKEND` names what cannot run.
        """
        device_type = hidden_states.device.type
        if device_type not in self.executions:
            self.executions[device_type] = choose_execution(hidden_states, head_dim)
        return self.executions[device_type]

    def over_sequences(
        self, recurrence: Callable, inputs: tuple[torch.Tensor | None, ...], states: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs a recurrence over the sequences of the batch.

        Args:
            recurrence: Takes the inputs, `initial_state`, `mask` and `cu_seqlens` as `wkv7` does.
            inputs: (batch, time, ...) each, or `None`.
            states: What every sequence starts from, as `initial_state` of `wkv7`.

        Returns:
            (batch, time, ...) and the state after the last token of every row.
        """
        if self.packed is None:
            return recurrence(*inputs, initial_state=states, mask=self.mask, cu_seqlens=None)
        batch, time = inputs[0].shape[:2]
        mask = None if self.mask is None else self.mask.view(1, -1)
        rows = (None if x is None else x.reshape(1, batch * time, *x.shape[2:]) for x in inputs)
        y, states = recurrence(*rows, initial_state=states, mask=mask, cu_seqlens=self.packed.cu_seqlens)
        return y.view(batch, time, *y.shape[2:]), states[self.packed.last]

    def shift(
        self, hidden_states: torch.Tensor, carried: torch.Tensor, start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The previous token of every token, and the token that the next forward pass has to carry.

        Args:
            hidden_states: (batch, time, hidden).
            carried: (batch, hidden), last real token of the forward pass before.
            start: (batch, hidden), what stands before the first token of a packed sequence.

        Returns:
            (batch, time, hidden) and (batch, hidden).
        """
        if self.is_plain:
            return torch.cat([carried[:, None], hidden_states[:, :-1]], dim=1), hidden_states[:, -1]
        table = torch.cat([start[:, None], carried[:, None], hidden_states], dim=1)
        rows = torch.cat([self.previous, self.last[:, None]], dim=1)[..., None]  # (B, T + 1, 1)
        found = table.gather(1, rows.expand(-1, -1, hidden_states.shape[-1]))
        return found[:, :-1], found[:, -1]


def _local_mask(attention_mask, inputs_embeds, past_length) -> torch.Tensor | None:
    """The bool mask of the current tokens, or `None` if all are real."""
    if isinstance(attention_mask, dict):
        attention_mask = attention_mask["linear_attention"]
    if attention_mask is None:
        return None
    batch, time = inputs_embeds.shape[:2]
    fits = attention_mask.dim() == 2 and attention_mask.shape[0] == batch
    if not fits or not time <= attention_mask.shape[1] <= past_length + time:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}, expected ({batch}, {past_length} + {time}): "
            "a recurrent model has no other mask than padding."
        )
    mask = attention_mask[:, -time:].bool()
    return None if not is_tracing(mask) and mask.all() else mask


def _latest_real(rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch, time) row of the last real token up to and including each, by operators that ONNX has."""
    count = mask.cumsum(dim=1)  # (B, T) real tokens up to and including each
    row_of_nth = torch.full_like(rows[:, :1], CARRIED_ROW).expand(-1, rows.shape[1] + 1)  # (B, T + 1)
    row_of_nth = row_of_nth.scatter(1, count * mask, rows.masked_fill(~mask, CARRIED_ROW))
    return row_of_nth.gather(1, count)


def _packed_starts(position_ids, mask, inputs_embeds, rows_may_begin: bool) -> torch.Tensor | None:
    """(batch, time) bool, true where a packed sequence starts inside a row, or `None` if none does."""
    batch, time = inputs_embeds.shape[:2]
    if position_ids is None or (time == 1 and not rows_may_begin):
        return None
    starts = (position_ids == 0).expand(batch, time)
    if rows_may_begin:
        starts = starts if mask is None else starts & mask
    elif mask is None:
        starts = torch.cat([torch.zeros_like(starts[:, :1]), starts[:, 1:]], dim=1)
    else:
        starts = starts & mask & (mask.cumsum(dim=1) > 1)
    return starts if starts.any() else None


def _pack(starts: torch.Tensor) -> PackedSequences:
    """Segments of the flattened batch; every row begins one too."""
    batch, time = starts.shape
    begins_anew = starts[:, 0]
    row_start = torch.zeros_like(starts)
    row_start[:, 0] = True
    starts = (starts | row_start).flatten()
    boundaries = starts.nonzero().flatten()
    segment = starts.cumsum(0).view(batch, time) - 1
    continued = (~begins_anew).nonzero().flatten()
    return PackedSequences(
        cu_seqlens=torch.cat([boundaries, boundaries.new_full((1,), batch * time)]),
        first=segment[continued, 0],
        continued=continued,
        last=segment[:, -1],
    )


def add_to_tokens(hidden_states: torch.Tensor, mask: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    """Hidden states with something added to some of them.

    Args:
        hidden_states: (batch, time, hidden).
        mask: (batch, time, 1), true at the tokens.
        added: (tokens, hidden), in the order of the tokens.
    """
    # The layers of a model may lie on several devices
    mask, added = mask.to(hidden_states.device), added.to(hidden_states)
    return hidden_states + torch.zeros_like(hidden_states).masked_scatter(mask, added)

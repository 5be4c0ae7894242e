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
"""The tokens that the attention of RWKV-7b looks back at, worked out once per forward pass for all layers.

A token is kept as its id alone. What layers make of an id is kept once for every different token, in tables of the
layers, so a token is a row of those tables.
"""

from dataclasses import dataclass, replace

import torch

from .cache_rwkv7 import RWKV7Cache, SeenTokens
from .token_layout import START_ROW, TokenLayout


NO_ROW = -1


@dataclass
class TokenContext:
    """Tokens so far, `past` of them from the cache and `time` in this forward pass.

    Attributes:
        previous: (batch, past + time), 1 + the place of the previous real token of the same sequence; 0 without one.
            `None` if that is the token before, in every row.
        allowed: (batch, time, past + time) bool, which tokens a token attends to: those of its sequence up to itself.
        rows: (batch, past + time), rows of the tokens in the layers' tables; `None` if nothing is kept.
        fresh: (new rows,), places in the flattened (batch * time) of tokens that no row was for, one for each.
    """

    previous: torch.Tensor | None
    allowed: torch.Tensor
    rows: torch.Tensor | None = None
    fresh: torch.Tensor | None = None

    @classmethod
    def build(
        cls, layout: TokenLayout, token_ids: torch.Tensor, vocab_size: int, cache: RWKV7Cache | None
    ) -> "TokenContext":
        """Works out the context of one forward pass, and adds its tokens to those that `cache` has seen.

        Args:
            layout: Of this forward pass.
            token_ids: (batch, time).
            vocab_size: More than the largest id.
            cache: The state to continue.
        """
        token_ids, seen = token_ids.long(), None if cache is None else cache.seen
        segments = _segments(layout, token_ids, seen)  # (B, T)
        all_segments = segments if seen is None else torch.cat([seen.segments, segments], dim=1)  # (B, S)
        places = torch.arange(all_segments.shape[1], device=token_ids.device)
        is_past = places <= places[-token_ids.shape[1] :, None]  # (T, S)
        is_plain = layout.is_plain and (seen is None or seen.is_plain)
        # Padding attends to padding, since a row without any score would be NaN; nothing else looks at it
        allowed = is_past & (segments[..., None] == all_segments[:, None])  # (B, T, S)
        context = cls(None if is_plain else _previous(all_segments), allowed)
        if cache is None:
            return context
        if seen is None:
            none = token_ids[:, :0]
            seen = SeenTokens(none, none, token_ids.new_full((vocab_size,), NO_ROW))
        context.fresh, row_of_id = _with_new_rows(token_ids, seen.row_of_id)
        context.rows = torch.cat([seen.rows, row_of_id[token_ids]], dim=1)
        cache.seen = SeenTokens(context.rows, all_segments, row_of_id, is_plain)
        return context

    def to(self, device: torch.device) -> "TokenContext":
        """The same on a device, itself if it is there."""
        if self.allowed.device == device:
            return self
        tensors = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **tensors)

    def shift(self, x: torch.Tensor) -> torch.Tensor:
        """What stood before each token of the context, zeros before the first of a sequence; (batch, S, size)."""
        if self.previous is None:
            return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        table = torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
        return table.gather(1, self.previous[..., None].expand_as(x))


def _segments(layout: TokenLayout, token_ids: torch.Tensor, seen: SeenTokens | None) -> torch.Tensor:
    """(batch, time), which sequence of its row a token belongs to, from 1; 0 for padding."""
    current = torch.ones_like(token_ids[:, :1])
    if seen is not None:
        current = seen.segments.amax(dim=1, keepdim=True).clamp(min=1)
    segments = current.expand_as(token_ids)
    if layout.packed is not None:
        segments = segments + (layout.previous == START_ROW).cumsum(dim=1)
    return segments if layout.mask is None else segments.masked_fill(~layout.mask, 0)


def _previous(segments: torch.Tensor) -> torch.Tensor:
    """1 + the place of the previous real token of the same sequence, or 0; all (batch, S)."""
    places = torch.arange(1, segments.shape[1] + 1, device=segments.device).expand_as(segments)
    latest = places.masked_fill(segments == 0, 0).cummax(dim=1).values
    before = torch.cat([torch.zeros_like(latest[:, :1]), latest[:, :-1]], dim=1)
    segment_before = torch.cat([torch.zeros_like(segments[:, :1]), segments], dim=1).gather(1, before)
    return before.masked_fill(segment_before != segments, 0)


def _with_new_rows(token_ids: torch.Tensor, row_of_id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of tokens that have no row, one for each id, and the rows of all ids with theirs behind the others."""
    flat = token_ids.flatten()
    places = (row_of_id[flat] == NO_ROW).nonzero().flatten()
    ids, which = torch.unique(flat[places], return_inverse=True)
    fresh = torch.empty_like(ids).scatter_(0, which, places)  # any of the places of an id
    rows = torch.arange(len(ids), device=ids.device) + (row_of_id != NO_ROW).sum()
    return fresh, row_of_id.index_copy(0, ids, rows)

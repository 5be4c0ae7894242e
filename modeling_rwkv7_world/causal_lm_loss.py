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
"""Next-token loss from hidden states: weighted, with L2Wrap, and without ever holding the logits of all tokens."""

from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


IGNORED_LABEL = -100


class _L2Wrap(torch.autograd.Function):
    """Leaves the loss as it is, and adds `penalty * max` to the gradient of the largest logit of every token.

    RWKV-LM's regulariser against logits that grow without bound; it scales with the gradient of the loss.
    """

    @staticmethod
    def forward(ctx, loss, logits, penalties):
        largest, ids = logits.max(dim=-1, keepdim=True)
        ctx.save_for_backward(largest * penalties[:, None], ids)
        ctx.shape = logits.shape
        return loss.clone()

    @staticmethod
    def backward(ctx, grad_loss):
        penalties, ids = ctx.saved_tensors
        grad_logits = penalties.new_zeros(ctx.shape).scatter_(-1, ids, penalties * grad_loss)
        return grad_loss, grad_logits, None


def wants_own_loss(labels: torch.Tensor | None, *options: torch.Tensor | int | None) -> bool:
    """Whether the loss is [`causal_lm_loss`], for one of its options was given, and not that of transformers.

    Raises:
        ValueError: If an option was given without labels.
    """
    given = any(option is not None for option in options)
    if given and labels is None:
        raise ValueError("loss_weights, loss_chunk_size and l2wrap are of a loss, but there are no labels.")
    return given


def causal_lm_loss(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden_states: torch.Tensor,
    labels: torch.Tensor,
    loss_weights: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    loss_chunk_size: int | None = None,
    l2wrap: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum of the tokens' cross-entropies times their weights, in float32.

    Logits are made only of tokens that are predicted, or of all for L2Wrap. With `loss_chunk_size` they are made of so
    many tokens at a time, and once more in the backward pass, so that memory does not grow with their number.

    Args:
        head: Hidden states (tokens, hidden) to logits (tokens, vocabulary).
        hidden_states: (batch, time, hidden).
        labels: (batch, time), not shifted: position `t` is predicted from `t - 1`. -100 is not predicted. With one
            column more, as where a text comes in chunks, the last hidden state predicts that.
        loss_weights: as `labels`, the weight of every label; by default all weigh 1 / `num_items_in_batch`.
        num_items_in_batch: What the sum is divided by where there are no weights; by default the number of labels.
        loss_chunk_size: Tokens whose logits exist at once; by default all.
        l2wrap: (batch, time), the penalty of L2Wrap at each position; RWKV-LM has 1e-4 / (batch * time) everywhere.
    """
    time = hidden_states.shape[1]
    next_labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)[:, :time].flatten().to(hidden_states.device)
    predicted = next_labels != IGNORED_LABEL
    if loss_weights is None:
        count = predicted.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        weights = predicted / count
    else:
        weights = F.pad(loss_weights[:, 1:], (0, 1))[:, :time].flatten() * predicted
    if l2wrap is None:
        tokens = predicted.nonzero().squeeze(-1)
    else:
        tokens = torch.arange(len(next_labels), device=hidden_states.device)
        l2wrap = l2wrap.flatten()
    rows = (hidden_states.flatten(0, 1)[tokens], next_labels[tokens], weights[tokens])

    if len(tokens) == 0:
        return hidden_states.float().sum() * 0.0  # a part of the graph, as every process of a distributed run expects
    loss, size = 0.0, loss_chunk_size or len(tokens)
    for start in range(0, len(tokens), size):
        chunk = slice(start, start + size)
        inputs = (head, *(part[chunk] for part in rows), None if l2wrap is None else l2wrap[chunk])
        if loss_chunk_size is None or not torch.is_grad_enabled():
            loss = loss + _chunk_loss(*inputs)
        else:
            loss = loss + checkpoint(_chunk_loss, *inputs, use_reentrant=False, preserve_rng_state=False)
    return loss


def _chunk_loss(head, hidden_states, labels, weights, penalties) -> torch.Tensor:
    logits = head(hidden_states).float()  # (tokens, vocabulary)
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED_LABEL, reduction="none")
    loss = (losses * weights).sum()
    return loss if penalties is None else _L2Wrap.apply(loss, logits, penalties)

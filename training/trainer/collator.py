# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of conversations or text to batches, whatever they hold; what cannot be learned from is skipped and listed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ...data.conversations import BadRowError, clean_messages
from ...data.skipped_rows import SkippedRows, row_source
from ...modeling_rwkv7_world.causal_lm_loss import IGNORED_LABEL
from ..auxiliary import TARGETS
from .labels import LABEL_RULES, learned_tokens
from .sequences import Sequence, pack, pad


# Rows without a good one among them before it is taken for a mistake in the recipe
MAX_BAD_ROWS = 100
Targets = Callable[[ProcessorMixin | PreTrainedTokenizerBase, list[dict]], dict[str, torch.Tensor]]


@dataclass
class ConversationCollator:
    """Makes batches of rows, see [`data.conversations`].

    A row that cannot be read, has an empty answer or nothing to learn, or would lose a part of a picture or clip to
    `max_length`, is left out and listed.

    Args:
        processor: Processor of a composite, or tokenizer of a text model.
        max_length: Tokens of a sample, or of a row with `packing`; longer samples lose their end.
        labels: One of `LABEL_RULES`, see [`learned_tokens`]; plain text is learned whole.
        mask_first_tokens: Tokens at the start of every answer that are not learned.
        packing: Whether samples stand one after the other in rows of `max_length`, each with a state of its own.
        strict: Whether a bad row ends the run.
        skipped: The list of skipped rows.
        targets: Makes the targets of an auxiliary loss of the rows.

    Raises:
        ValueError: If an option is not one of these.
    """

    processor: ProcessorMixin | PreTrainedTokenizerBase
    max_length: int | None = None
    labels: str = "assistant"
    mask_first_tokens: int = 0
    packing: bool = False
    strict: bool = False
    skipped: SkippedRows = field(default_factory=SkippedRows)
    targets: Targets | None = None

    def __post_init__(self):
        if self.labels not in LABEL_RULES:
            raise ValueError(f"labels is {self.labels!r}, expected one of {', '.join(LABEL_RULES)}")
        if self.packing and self.max_length is None:
            raise ValueError("packing needs max_length, the tokens of a packed row")
        self._bad_in_a_row = 0

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, of the processor if there is one."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def skipped_rows(self) -> int:
        """How many rows are on the list."""
        return len(self.skipped)

    def __call__(self, rows: list[dict | None]) -> dict[str, torch.Tensor]:
        """The batch of those rows that are good: `input_ids`, `attention_mask`, `labels`, all (batch, time), media.

        `None` stands for no row, see [`pad_last_batch`].

        Raises:
            ValueError: If a row is bad and `strict` is set, or very many are, one after the other.
        """
        rows = [row for row in rows if row is not None]
        try:
            good, (sequences, media) = rows, self._encode(rows)
        except Exception as error:
            good = [row for row in rows if self.is_good(row)]
            if len(good) == len(rows):  # together they fail, alone they do not
                raise error
            sequences, media = self._encode(good)
        if good:
            self._bad_in_a_row = 0
        return self._batch(sequences) | media | self._targets(good)

    def prompts(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """The rows without their last answers, padded on the left for `generate`."""
        conversations = [clean_messages(row["messages"])[:-1] for row in rows]
        return self._apply_template(conversations, add_generation_prompt=True, padding_side="left")

    def check(self, rows: list[dict]) -> None:
        """Refuses rows of which not one can be learned from, as where a recipe and its data do not fit.

        Raises:
            ValueError: Says what is the matter with the first.
        """
        reasons = []
        for row in rows:
            try:
                self._encode([row])
                return
            except Exception as error:  # as in `is_good`
                reasons.append(f"{row_source(row)}: {_reason(error)}")
        raise ValueError(f"not one of the first {len(rows)} rows can be learned from; {reasons[0]}")

    def is_good(self, row: dict) -> bool:
        """Whether a row can be encoded; if not, it is listed."""
        try:
            self._encode([row])
            return True
        except Exception as error:  # of files, decoders, templates: whatever the data does
            reason = _reason(error)
            self._bad_in_a_row += 1
            if self.strict or self._bad_in_a_row >= MAX_BAD_ROWS:
                many = "" if self.strict else f"{MAX_BAD_ROWS} rows without a good one, the last is "
                raise ValueError(f"{many}{row_source(row)}: {reason}") from error
            self.skipped.add(row, reason)
            return False

    def _encode(self, rows: list[dict]) -> tuple[list[Sequence], dict[str, torch.Tensor]]:
        """Sequences of the rows, conversations before texts, and their media."""
        conversations, texts = [], []  # a text as it is, or as its tokens
        for row in rows:
            if row.get("error"):
                raise BadRowError(row["error"])
            if row.get("messages") is not None:
                conversations.append(clean_messages(row["messages"]))
            elif text := row.get("text") or row.get("input_ids"):
                texts.append(text)
            else:
                raise BadRowError(f"a row needs messages, text or input_ids, this one has {sorted(row)} or is empty")
        sequences, media = self._encode_conversations(conversations) if conversations else ([], {})
        return sequences + [piece for text in texts for piece in self._encode_text(text)], media

    def _encode_conversations(self, conversations: list[list[dict]]) -> tuple[list[Sequence], dict]:
        batch = self._apply_template(conversations, return_assistant_tokens_mask=True)
        masks = np.asarray(batch.pop("assistant_masks")).astype(bool)
        token_ids, present = batch.pop("input_ids").numpy(), batch.pop("attention_mask").numpy().astype(bool)
        rows = zip(token_ids, masks, present, strict=True)
        return [self._sequence(ids[real], mask[real]) for ids, mask, real in rows], dict(batch)

    def _sequence(self, token_ids: np.ndarray, assistant_mask: np.ndarray) -> Sequence:
        media_ids = self._media_token_ids
        learned = learned_tokens(
            token_ids, assistant_mask, self.labels, media_ids, self._header_length, self.mask_first_tokens
        )
        whole = Sequence(token_ids, np.where(learned, token_ids, IGNORED_LABEL))
        sequence = whole[: self.max_length]
        if np.isin(whole.token_ids[len(sequence) :], media_ids).any():
            raise BadRowError(f"{len(whole)} tokens: max_length {self.max_length} would cut a picture or clip")
        if (sequence.labels[1:] == IGNORED_LABEL).all():
            raise BadRowError(f"nothing to learn in the first {len(sequence)} of {len(whole)} tokens")
        return sequence

    def _encode_text(self, text: str | list[int]) -> list[Sequence]:
        """The text between the tokens that begin and end one, or the tokens given; when packing, all in pieces."""
        if isinstance(text, str):
            tokenizer = self.tokenizer
            ends = [[] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
            text = [*ends[0], *tokenizer.encode(text, add_special_tokens=False), *ends[1]]
        token_ids = np.array(text)
        sequence = Sequence(token_ids, token_ids)
        return sequence.split(self.max_length) if self.packing else [sequence[: self.max_length]]

    def _apply_template(self, conversations: list[list[dict]], padding_side: str = "right", **kwargs) -> dict:
        options = {"padding": True, "padding_side": padding_side}
        if isinstance(self.processor, ProcessorMixin):
            extractor = getattr(self.processor, "feature_extractor", None)
            rate = {} if extractor is None else {"sampling_rate": extractor.sampling_rate}
            kwargs["processor_kwargs"] = options | rate
        else:
            kwargs |= options
        return dict(
            self.processor.apply_chat_template(
                conversations, tokenize=True, return_dict=True, return_tensors="pt", **kwargs
            )
        )

    def _batch(self, sequences: list[Sequence]) -> dict[str, torch.Tensor]:
        pad_id = self.tokenizer.pad_token_id or 0
        if not sequences:
            nothing = pad([Sequence(np.array([pad_id]), np.array([IGNORED_LABEL]))], pad_id)
            return nothing | {"attention_mask": torch.zeros_like(nothing["attention_mask"])}
        return pack(sequences, self.max_length, pad_id) if self.packing else pad(sequences, pad_id)

    def _targets(self, rows: list[dict]) -> dict:
        if self.targets is None or not rows:
            return {}
        return {TARGETS: self.targets(self.processor, rows)}

    @cached_property
    def _media_token_ids(self) -> list[int]:
        found = (getattr(self.processor, f"{kind}_token_id", None) for kind in ("image", "audio"))
        return [token for token in found if token is not None]

    @cached_property
    def _header_length(self) -> int:
        """Tokens of what opens an assistant's turn; a prompt may have more, such as that there is no thinking."""
        if self.labels != "assistant_turn":
            return 0
        question, answer = (
            {"role": role, "content": [{"type": "text", "text": "?"}]} for role in ("user", "assistant")
        )
        asked = dict(self._apply_template([[question]]))["input_ids"]
        answered = dict(self._apply_template([[question, answer]], return_assistant_tokens_mask=True))
        return int(np.argmax(np.asarray(answered["assistant_masks"])[0])) - asked.shape[1]


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)

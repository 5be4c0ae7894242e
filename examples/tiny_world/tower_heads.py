# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Linear heads that teach the towers while the language model learns, and are thrown away afterwards.

The towers of a published model come trained; Tiny World's begin from nothing, and what the language model's answers
tell them is faint at first. So linear maps read them too: the words of a clip off its encoder's frames, aligned by CTC
as in hybrid CTC/attention recognition (arXiv 1609.06773), and color and thing off a picture's quarters.
"""

import torch
from scenes import NOTHING
from torch import nn
from torch.nn import functional as F
from transformers import ProcessorMixin

from rwkv7_world import RWKVWorldForConditionalGeneration
from rwkv7_world.configuration.feature_lengths import audio_frame_length


BLANK = 0  # CTC's, the id of the end-of-text token, which no transcript holds
IGNORED = -100


class WithTowerHeads(nn.Module):
    """A model and its heads, for the HF Trainer: the loss is the language model's plus that of the heads."""

    def __init__(self, model: RWKVWorldForConditionalGeneration):
        super().__init__()
        text_config = model.config.text_config
        self.model = model
        self.clip_head = nn.Linear(model.config.audio_config.hidden_size, text_config.vocab_size)
        self.color_head = nn.Linear(text_config.hidden_size, text_config.vocab_size)
        self.thing_head = nn.Linear(text_config.hidden_size, text_config.vocab_size)

    # Every argument by name: the Trainer takes a `**kwargs` for the promise to average over both micro-batches itself.
    def forward(
        self,
        input_ids,
        attention_mask,
        labels,
        pixel_values=None,
        quarters=None,
        input_features=None,
        input_features_mask=None,
        transcripts=None,
    ) -> dict[str, torch.Tensor]:
        """What the model takes, with `transcripts` or `quarters` of [`tower_labels`]."""
        encoded, loss = {}, 0.0
        if pixel_values is not None:
            encoded["image"] = self.model.get_image_features(pixel_values)
            loss = loss + self._picture_loss(torch.stack(encoded["image"].pooler_output), quarters)
        if input_features is not None:
            encoded["audio"] = self.model.get_audio_features(input_features, input_features_mask)
            convolutions = self.model.config.audio_encoder_convolutions
            lengths = audio_frame_length(input_features_mask.sum(-1), convolutions)
            loss = loss + self._clip_loss(encoded["audio"].last_hidden_state, lengths, transcripts)
        outputs = self.model(input_ids, attention_mask=attention_mask, labels=labels, mm_encoder_outputs=encoded)
        return {"loss": outputs.loss + loss}

    def _clip_loss(self, frames: torch.Tensor, lengths: torch.Tensor, transcripts: torch.Tensor) -> torch.Tensor:
        scores = self.clip_head(frames).log_softmax(-1).transpose(0, 1)  # (frames, clips, vocabulary)
        spoken = transcripts != IGNORED
        return F.ctc_loss(scores, transcripts[spoken], lengths, spoken.sum(-1), blank=BLANK, zero_infinity=True)

    def _picture_loss(self, features: torch.Tensor, quarters: torch.Tensor) -> torch.Tensor:
        half = round(features.shape[1] ** 0.5) // 2
        # (pictures, half of the rows, row, half of the columns, column, hidden) -> (pictures * 4 quarters, hidden)
        means = features.unflatten(1, (2, half, 2, half)).mean((2, 4)).flatten(0, 2)
        color, thing = quarters.flatten(0, 1).unbind(-1)
        return F.cross_entropy(self.color_head(means), color) + F.cross_entropy(self.thing_head(means), thing)


def tower_labels(processor: ProcessorMixin, rows: list[dict]) -> dict[str, torch.Tensor]:
    """What the heads shall read off rows of one kind, as token ids.

    Returns:
        `transcripts`, (clips, words), with `IGNORED` after the last word, or `quarters`, (pictures, 4, 2), the color
        and the thing in each quarter; a printed word is in all four.
    """

    def token_ids(text: str) -> torch.Tensor:
        return torch.tensor(processor.tokenizer.encode(f" {text}"))

    if "text" in rows[0]:
        transcripts = [token_ids(row["text"]) for row in rows]
        return {"transcripts": nn.utils.rnn.pad_sequence(transcripts, batch_first=True, padding_value=IGNORED)}
    quarters = []
    for row in rows:
        pairs = [token_ids(part.replace(NOTHING, f"{NOTHING} {NOTHING}")) for part in row["caption"].split(", ")]
        quarters.append(torch.stack(pairs).expand(4, 2))
    return {"quarters": torch.stack(quarters)}

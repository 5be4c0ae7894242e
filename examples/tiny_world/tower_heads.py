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
from rwkv7_world.training.auxiliary import AuxiliaryLoss


BLANK = 0  # CTC's, the id of the end-of-text token, which no transcript holds
IGNORED = -100


class TowerHeads(AuxiliaryLoss):
    """The heads, as the recipe names them."""

    def __init__(self, model: RWKVWorldForConditionalGeneration, processor: ProcessorMixin):
        super().__init__(model, processor)
        text_config = model.config.text_config
        self.clip_head = nn.Linear(model.config.audio_config.hidden_size, text_config.vocab_size)
        self.color_head = nn.Linear(text_config.hidden_size, text_config.vocab_size)
        self.thing_head = nn.Linear(text_config.hidden_size, text_config.vocab_size)

    @staticmethod
    def targets(processor: ProcessorMixin, rows: list[dict]) -> dict[str, torch.Tensor]:
        """What the heads shall read off rows of one kind, as token ids.

        Returns:
            `transcripts`, (clips, words), with `IGNORED` after the last word, or `quarters`, (pictures, 4, 2), the
            color and the thing in each quarter; a printed word is in all four.
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

    def forward(self, model, inputs: dict, targets: dict) -> tuple[torch.Tensor, dict]:
        """The heads' loss, and the inputs with the features that they read in place of pictures and clips."""
        inputs, encoded, loss = dict(inputs), {}, 0.0
        if "pixel_values" in inputs:
            encoded["image"] = model.get_image_features(inputs.pop("pixel_values"))
            loss = loss + self._picture_loss(torch.stack(encoded["image"].pooler_output), targets["quarters"])
        if "input_features" in inputs:
            mask = inputs.pop("input_features_mask")
            encoded["audio"] = model.get_audio_features(inputs.pop("input_features"), mask)
            lengths = audio_frame_length(mask.sum(-1), model.config.audio_encoder_convolutions)
            loss = loss + self._clip_loss(encoded["audio"].last_hidden_state, lengths, targets["transcripts"])
        return loss, {**inputs, "mm_encoder_outputs": encoded}

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

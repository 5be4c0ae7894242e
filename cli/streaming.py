# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""An answer printed as it is generated, without the text that ends it."""

from collections.abc import Sequence

from transformers import TextStreamer

from ..processing.answers import NO_THOUGHTS, answer_text, overlap, text_before


class AnswerStreamer(TextStreamer):
    """Prints the answer as it comes up to the first of `endings`, and keeps back what may be the beginning of one.

    Args:
        decoder: Tokenizer or processor of the model.
        endings: Texts that end the answer when they are generated, and are not part of it.
        begun: What the prompt has of the answer; thoughts that it says are none are not printed.
    """

    def __init__(self, decoder, endings: Sequence[str], begun: str = ""):
        super().__init__(decoder, skip_prompt=True, skip_special_tokens=True)
        self.endings = endings
        self.kept_back, self.has_ended = begun, False
        self.thoughtless = begun if begun.endswith("</think") else None

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = self.kept_back + text
        if self.thoughtless is not None and not stream_end:
            found = NO_THOUGHTS.match(text)
            if text == self.thoughtless or (found and found.end() == len(text)):
                self.kept_back = text
                return
            text, self.thoughtless = text[found.end() if found else 0 :], None
        before = text_before(text, self.endings)
        if self.has_ended or before != text or stream_end:
            shown, self.kept_back = "" if self.has_ended else answer_text(text, self.endings), ""
            self.has_ended = self.has_ended or before != text
        else:
            held = max((overlap(text, ending) for ending in self.endings), default=0)
            shown, self.kept_back = text[: len(text) - held], text[len(text) - held :]
        super().on_finalized_text(shown, stream_end=stream_end)

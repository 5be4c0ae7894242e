# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""An answer printed as it is generated, without the text that ends it."""

from transformers import TextStreamer


class AnswerStreamer(TextStreamer):
    """Prints the answer as it comes, but keeps back what may be the beginning of `ending`, and drops `ending`.

    Args:
        decoder: Tokenizer or processor of the model.
        ending: Text that ends the answer when it is generated, and is not part of it.
    """

    def __init__(self, decoder, ending: str):
        super().__init__(decoder, skip_prompt=True, skip_special_tokens=True)
        self.ending = ending
        self.kept_back = ""

    def on_finalized_text(self, text: str, stream_end: bool = False):
        text = self.kept_back + text
        if stream_end:
            super().on_finalized_text(text.removesuffix(self.ending), stream_end=True)
            return
        lengths = range(min(len(self.ending), len(text)), 0, -1)
        held = next((length for length in lengths if self.ending.startswith(text[-length:])), 0)
        self.kept_back = text[len(text) - held :]
        super().on_finalized_text(text[: len(text) - held])

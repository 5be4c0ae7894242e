# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A composite as a model of VLMEvalKit (github.com/open-compass/VLMEvalKit, `pip install ms-vlmeval`).

It knows models by name. This script adds one, and takes the options of its `run.py`, as
`--model my-model --data MMBench_DEV_EN`:

    from functools import partial
    from rwkv7_world.evaluation.harnesses.vlmevalkit import RWKVWorld
    from vlmeval.config import supported_VLM
    from vlmeval.run import main

    supported_VLM["my-model"] = partial(RWKVWorld, pretrained="FOLDER")
    main()
"""

from collections.abc import Sequence

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
from vlmeval.vlm.base import BaseModel

from ...processing.answers import encode_conversations, generate_answers


DEFAULT_MAX_NEW_TOKENS = 256


class RWKVWorld(BaseModel):
    """Greedy answers of a composite to questions with any number of pictures, clips and videos in them.

    Args:
        pretrained: Folder of the model, or its id on the Hub.
        device: Where it runs; a GPU if there is one.
        dtype: Of its weights; "auto" is what they were saved in.
        max_new_tokens: Length of an answer at most.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image", "video", "audio")

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "auto",
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    ):
        super().__init__()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModelForMultimodalLM.from_pretrained(pretrained, dtype=dtype).to(device).eval()
        self._processor = AutoProcessor.from_pretrained(pretrained)
        self._max_new_tokens = max_new_tokens

    def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
        """The answer to one question.

        Args:
            message: Its parts in order, each a "type" and under "value" the text or the path of a file.
            dataset: Not needed: VLMEvalKit has written the prompt.
        """
        content = [{"type": part["type"], part["type"]: part["value"]} for part in message]
        inputs = encode_conversations(self._processor, [[{"role": "user", "content": content}]])
        (answer,) = generate_answers(
            self._model, self._processor, inputs, max_new_tokens=self._max_new_tokens, do_sample=False
        )
        return answer

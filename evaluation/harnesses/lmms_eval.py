# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A composite as a model of lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval), which finds it by its entry point.

python -m lmms_eval --model rwkv7_world --model_args pretrained=FOLDER --tasks mme --batch_size 8
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForMultimodalLM, AutoProcessor

from ...processing.answers import text_before
from ..answering import GreedyAnswers
from ..tasks.task import Sample, text_block


MANIFEST = ModelManifest("rwkv7_world", simple_class_path=f"{__name__}.RWKVWorld")
DEFAULT_MAX_NEW_TOKENS = 256
_MEDIA_MARKS = ("<image>", "<audio>")


class RWKVWorld(lmms):
    """Greedy answers of a composite to pictures and clips.

    Args:
        pretrained: Folder of the model, or its id on the Hub.
        device: Where it runs.
        dtype: Of its weights; "auto" is what they were saved in.
        batch_size: Questions at once.
    """

    def __init__(self, pretrained: str, device: str = "cuda", dtype: str = "auto", batch_size: int | str = 1, **_):
        super().__init__()
        model = AutoModelForMultimodalLM.from_pretrained(pretrained, dtype=dtype).to(device).eval()
        processor = AutoProcessor.from_pretrained(pretrained)
        self._answers = GreedyAnswers(model, processor, DEFAULT_MAX_NEW_TOKENS)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """An answer for each request, in order."""
        found = []
        with tqdm(total=len(requests), desc="answering", disable=self.rank != 0) as bar:
            for options, alike in groupby(requests, key=lambda request: request.args[1]):
                for batch in _batches(iter(alike), self._batch_size):
                    found += self._answer(batch, options)
                    bar.update(len(batch))
        return found

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not offered: for tasks of text alone there is lm_eval."""
        raise NotImplementedError("rwkv7_world answers; for likelihoods of text use lm_eval --model hf")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("rwkv7_world answers one question at a time")

    def _answer(self, requests: Sequence[Instance], options: dict[str, Any]) -> list[str]:
        answers = replace(self._answers, max_new_tokens=options.get("max_new_tokens", DEFAULT_MAX_NEW_TOKENS))
        samples = [self._sample(*request.args) for request in requests]
        until = options.get("until") or []
        endings = [until] if isinstance(until, str) else until
        return [text_before(text, endings).strip() for text in answers.answer(answers.encode(samples))]

    def _sample(self, question: str, options: dict, doc_to_visual, doc_id: int, task: str, split: str) -> Sample:
        media = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        for mark in _MEDIA_MARKS:
            question = question.replace(mark, "")
        return Sample(f"{task}-{doc_id}", (*map(_block, media), text_block(question.strip())))


def _block(medium: Any) -> dict:
    """A picture or clip as lmms-eval gives it, as a block.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(medium, Image.Image):
        return {"type": "image", "image": medium}
    if isinstance(medium, dict) and "array" in medium:
        return {"type": "audio", "audio": medium}
    raise ValueError(f"a medium of type {type(medium).__name__}, expected a picture or a clip")


def _batches(requests: Iterator[Instance], size: int) -> Iterator[list[Instance]]:
    while batch := list(islice(requests, size)):
        yield batch

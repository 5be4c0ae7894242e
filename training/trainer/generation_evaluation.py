# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation by generation: the model answers rows greedily, and its answers are scored and kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from ...configuration.optional_libraries import optional_imports
from ...data.conversations import BadRowError, clean_messages, media_blocks, message_text, reference_answer
from ...processing.media import read_images
from ..auxiliary import without_auxiliary
from .metrics import METRICS


with optional_imports():
    from accelerate.utils import gather_object


if TYPE_CHECKING:
    from .collator import ConversationCollator
    from .trainer import RWKVTrainer


PREDICTIONS_FOLDER = "predictions"
SHOWN = 3  # predictions printed and sent to TensorBoard
SHOWN_PIXELS = 512  # of an image there, at most, on a side
Metric = Callable[[list[str], list[str]], dict[str, float]]


@dataclass
class GenerationEvaluator:
    """Answers the first evaluation rows, and scores the answers against the last answer of each.

    Args:
        collator: Makes prompts of rows.
        metric: A name of [`METRICS`] or a function of (predictions, references).
        rows: How many rows to answer.
        max_new_tokens: Length of an answer at most.
        batch_size: Rows at once on each process.
    """

    collator: "ConversationCollator"
    metric: str | Metric = "exact_match"
    rows: int = 64
    max_new_tokens: int = 64
    batch_size: int = 8

    def __post_init__(self):
        if isinstance(self.metric, str) and self.metric not in METRICS:
            raise ValueError(f"generation: unknown metric {self.metric!r}, expected one of {', '.join(METRICS)}")

    def __call__(self, trainer: "RWKVTrainer", dataset, prefix: str) -> dict[str, float]:
        """Scores by name, each led by `prefix`; writes `predictions/step-N.jsonl` into the folder of the run."""
        process, processes = trainer.args.process_index, trainer.accelerator.num_processes
        count = min(self.rows, len(dataset))
        rows = [dataset[index] for index in range(process, count, processes)]
        starts = range(0, -(-count // processes), self.batch_size)  # as many batches on every process
        answers, asked = self._answer(trainer, [rows[start : start + self.batch_size] for start in starts])
        answered = gather_object(answers)  # those of the main process first
        if not answered:
            return {}
        metric = METRICS[self.metric] if isinstance(self.metric, str) else self.metric
        scores = metric([row["prediction"] for row in answered], [row["reference"] for row in answered])
        if trainer.is_world_process_zero():
            self._keep(trainer, answered, prefix)
            for writer in filter(
                None, (getattr(each, "tb_writer", None) for each in trainer.callback_handler.callbacks)
            ):
                for number, (row, answer) in enumerate(zip(asked[:SHOWN], answered, strict=False)):
                    _show(writer, f"{prefix}/predictions/{number}", trainer.state.global_step, row, answer)
        return {f"{prefix}_{name}": value for name, value in scores.items()}

    @torch.no_grad()
    def _answer(self, trainer: "RWKVTrainer", batches: list[list[dict]]) -> tuple[list[dict], list[dict]]:
        """What is kept of each good row of this process, and the rows."""
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        model = without_auxiliary(model).eval()
        # Processes that hold shares of a model go through it together, also one that has nothing left to answer
        together = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, "synced_gpus": together or None}
        answered, asked = [], []
        for rows in batches:
            good, inputs = self._prompts(rows)
            if not good and not together:
                continue
            inputs = trainer._prepare_inputs(inputs)
            if trainer.sync_modalities.counts_calls:
                inputs, _ = trainer.sync_modalities.align(inputs, has_rows=bool(good))
            output = model.generate(**inputs, **options)
            if not good:
                continue
            new_tokens = output[: len(good), inputs["input_ids"].shape[1] :]
            predictions = self.collator.processor.batch_decode(new_tokens, skip_special_tokens=True)
            answered += [
                {"prediction": said.strip(), "reference": reference_answer(row)}
                for said, row in zip(predictions, good, strict=True)
            ]
            asked += good
        return answered, asked

    def _prompts(self, rows: list[dict]) -> tuple[list[dict], dict]:
        """The good ones among the rows and their inputs; any input if there are none."""
        good = [row for row in rows if _has_answer(row) and self.collator.is_good(row)]
        if not good:
            return [], {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        return good, dict(self.collator.prompts(good))

    def _keep(self, trainer: "RWKVTrainer", answered: list[dict], prefix: str) -> None:
        step = trainer.state.global_step
        path = Path(trainer.args.output_dir, PREDICTIONS_FOLDER, f"{prefix}-step-{step}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answered), encoding="utf-8")
        for row in answered[:SHOWN]:
            print(f"step {step}: {row['prediction']!r} (expected {row['reference']!r})")


def _show(writer, tag: str, step: int, row: dict, answer: dict[str, str]) -> None:
    """Writes a row's question, images and answers to TensorBoard."""
    messages = clean_messages(row["messages"])[:-1]
    lines = [f"{message['role']}: {message_text(message)}" for message in messages]
    lines += [f"answer: {answer['prediction']}", f"expected: {answer['reference']}"]
    # Markdown of a code block, so that nothing in the texts is taken for markup
    writer.add_text(tag, "\n".join(f"    {line}" for line in "\n".join(lines).splitlines()), step)
    for number, block in enumerate(media_blocks(messages, "image")):
        image = read_images(next(block[key] for key in ("image", "path", "url", "base64") if key in block))
        image.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
        writer.add_image(f"{tag}/image{number}", np.asarray(image), step, dataformats="HWC")


def _has_answer(row: dict) -> bool:
    try:
        return bool(reference_answer(row))
    except BadRowError:
        return False

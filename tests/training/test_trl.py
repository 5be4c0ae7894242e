# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""TRL's SFTTrainer with our models: on its own, and with our collator where there are pictures."""

import datasets
import pytest
from transformers.utils import logging

from helpers import composites
from helpers.text_models import tiny_model
from helpers.training import write_llava
from rwkv7_world.data.formats import read_data
from rwkv7_world.training.trainer.collator import ConversationCollator


trl = pytest.importorskip("trl")
SETTINGS = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def quiet():
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # TRL still asks for gradient checkpointing by its old name
    yield
    logging.set_verbosity(verbosity)


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("options", [{"assistant_only_loss": True}, {"packing": True, "max_length": 48}])
def test_text_model_with_trl_alone(tmp_path, options):
    tokenizer = composites.tiny_tokenizer()
    messages = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "the red circle"}]
    trainer = trl.SFTTrainer(
        tiny_model(vocab_size=len(tokenizer)),
        trl.SFTConfig(output_dir=str(tmp_path), **SETTINGS, **options),
        train_dataset=datasets.Dataset.from_list([{"messages": messages}] * 16),
        processing_class=tokenizer,
    )
    values = losses(trainer)
    assert values[-1] < values[0]


def test_composite_with_our_collator(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    processor = composites.tiny_processor("siglip")
    settings = {**SETTINGS, "remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = trl.SFTTrainer(
        composites.tiny_composite("siglip"),
        trl.SFTConfig(output_dir=str(tmp_path), **settings),
        train_dataset=read_data(str(write_llava(tmp_path / "pictures"))),
        processing_class=processor,
        data_collator=ConversationCollator(processor),
    )
    values = losses(trainer)
    assert values[-1] < values[0]

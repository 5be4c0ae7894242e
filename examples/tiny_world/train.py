# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains Tiny World, an RWKV-7 with eyes and ears of a few million parameters, from nothing with the HF Trainer.

    python train.py data checkpoint

`data` is what `make_data.py` wrote; `checkpoint` gets the model and its processor by `save_pretrained`.
"""

import argparse
from pathlib import Path

from batches import Collator, Curriculum
from conversations import build_tokenizer
from datasets import load_from_disk
from tower_heads import WithTowerHeads
from transformers import (
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    Trainer,
    TrainingArguments,
    WhisperConfig,
    WhisperFeatureExtractor,
    set_seed,
)

from rwkv7_world import RWKV7Config, RWKVWorldConfig, RWKVWorldForConditionalGeneration, RWKVWorldProcessor
from rwkv7_world.processing.world_vocabulary import MULTIMODAL_TOKENS


IMAGE_SIZE, PATCH_SIZE = 64, 16
MEL_BINS, WINDOW_SECONDS = 40, 3
WIDTH, LAYERS, HEAD_DIM = 128, 3, 32


def build_config(tokenizer) -> RWKVWorldConfig:
    """A small SigLIP, a small Whisper encoder and a small RWKV-7."""
    tower = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 128, "intermediate_size": 384}
    whisper = {"d_model": 128, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 384}
    return RWKVWorldConfig(
        text_config=RWKV7Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            head_dim=HEAD_DIM,
            eos_token_id=tokenizer.encode("\x17")[0],
        ),
        vision_config=SiglipVisionConfig(image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, vision_use_head=False, **tower),
        # Whisper's encoder gives 50 frames a second
        audio_config=WhisperConfig(num_mel_bins=MEL_BINS, max_source_positions=50 * WINDOW_SECONDS, **whisper),
        vision_projector_hidden_size=2 * WIDTH,
        **{f"{token.name}_id": getattr(tokenizer, f"{token.name}_id") for token in MULTIMODAL_TOKENS},
    )


def build_processor(config: RWKVWorldConfig, tokenizer) -> RWKVWorldProcessor:
    """Stock preprocessing at the towers' sizes."""
    return RWKVWorldProcessor.from_model_config(
        config,
        tokenizer,
        SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Trains Tiny World from nothing.", epilog="example: python train.py build/data checkpoint"
    )
    parser.add_argument("data", type=Path, help="folder that make_data.py wrote")
    parser.add_argument("checkpoint", type=Path, help="folder for the trained model")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps, default 3000")
    parser.add_argument("--batch-size", type=int, default=64, help="samples a step, default 64")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak learning rate, default 1e-3")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    options = parser.parse_args()

    set_seed(options.seed)
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    processor = build_processor(config, tokenizer)
    model = RWKVWorldForConditionalGeneration(config)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    speech, scenes = (load_from_disk(options.data / name) for name in ("speech_train", "scenes_train"))
    arguments = TrainingArguments(
        output_dir=options.data.parent / "run",
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size // 2,
        gradient_accumulation_steps=2,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.0,  # RWKV decays matrices alone, which this short run does without
        train_sampling_strategy="sequential",
        adam_beta2=0.99,
        max_grad_norm=1.0,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        seed=options.seed,
    )
    micro_batch = options.batch_size // 2
    data = Curriculum([speech, scenes], options.steps * options.batch_size, micro_batch, options.seed)
    collator = Collator(processor, options.seed)
    Trainer(WithTowerHeads(model), arguments, train_dataset=data, data_collator=collator).train()
    model.save_pretrained(options.checkpoint)
    processor.save_pretrained(options.checkpoint)


if __name__ == "__main__":
    main()

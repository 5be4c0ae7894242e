# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny World's model and processor, both new: an RWKV-7 with vision and audio encoders of a few million parameters."""

from conversations import build_tokenizer
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, WhisperConfig, WhisperFeatureExtractor

from rwkv7_world import RWKV7Config, RWKVWorldConfig, RWKVWorldForConditionalGeneration, RWKVWorldProcessor
from rwkv7_world.processing.world_vocabulary import MULTIMODAL_TOKENS


IMAGE_SIZE, PATCH_SIZE = 64, 16
MEL_BINS, WINDOW_SECONDS = 40, 3
WIDTH, LAYERS, HEAD_DIM = 128, 3, 32


def build_model() -> tuple[RWKVWorldForConditionalGeneration, RWKVWorldProcessor]:
    """The model with random weights, and its processor."""
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    processor = build_processor(config, tokenizer)
    return RWKVWorldForConditionalGeneration(config), processor


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

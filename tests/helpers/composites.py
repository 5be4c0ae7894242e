# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny composites with every supported encoder, all parameters random, and the stock processors that go with them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    HubertConfig,
    PreTrainedConfig,
    Qwen3VLVisionConfig,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig

from rwkv7_world import (
    RWKV7Config,
    RWKVWorldConfig,
    RWKVWorldForConditionalGeneration,
    RWKVWorldProcessor,
    RWKVWorldTokenizer,
    TilesImageProcessorPil,
)


VISION_ENCODERS = ("siglip", "clip", "dinov2", "dinov2_with_registers")
GRID_ENCODERS = ("qwen3_vl", "qwen3_5")  # which see pictures of any size
AUDIO_ENCODERS = ("whisper", "wavlm", "hubert_layer", "hubert_group", "wav2vec2")

IMAGE_SIZE, PATCH_SIZE = 24, 8
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
# Tokens that each vision encoder puts in front of its patches
PREFIX_TOKENS = {"siglip": 0, "clip": 1, "dinov2": 1, "dinov2_with_registers": 1 + 2}

SAMPLING_RATE = 16_000
MEL_BINS = 8
WHISPER_SECONDS = 1

HIDDEN_SIZE = 32
WORDS = (b"User", b"Ass", b"istant", b"System", b" the", b" red", b"what", b"circle", b" <", b"><")


@cache
def tiny_tokenizer() -> RWKVWorldTokenizer:
    """Bytes, a few words and tokens that would swallow the start of a special string."""
    return RWKVWorldTokenizer.from_tokens(WORDS)


def vision_config(name: str) -> PreTrainedConfig:
    """Configuration of a tiny vision encoder, one of `VISION_ENCODERS` or `GRID_ENCODERS`."""
    transformer = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    size = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    if name == "siglip":
        return SiglipVisionConfig(intermediate_size=32, **transformer, **size)
    if name == "clip":
        return CLIPVisionConfig(intermediate_size=32, projection_dim=16, **transformer, **size)
    if name == "dinov2":
        return Dinov2Config(mlp_ratio=2, **transformer, **size)
    if name == "dinov2_with_registers":
        return Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=2, **transformer, **size)
    qwen = {"hidden_size": 16, "depth": 3, "num_heads": 2, "intermediate_size": 20, "out_hidden_size": HIDDEN_SIZE}
    qwen |= {"patch_size": PATCH_SIZE, "num_position_embeddings": 16}
    if name == "qwen3_5":
        return Qwen3_5VisionConfig(**qwen)
    if name == "qwen3_vl":
        return Qwen3VLVisionConfig(**qwen, deepstack_visual_indexes=[0, 2])
    raise KeyError(name)


def audio_config(name: str) -> PreTrainedConfig:
    """Configuration of a tiny audio encoder, one of `AUDIO_ENCODERS`; strides are those of the real ones."""
    if name == "whisper":
        return WhisperConfig(
            d_model=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=32,
            num_mel_bins=MEL_BINS,
            max_source_positions=50 * WHISPER_SECONDS,
        )
    config_class = {"wavlm": WavLMConfig, "wav2vec2": Wav2Vec2Config}.get(name, HubertConfig)
    return config_class(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="group" if name == "hubert_group" else "layer",
        do_stable_layer_norm=name == "wav2vec2",
        apply_spec_augment=False,
    )


def tiny_config(vision: str | None = None, audio: str | None = None, **kwargs) -> RWKVWorldConfig:
    """Configuration of a composite over `tiny_tokenizer`; `None` leaves a modality out, unless `kwargs` bring it."""
    tokenizer = tiny_tokenizer()
    text_config = RWKV7Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=2,
        head_dim=16,
        decay_low_rank_dim=8,
        gate_low_rank_dim=12,
        a_low_rank_dim=6,
        v_low_rank_dim=10,
    )
    named = ("vision_start", "vision_end", "image", "audio_start", "audio_end", "audio")
    token_ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in named}
    encoders = {
        "vision_config": None if vision is None else vision_config(vision),
        "audio_config": None if audio is None else audio_config(audio),
    }
    return RWKVWorldConfig(**{"text_config": text_config} | encoders | token_ids | kwargs)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Adds noise to every parameter, since the official initialisation has zero matrices that would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def tiny_composite(
    vision: str | None = None, audio: str | None = None, seed: int = 0, **kwargs
) -> RWKVWorldForConditionalGeneration:
    """A composite of `tiny_config` in evaluation mode, all parameters random.

    It never ends an answer by itself and never answers with a placeholder, which would want a feature.
    """
    torch.manual_seed(seed)
    model = randomize(RWKVWorldForConditionalGeneration(tiny_config(vision, audio, **kwargs)), seed).eval()
    with torch.no_grad():
        model.lm_head.weight[[model.config.image_token_id, model.config.audio_token_id]] = 0
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def save_tiny_composite(folder: Path, vision: str | None = None, audio: str | None = None) -> Path:
    """[`tiny_composite`] with its processor, saved in a folder."""
    tiny_composite(vision, audio).save_pretrained(folder)
    tiny_processor(vision, audio).save_pretrained(folder)
    return folder


def tiny_image_processor(name: str):
    """The stock image processor of a vision encoder, at its tiny size; or "tiles", for any encoder."""
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if name == "siglip":
        return SiglipImageProcessorPil(size=square)
    if name == "tiles":
        return TilesImageProcessorPil(tile_size=IMAGE_SIZE, size={"longest_edge": 2 * IMAGE_SIZE})
    if name in GRID_ENCODERS:  # 1 to 4 tokens of 16 by 16 pixels
        size = {"shortest_edge": (2 * PATCH_SIZE) ** 2, "longest_edge": (4 * PATCH_SIZE) ** 2}
        half = [0.5, 0.5, 0.5]
        return Qwen2VLImageProcessorPil(patch_size=PATCH_SIZE, size=size, image_mean=half, image_std=half)
    image_processor_class = CLIPImageProcessorPil if name == "clip" else BitImageProcessorPil
    return image_processor_class(size={"shortest_edge": IMAGE_SIZE}, crop_size=square)


def tiny_feature_extractor(name: str):
    """The stock feature extractor of an audio encoder, at its tiny size."""
    if name == "whisper":
        return WhisperFeatureExtractor(
            feature_size=MEL_BINS, chunk_length=WHISPER_SECONDS, sampling_rate=SAMPLING_RATE, n_fft=64
        )
    return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, do_normalize=True, return_attention_mask=True)


def tiny_processor(
    vision: str | None = None, audio: str | None = None, sees: str | None = None, **kwargs
) -> RWKVWorldProcessor:
    """The processor whose placeholder counts agree with `tiny_composite` of the same arguments.

    `sees` names another image processor than that of the vision encoder.
    """
    return RWKVWorldProcessor.from_model_config(
        tiny_config(vision, audio, **kwargs),
        tiny_tokenizer(),
        image_processor=None if vision is None else tiny_image_processor(sees or vision),
        feature_extractor=None if audio is None else tiny_feature_extractor(audio),
    )


def random_image(seed: int = 0, width: int = 30, height: int = 26, mode: str = "RGB") -> Image.Image:
    """A noise picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def random_clip(seed: int = 0, samples: int = 4000) -> np.ndarray:
    """Noise of `samples` float32 samples."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders from a local folder or the Hub: configuration, weights, and what prepares inputs for them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
    WhisperModel,
)

from ..configuration.configuration_vision_towers import GRID_ENCODERS
from ..modeling_rwkv7_world.checkpoint_files import can_be_hub_id


VISION_TYPES = ("siglip_vision_model", "clip_vision_model")
AUDIO_TYPES = ("whisper", "wavlm", "hubert")


@dataclass(frozen=True)
class Encoder:
    """An encoder as the composite holds it.

    Attributes:
        config: `vision_config` or `audio_config` of the composite.
        weights: By name inside the tower.
        preprocessor: Its image processor or feature extractor.
    """

    config: PreTrainedConfig
    weights: dict[str, torch.Tensor]
    preprocessor: Any


def read_encoder_config(
    source: str | os.PathLike[str], modality: str, known: tuple[str, ...] | None = None
) -> PreTrainedConfig:
    """Configuration of an encoder, of a two-tower model that of its vision tower.

    Args:
        source: A folder or a Hub id.
        modality: "vision" or "audio".
        known: Model types that will do; those that WorldRWKV used by default.

    Raises:
        FileNotFoundError: If there is no such folder, nor such a model on the Hub.
        ValueError: If it is of another model type.
    """
    source = _existing(source)
    config = _read(source, AutoConfig.from_pretrained, trust_remote_code=False)
    config = getattr(config, "vision_config", config)
    known = known or (VISION_TYPES if modality == "vision" else AUDIO_TYPES)
    if config.model_type not in known:
        raise ValueError(
            f"{source}: its model type is {config.model_type}, but the {modality} projector was trained on one of "
            f"{', '.join(known)}"
        )
    return config


def load_encoder(source: str | os.PathLike[str], config: PreTrainedConfig) -> Encoder:
    """Weights and preprocessor of an encoder whose configuration [`read_encoder_config`] gave.

    Raises:
        OSError: If a file cannot be had.
        ValueError: If weights are missing.
    """
    source = _existing(source)
    tower = load_tower(source, config)
    if config.model_type in (*VISION_TYPES, *GRID_ENCODERS):
        preprocessor = _read(source, AutoImageProcessor.from_pretrained, backend="pil", trust_remote_code=False)
    elif config.model_type == "whisper":
        preprocessor = _read(source, WhisperFeatureExtractor.from_pretrained)
    else:
        # That of facebook/hubert-large-ls960-ft: WorldRWKV fell back to it, whatever the encoder's own is
        preprocessor = Wav2Vec2FeatureExtractor(
            feature_size=1, sampling_rate=16_000, padding_value=0.0, do_normalize=True, return_attention_mask=True
        )
    return Encoder(config, tower.state_dict(), preprocessor)


def load_tower(source: str | os.PathLike[str], config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder itself, in the dtype it was saved in.

    Raises:
        OSError: If a file cannot be had.
        ValueError: If weights are missing.
    """
    source = _existing(source)
    if config.model_type == "whisper":
        tower_class = WhisperModel
    else:
        with torch.device("meta"):
            tower_class = type(AutoModel.from_config(config))
    options = {} if config.model_type == "whisper" else {"config": config}
    if config.model_type in GRID_ENCODERS:  # may lie in a whole Qwen3-VL or Qwen3.5
        options["key_mapping"] = {r"^model\.visual\.": "", r"^visual\.": ""}
    tower, report = _read(source, tower_class.from_pretrained, dtype="auto", output_loading_info=True, **options)
    # The decoder of Whisper is left out
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("decoder."))
    if missing:
        raise ValueError(f"{source}: weights of the encoder are missing, {len(missing)} in all, first {missing[0]}")
    return tower.encoder if config.model_type == "whisper" else tower


def _existing(source: str | os.PathLike[str]) -> str:
    """`source`; refuses what can only be a folder and is none."""
    name = os.fspath(source)
    folder = Path(name).expanduser()
    if folder.exists():
        return str(folder)
    if not can_be_hub_id(name) or "/" not in name:
        raise FileNotFoundError(f"{name}: no such folder of an encoder")
    return name


def _read(source: str, load, **kwargs):
    try:
        return load(source, **kwargs)
    except OSError as error:
        kind = FileNotFoundError if not Path(source).exists() else type(error)
        where = "not a folder here, and the Hub does not give it" if not Path(source).exists() else "cannot be read"
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise kind(f"{source}: the encoder is {where} ({reason}); --encoder takes a local folder") from error

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WorldRWKV's published checkpoints: the era and the encoder of each, which no tensor tells (docs/conversion.md)."""

from dataclasses import dataclass
from pathlib import Path


SIGLIP2 = "google/siglip2-base-patch16-384"
CLIP = "openai/clip-vit-large-patch14-336"
WAVLM_LARGE = "microsoft/wavlm-large"
WHISPER_BASE, WHISPER_SMALL = "openai/whisper-base", "openai/whisper-small"

# Encoders that WorldRWKV used, by modality and width; which one it was must be told where there are several
USUAL_ENCODERS = {
    ("vision", 768): (SIGLIP2,),
    ("vision", 1024): (CLIP,),
    ("audio", 512): (WHISPER_BASE,),
    ("audio", 768): (WHISPER_SMALL, "microsoft/wavlm-base-plus"),
    ("audio", 1024): (WAVLM_LARGE, "openai/whisper-medium", "facebook/hubert-large-ls960-ft"),
}


@dataclass(frozen=True)
class Published:
    """Era and encoder of a published checkpoint."""

    era: str
    encoder: str


PUBLISHED = {
    "RWKV7-0.4B-siglip2": Published("E1", SIGLIP2),
    "RWKV7-1.5B-siglip2": Published("E1", SIGLIP2),
    "RWKV7-3B-siglip2": Published("E1", SIGLIP2),
    "RWKV7-0.1B-wavlmLarge-ENASR-demo": Published("E1", WAVLM_LARGE),
    "RWKV7-0.4B-wavlmLarge-ENASR-demo": Published("E1", WAVLM_LARGE),
    "RWKV7-0.4B-wavlmLarge-CNASR-demo": Published("E1", WAVLM_LARGE),
    "RWKV7-0.4B-wavlmLarge-ENQA-demo": Published("E1", WAVLM_LARGE),
    "RWKV7-0.1B-WhisperS-ENASR-DEMO": Published("E1", WHISPER_SMALL),
    "RWKV7-0.4B-WhisperS-ENASR-DEMO": Published("E1", WHISPER_SMALL),
    "RWKV7-0.4B-WhisperS-ENQA-DEMO": Published("E1", WHISPER_SMALL),
    "RWKV7-0.1B-WhisperBase-ENASR-DEMO": Published("E2", WHISPER_BASE),
    "RWKV7-0.4B-G1-SigLIP2-ColdStart": Published("E2", SIGLIP2),
    "RWKV7-0.4B-G1-SigLIP2": Published("E2", SIGLIP2),
    "ModRWKV-0.4B-V1": Published("E5", SIGLIP2),
    "ModRWKV-0.4": Published("E5", SIGLIP2),
    "rwkvsee0.4B": Published("E6", SIGLIP2),
}


def find_published(path: Path) -> tuple[str, Published] | None:
    """The published checkpoint that a file or folder is, by its own name or that of a folder it lies in.

    The Hub's cache calls such a folder `models--OWNER--NAME`.
    """
    by_name = {name.lower(): name for name in PUBLISHED}
    for part in (path.stem, *reversed(path.parts)):
        name = by_name.get(part.split("--")[-1].lower())
        if name is not None:
            return name, PUBLISHED[name]
    return None

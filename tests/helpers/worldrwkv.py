# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WorldRWKV's checkpoints of every era with random weights, and a plain reading of what the originals computed.

Names, layers and equations are written down here from the published code, apart from the library. Encoders are stock
models of transformers, tiny and random, saved as their authors' repositories are.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    HubertForCTC,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTextConfig,
    Wav2Vec2FeatureExtractor,
    WavLMModel,
    WhisperForConditionalGeneration,
)

from .blinkdl import Sizes, fla_state_dict, random_checkpoint
from .composites import audio_config, randomize, tiny_feature_extractor, vision_config


VOCAB = 65536
HIDDEN = 64
ENCODER_DIM = 16
IMAGE_SIZE, PATCH_SIZE = 64, 8  # 8 x 8 patches, which pixel shuffle by 4 makes 4 tokens of
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
SIZES = Sizes(
    hidden=HIDDEN, vocab=VOCAB, head_size=32, decay_rank=8, a_rank=12, gate_rank=20, ffn=96, layer_0_has_v=True
)
SPEECH_ENCODERS = ("wavlm", "hubert", "whisper")


# --- Encoders --------------------------------------------------------------------------------------------------------


def save_encoder(folder: Path, name: str) -> PreTrainedModel:
    """Saves a tiny random encoder with its preprocessor under `folder`, and returns the whole model."""
    torch.manual_seed(1)
    model = randomize(_whole_model(name), seed=2).eval()
    model.save_pretrained(folder)
    _preprocessor(name).save_pretrained(folder)
    return model


def _whole_model(name: str) -> PreTrainedModel:
    if name in ("siglip", "clip"):
        vision = vision_config(name).to_dict() | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        text_class = SiglipTextConfig if name == "siglip" else CLIPTextConfig
        text = text_class(vocab_size=50, bos_token_id=0, eos_token_id=1, **small).to_dict()
        if name == "siglip":
            return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    if name == "whisper":
        return WhisperForConditionalGeneration(audio_config("whisper"))
    model_class = {"wavlm": WavLMModel, "hubert": HubertForCTC}[name]
    return model_class(audio_config("wavlm" if name == "wavlm" else "hubert_layer"))


def _preprocessor(name: str):
    square = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    if name == "siglip":
        return SiglipImageProcessorPil(size=square, resample=2)  # 2 is bilinear, as in google/siglip2-base-patch16-384
    if name == "clip":
        return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=square)
    if name == "whisper":
        return tiny_feature_extractor("whisper")
    # Of microsoft/wavlm-base-plus, which WorldRWKV never used: it fell back to that of HuBERT, which normalises
    return Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)


def encode_image(encoder: PreTrainedModel, name: str, pixels: torch.Tensor) -> torch.Tensor:
    """(features, dim) of one picture (channels, height, width): SigLIP after its last norm, CLIP before it."""
    tower = encoder.vision_model
    last = tower(pixels[None], output_hidden_states=True).hidden_states[-1][0]
    return tower.post_layernorm(last) if name == "siglip" else last


def encode_clip(encoder: PreTrainedModel, name: str, clip: np.ndarray, whole_window: bool = False) -> torch.Tensor:
    """(frames, dim) of one clip at 16 kHz, of Whisper up to the clip's end."""
    if name != "whisper":
        waveform = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)).float()
        return getattr(encoder, "hubert", encoder)(waveform[None]).last_hidden_state[0]
    inputs = _preprocessor("whisper")(clip, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    frames = encoder.model.encoder(inputs.input_features).last_hidden_state[0]
    return frames if whole_window else frames[: int(inputs.attention_mask.sum()) // 2 + 1]


def read_pixels(image: Image.Image, name: str) -> torch.Tensor:
    """(channels, height, width) as the originals made them: SigLIP2 squashes bilinearly, CLIP crops bicubically."""
    image = image.convert("RGB")
    if name == "siglip":
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        mean, std = (np.full(3, 0.5, dtype=np.float32),) * 2
    else:
        scale = IMAGE_SIZE / min(image.size)
        image = image.resize(tuple(int(scale * side) for side in image.size), Image.Resampling.BICUBIC)
        left, top = ((side - IMAGE_SIZE) // 2 for side in image.size)
        image = image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
        mean = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
        std = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
    values = (np.asarray(image, dtype=np.float32) / 255 - mean) / std
    return torch.from_numpy(values).permute(2, 0, 1)


def read_tiles(image: Image.Image) -> list[torch.Tensor]:
    """Tiles (channels, side, side) as E6's `autoimg` made them, by nanoVLM's `DynamicResize` with enlarging.

    In front of them stands the whole picture, shrunk as torchvision does tensors: bilinearly, with antialiasing.
    """
    side, longest = IMAGE_SIZE, 2 * IMAGE_SIZE
    scale = longest / max(image.size)
    shorter = math.ceil(min(image.size) * scale / side) * side
    width, height = (longest, shorter) if image.width >= image.height else (shorter, longest)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    values = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    places = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    tiles = [values[:, top : top + side, left : left + side] for top, left in places]
    # On numbers Pillow's filter is the same as torchvision's
    whole = [Image.fromarray(channel).resize((side, side), Image.Resampling.BILINEAR) for channel in values]
    return [torch.from_numpy(tile) for tile in (np.stack([np.asarray(channel) for channel in whole]), *tiles)]


# --- Checkpoints -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint. `family` is how its tensors are named: "modality", "split" or "hf"."""

    family: str
    projector: str  # "mlp", "vl_proj", "speech" or "pixel_shuffle"
    encoder: str
    ratio: int = 2  # width of the MLP over that of the text model
    kernel: int | None = None  # of the convolution in a vision projector
    has_encoder: bool = False
    hf_tower: str = "model."  # what stands before the tower's names in the HF attempt, by its date


def random_projector(kind: Kind) -> dict[str, torch.Tensor]:
    """A projector by the original's own names."""
    generator = torch.Generator().manual_seed(5)
    width = kind.ratio * HIDDEN

    def normal(*shape, mean=0.0, scale=1.0):
        return mean + scale * torch.randn(*shape, generator=generator)

    if kind.projector == "pixel_shuffle":
        return {"proj.weight": normal(HIDDEN, 16 * ENCODER_DIM, scale=0.06)}
    mlp = "proj" if kind.family == "modality" else "mlp"
    inputs = width if kind.projector == "speech" else ENCODER_DIM
    tensors = {
        f"{mlp}.0.weight": normal(width, inputs, scale=inputs**-0.5),
        f"{mlp}.0.bias": normal(width, scale=0.2),
        f"{mlp}.2.weight": normal(HIDDEN, width, scale=width**-0.5),
        f"{mlp}.2.bias": normal(HIDDEN, scale=0.2),
    }
    if kind.projector == "speech":
        tensors["conv.weight"] = normal(width, ENCODER_DIM, 3, scale=0.15)
        return tensors | {"conv.bias": normal(width, scale=0.2)}
    tensors |= {"pre_norm.weight": normal(HIDDEN, mean=1, scale=0.2), "pre_norm.bias": normal(HIDDEN, scale=0.2)}
    if kind.kernel is not None:
        tensors["conv.weight"] = normal(ENCODER_DIM, ENCODER_DIM, kind.kernel, scale=0.15)
    return tensors


def assemble(
    kind: Kind, text: dict[str, torch.Tensor], projector: dict[str, torch.Tensor], tower: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, named as in its era; `tower` is stored only where the era did so."""
    tower = tower if kind.has_encoder else {}
    if kind.family == "modality":
        renamed = {f"modality.world_encoder.adapter.{name}": tensor for name, tensor in projector.items()}
        return text | renamed | {f"modality.world_encoder.model.{name}": tensor for name, tensor in tower.items()}
    if kind.family == "split":
        renamed = {f"llm.{name}": tensor for name, tensor in text.items()}
        renamed |= {f"proj.{name}": tensor for name, tensor in projector.items()}
        return renamed | {f"encoder.model.{name}": tensor for name, tensor in tower.items()}
    fla = {name.replace("model.", "model.llm.", 1): tensor for name, tensor in fla_state_dict(text).items()}
    fla |= {f"model.proj.{name}": tensor for name, tensor in projector.items()}
    return fla | {f"model.encoder.{kind.hf_tower}{name}": tensor for name, tensor in tower.items()}


def random_text() -> dict[str, torch.Tensor]:
    """A text model by BlinkDL's names."""
    return random_checkpoint(SIZES)


# --- What the originals computed -------------------------------------------------------------------------------------


def see(kind: Kind, image: Image.Image) -> list[torch.Tensor]:
    """What the encoder sees of a picture, one after the other, (channels, height, width)."""
    return read_tiles(image) if kind.projector == "vl_proj" else [read_pixels(image, kind.encoder)]


def project(kind: Kind, w: dict[str, torch.Tensor], features: torch.Tensor, speech_padding: int = 2) -> torch.Tensor:
    """Token embeddings (tokens, hidden) of features (features, dim)."""
    if kind.projector == "pixel_shuffle":
        side = int(len(features) ** 0.5)
        x = features.view(side, side, -1)
        squares = [x[i : i + 4, j : j + 4].reshape(-1) for i in range(0, side, 4) for j in range(0, side, 4)]
        return torch.stack(squares) @ w["proj.weight"].T
    mlp = "proj" if kind.family == "modality" else "mlp"
    if kind.projector == "speech":
        features = F.conv1d(features.T, w["conv.weight"], w["conv.bias"], stride=2, padding=speech_padding).T
    elif kind.kernel is not None:
        features = F.conv1d(features.T, w["conv.weight"], stride=kind.kernel - 1).T
    hidden = F.linear(features, w[f"{mlp}.0.weight"], w[f"{mlp}.0.bias"])
    hidden = F.gelu(hidden) if kind.projector == "vl_proj" else F.relu(hidden)
    y = F.linear(hidden, w[f"{mlp}.2.weight"], w[f"{mlp}.2.bias"])
    if kind.projector in ("speech", "vl_proj"):
        return y
    return y + F.layer_norm(y, (HIDDEN,), w["pre_norm.weight"], w["pre_norm.bias"], eps=1e-5)


def text_logits(
    w: dict[str, torch.Tensor],
    x: torch.Tensor,
    after: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    group_norm_eps: float = 64e-5,
) -> torch.Tensor:
    """Logits (time, vocab) of embeddings (time, hidden), token by token; `after[i]` changes what layer i gives."""
    norm = lambda name, x: F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)  # noqa: E731
    x = norm("blocks.0.ln0", x)
    v_first = None
    for layer in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        y, v_first = _time_mix(w, att, norm(f"blocks.{layer}.ln1", x), v_first, group_norm_eps)
        x = x + y
        y = norm(f"blocks.{layer}.ln2", x)
        k = torch.relu(_shifted(y, w[ffn + "x_k"]) @ w[ffn + "key.weight"].T) ** 2
        x = x + k @ w[ffn + "value.weight"].T
        if after and layer in after:
            x = after[layer](x)
    return norm("ln_out", x) @ w["head.weight"].T


def _shifted(x: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return x + (before - x) * mix.flatten()


def _time_mix(w, att: str, x: torch.Tensor, v_first: torch.Tensor | None, group_norm_eps: float):
    w = {name.removeprefix(att): tensor for name, tensor in w.items() if name.startswith(att)}
    heads, size = w["r_k"].shape
    mixed = {s: _shifted(x, w[f"x_{s}"]) for s in "rwkvag"}
    r, k, v = (mixed[s] @ w[f"{name}.weight"].T for s, name in zip("rkv", ("receptance", "key", "value"), strict=True))
    a = torch.sigmoid(w["a0"].flatten() + mixed["a"] @ w["a1"] @ w["a2"])
    g = torch.sigmoid(mixed["g"] @ w["g1"]) @ w["g2"]
    decay = w["w0"].flatten() + torch.tanh(mixed["w"] @ w["w1"]) @ w["w2"]
    decay = torch.exp(-torch.exp(-F.softplus(-decay) - 0.5))
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * torch.sigmoid(w["v0"].flatten() + mixed["v"] @ w["v1"] @ w["v2"])
    kappa = F.normalize((k * w["k_k"].flatten()).view(-1, heads, size), dim=-1, eps=1e-12)
    k = k * (1 + (a - 1) * w["k_a"].flatten())
    r, k, v, a, decay = (tensor.view(-1, heads, size) for tensor in (r, k, v, a, decay))
    state, outputs = torch.zeros(heads, size, size), []  # (head, value, key)
    for t in range(len(x)):
        removed = (state @ -kappa[t, :, :, None]) @ (kappa[t] * a[t])[:, None]
        state = state * decay[t, :, None] + removed + v[t, :, :, None] @ k[t, :, None]
        outputs.append((state @ r[t, :, :, None]).flatten())
    y = F.group_norm(torch.stack(outputs), heads, w["ln_x.weight"], w["ln_x.bias"], eps=group_norm_eps)
    y = y + ((r * k * w["r_k"]).sum(-1, keepdim=True) * v).flatten(1)
    return (y * g) @ w["output.weight"].T, v_first

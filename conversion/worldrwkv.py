# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""WorldRWKV's and ModRWKV's checkpoints to Hub-ready folders, encoder, tokenizer and the era's template included."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..modeling_rwkv7_world.blinkdl_names import Change, Sizes, all_entries, sizes_of, text_config_of
from ..modeling_rwkv7_world.checkpoint_files import open_weights, read_tensors
from ..processing.chat_templates import ERA_CHAT_TEMPLATES
from ..processing.image_processing_pil_tiles import TilesImageProcessorPil
from ..processing.processing_rwkv_world import RWKVWorldProcessor
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from .blinkdl import Conversion
from .encoders import Encoder, load_encoder, read_encoder_config
from .folder import open_folder, progress_bar
from .output import whole_folder
from .text_checkpoint import absolute, naming, shapes_in_blinkdl
from .text_folders import WORLD_VOCAB_SIZE
from .weights import Shape, Weight, make_plan, place_in, write_plan
from .worldrwkv_names import (
    ERAS,
    VL_PROJ,
    Family,
    Parts,
    Projector,
    family_of,
    possible_eras,
    read_projector,
    split_parts,
)
from .worldrwkv_published import USUAL_ENCODERS, Published, find_published


# Tiles along the longer side of a picture where the projector is a VlProj
TILES_ALONG = 2
# Id of the character that ends a turn; WorldRWKV stops there, never samples token 0, and writes at most 500 tokens
TURN_END_ID, NEVER_SAMPLED_ID, MAX_NEW_TOKENS = 24, 0, 500


@dataclass(frozen=True)
class WorldConversion(Conversion):
    """What was converted; `other_eras` are those that the tensors do not rule out, if nothing told the era."""

    era: str = ""
    other_eras: tuple[str, ...] = ()
    template: str = ""
    encoder: str = ""


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that has been looked at, and nothing read yet but names and shapes."""

    source: Path
    family: Family
    parts: Parts
    sizes: Sizes
    projector: Projector
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]


def holds_worldrwkv(source: str | os.PathLike[str]) -> bool:
    """Whether a `.pth` file or a folder holds a checkpoint of WorldRWKV, by the names of its tensors.

    Raises:
        ValueError: If it cannot be read, or is of an era that is not supported.
        OSError: If it cannot be found.
    """
    source = absolute(source)
    try:
        return family_of(open_source(source)) is not None
    except ValueError as error:
        raise naming(source, error) from error


def convert_worldrwkv(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    era: str | None = None,
    encoder: str | os.PathLike[str] | None = None,
    template: str | None = None,
    speech_padding: int = 2,
    whole_window: bool = False,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> WorldConversion:
    """Writes a WorldRWKV checkpoint as a folder that the Auto classes load, with everything that it needs.

    Args:
        source: A `.pth` file of the eras E1 to E6, or a folder with the safetensors of ModRWKV's Hugging Face attempt.
        destination: A new or empty folder. If anything fails it is left as it was.
        era: "E1" to "E6". By default what is known of the published file of that name, else what the tensors tell.
        encoder: Folder or Hub id of the frozen encoder. By default that of the published file, or the usual one of
            the projector's width. Encoder weights in the checkpoint itself take precedence over it.
        template: A name in `ERA_CHAT_TEMPLATES`; by default that of the era, of a speech model "speech".
        speech_padding: Of the speech projector's convolution, which no tensor tells: 2, before March 4th, 2025 0.
        whole_window: Whether Whisper's features are kept beyond the end of a clip, as before March 12th, 2025.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the checkpoint is damaged, incomplete or none of these eras, if it does not go with `era` or
            with the encoder, or if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = absolute(source), absolute(destination)
    try:
        checkpoint = _look_at(source)
        published = find_published(source)
        era, other_eras = _choose_era(checkpoint, era, published and published[1])
        encoder = os.fspath(encoder or _usual_encoder(checkpoint.projector, published and published[1]))
    except ValueError as error:
        raise naming(source, error) from error
    template = template or ("speech" if checkpoint.projector.type == "speech" else era)
    if template not in ERA_CHAT_TEMPLATES:
        raise ValueError(f"unknown template {template!r}, expected one of {', '.join(ERA_CHAT_TEMPLATES)}")
    encoder_config = read_encoder_config(encoder, checkpoint.projector.modality)
    _check_width(checkpoint, encoder, encoder_config)
    loaded = load_encoder(encoder, encoder_config)
    weights, left_out = _weights_of(checkpoint, loaded)
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    config = _config(checkpoint, loaded, plan.dtypes["lm_head.weight"], speech_padding, whole_window)
    with whole_folder(destination) as folder, progress_bar(sum(plan.stored.values()), show_progress) as bar:
        write_plan(plan, folder, partial(read_source, source), bar, max_shard_size, place_in(source))
        _save_companions(folder, config, _preprocessor(checkpoint.projector, loaded), template)
    numbers = sum(plan.numbers.values())
    return WorldConversion(
        checkpoint.sizes, numbers, plan.written_dtypes, left_out, True, era, other_eras, template, encoder
    )


def open_source(source: Path) -> dict[str, torch.Tensor]:
    """All tensors of a `.pth` file or a folder by name, mapped: their bytes are read when used."""
    return open_folder(source) if source.is_dir() else open_weights(source)


def read_source(source: Path, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a `.pth` file or a folder, one by one."""
    if not source.is_dir():
        yield from read_tensors(source, names)
        return
    tensors = open_folder(source)
    for name in names:
        yield name, tensors[name]


def _look_at(source: Path) -> _Checkpoint:
    tensors = open_source(source)
    family = family_of(tensors)
    if family is None:
        raise ValueError("no WorldRWKV checkpoint: it has none of the names of E1 to E6")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    parts = split_parts(tensors, family)
    sizes = text_sizes(source, tensors, parts)
    projector = read_projector({name: shapes[name] for name in parts.projector}, family.projector, sizes.hidden)
    return _Checkpoint(source, family, parts, sizes, projector, shapes, dtypes)


def text_sizes(source: Path, tensors: Mapping[str, torch.Tensor], parts: Parts) -> Sizes:
    """Sizes of the text model in a checkpoint.

    Raises:
        ValueError: If a tensor of it is missing, unknown or of another shape, or its vocabulary is not World's.
    """
    text = {text_name: tensors[name] for name, text_name in parts.text.items()}
    text_shapes = {name: tuple(tensor.shape) for name, tensor in text.items()}
    sizes = sizes_of(source, shapes_in_blinkdl(source, text, {}) if parts.family.is_fla else text_shapes)
    if sizes.vocab != WORLD_VOCAB_SIZE:
        raise ValueError(f"a vocabulary of {sizes.vocab} is not that of the World models, expected {WORLD_VOCAB_SIZE}")
    return sizes


def _choose_era(checkpoint: _Checkpoint, era: str | None, published: Published | None) -> tuple[str, tuple[str, ...]]:
    """The era, and others that are as possible if nothing but the tensors tells it."""
    family = checkpoint.family
    if era is not None:
        if era not in ERAS:
            raise ValueError(f"unknown era {era!r}, expected one of {', '.join(ERAS)}")
        if era not in family.eras:
            raise ValueError(f"its names are {family.name}, as of {', '.join(family.eras)}, so it is not of era {era}")
        return era, ()
    if published is not None and published.era in family.eras:
        return published.era, ()
    likeliest, *others = possible_eras(checkpoint.parts, checkpoint.projector, checkpoint.sizes.hidden)
    return likeliest, tuple(others)


def _usual_encoder(projector: Projector, published: Published | None) -> str:
    if published is not None:
        return published.encoder
    usual = USUAL_ENCODERS.get((projector.modality, projector.encoder_dim), ())
    if len(usual) == 1:
        return usual[0]
    width = f"its {projector.modality} projector takes features of {projector.encoder_dim}"
    which = f"which fits {', '.join(usual)}" if usual else "which none of WorldRWKV's encoders gives"
    raise ValueError(f"{width}, {which}: tell the encoder with --encoder")


def _check_width(checkpoint: _Checkpoint, encoder: str, config: PreTrainedConfig) -> None:
    wanted = checkpoint.projector.encoder_dim
    if config.hidden_size != wanted:
        raise ValueError(
            f"{checkpoint.source}: its projector takes features of {wanted}, but the encoder {encoder} gives features "
            f"of {config.hidden_size}"
        )


def _weights_of(checkpoint: _Checkpoint, encoder: Encoder) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """Where each tensor of the composite comes from, and the tensors of the file that it has no use for."""
    modality = checkpoint.projector.modality
    weights, left_out = text_weights(checkpoint.parts, checkpoint.sizes)
    left_out += [name for name in checkpoint.parts.projector if name not in checkpoint.projector.names]
    for name, ours in checkpoint.projector.names.items():
        weights[f"model.{modality}_projector.{ours}"] = Weight(name)
    tower = tower_weights(checkpoint.source, checkpoint.parts, checkpoint.shapes, encoder.weights)
    return weights | {f"model.{modality}_tower.{name}": weight for name, weight in tower.items()}, tuple(
        sorted(left_out)
    )


def text_weights(parts: Parts, sizes: Sizes) -> tuple[dict[str, Weight], list[str]]:
    """Where each tensor of the text model in the composite comes from, and the tensors that it has no use for."""
    weights, left_out = {}, []
    entries = {} if parts.family.is_fla else all_entries(sizes)
    for name, text_name in parts.text.items():
        fla_name = entries[text_name].fla_name if entries else text_name
        if fla_name is None:
            left_out.append(name)
            continue
        change = entries[text_name].change if entries else Change.NONE
        weights[fla_name.replace("model.", "model.language_model.", 1)] = Weight(name, change.to_fla)
    return weights, left_out


def tower_weights(
    source: Path, parts: Parts, shapes: Mapping[str, Shape], encoder: Mapping[str, torch.Tensor]
) -> dict[str, Weight]:
    """Where each tensor of the encoder comes from, by its name there; those in the checkpoint take precedence.

    Raises:
        ValueError: If one in the checkpoint is none of the encoder's, or of another shape.
    """
    tower = {name: Weight(None, tensor=tensor) for name, tensor in encoder.items()}
    for name, inner in parts.encoder.items():
        if inner not in tower or tuple(encoder[inner].shape) != shapes[name]:
            found = f"there it is {tuple(encoder[inner].shape)}" if inner in tower else "it has none such"
            raise ValueError(f"{source}: {name} of shape {shapes[name]} does not go with the encoder: {found}")
        tower[inner] = Weight(name)
    return tower


def _config(
    checkpoint: _Checkpoint, encoder: Encoder, dtype: torch.dtype, speech_padding: int, whole_window: bool
) -> RWKVWorldConfig:
    projector = checkpoint.projector
    text_config = text_config_of(checkpoint.sizes, eos_token_id=TURN_END_ID, pad_token_id=0, bos_token_id=0)
    common = {"architectures": ["RWKVWorldForConditionalGeneration"], "dtype": dtype, "text_config": text_config}
    if projector.modality == "audio":
        return RWKVWorldConfig(
            **common,
            audio_config=encoder.config,
            audio_projector_hidden_size=projector.width,
            audio_projector_kernel_size=projector.kernel_size,
            audio_projector_padding=speech_padding,
            audio_whole_window=whole_window,
        )
    return RWKVWorldConfig(
        **common,
        vision_config=encoder.config,
        vision_projector_type=projector.type,
        vision_projector_hidden_size=projector.width,
        vision_projector_kernel_size=projector.kernel_size,
        # As in every pair that WorldRWKV used: (3, 2), (4, 3), (5, 4), (6, 5)
        vision_projector_stride=2 if projector.kernel_size is None else projector.kernel_size - 1,
    )


def _preprocessor(projector: Projector, encoder: Encoder) -> Any:
    """What prepared inputs of the encoder in WorldRWKV: its own image processor or feature extractor, or tiles."""
    if projector.type != VL_PROJ:
        return encoder.preprocessor
    side = encoder.config.image_size
    return TilesImageProcessorPil(tile_size=side, size={"longest_edge": TILES_ALONG * side})


def _save_companions(folder: Path, config: RWKVWorldConfig, preprocessor: Any, template: str) -> None:
    """Configuration, generation defaults as in the original, processor and tokenizer."""
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=0,
        eos_token_id=TURN_END_ID,
        pad_token_id=0,
        suppress_tokens=[NEVER_SAMPLED_ID],
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    ).save_pretrained(folder)
    part = "image_processor" if config.vision_config is not None else "feature_extractor"
    processor = RWKVWorldProcessor.from_model_config(
        config, RWKVWorldTokenizer(), chat_template=ERA_CHAT_TEMPLATES[template], **{part: preprocessor}
    )
    processor.save_pretrained(folder)

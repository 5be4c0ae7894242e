# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""VisualRWKV 7.00's `.pth` files to Hub-ready folders, towers included.

What our model has no use for (the last layers of two towers, the unused value mix of layer 0) is kept under its own
name in `EXTRA_FILE` of the folder, where nothing but the way back looks for it.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, PreTrainedConfig

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..configuration.configuration_vision_towers import VisionTowerConfig, VisionTowersConfig
from ..modeling_rwkv7_world.blinkdl_names import Sizes, all_entries, sizes_of, text_config_of
from ..modeling_rwkv7_world.checkpoint_files import open_pth, open_weights, read_tensors
from ..processing.chat_templates import VISUAL_CHAT_TEMPLATE
from ..processing.image_processing_pil_vision_towers import VisionTowersImageProcessorPil
from ..processing.processing_rwkv_world import RWKVWorldProcessor
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from ..processing.world_vocabulary import MULTIMODAL_TOKENS
from .blinkdl import Conversion
from .folder import progress_bar
from .output import whole_folder
from .text_checkpoint import absolute, naming
from .text_folders import WORLD_VOCAB_SIZE
from .visualrwkv_encoders import USUAL_ENCODERS, load_towers, read_tower_configs
from .visualrwkv_names import (
    PROJECTOR_PREFIX,
    TEXT_PREFIX,
    TOWERS_PREFIX,
    VisualProjector,
    is_visualrwkv,
    read_projector,
    read_towers,
    refuse_other_versions,
    tower_entries,
    under,
)
from .visualrwkv_towers import TOWERS, TowerSizes
from .weights import Shape, Weight, make_plan, read_plan, write_plan


EXTRA_FILE = "visualrwkv/extra.safetensors"
# VisualRWKV stops at this token, a blank line, and cuts off what follows the first blank line in the text; its answers
# have at most so many tokens
END_OF_TURN_ID, END_OF_TURN, MAX_NEW_TOKENS = 261, "\n\n", 128
# Ends of the names of the two files that VisualRWKV's `export.py` writes
TEXT_FILE_END, VISUAL_FILE_END = "_rwkv.pth", "_visual.pth"
_VISUAL_PREFIXES = (PROJECTOR_PREFIX, TOWERS_PREFIX)
OUR_TEXT, OUR_PROJECTOR, OUR_TOWERS = "model.language_model.", "model.vision_projector.", "model.vision_tower."


@dataclass(frozen=True)
class VisualConversion(Conversion):
    """What was converted; `encoders` are those that the towers came from, none if they were in the file."""

    tokens_per_image: int = 0
    encoders: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Files:
    """A checkpoint on disk: each file, and what stands before its names in a whole file."""

    prefixes: dict[Path, str]

    def open(self) -> dict[str, torch.Tensor]:
        return {
            prefix + name: tensor for path, prefix in self.prefixes.items() for name, tensor in open_pth(path).items()
        }

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        names = list(names)
        for path, prefix in self.prefixes.items():
            here = {name.removeprefix(prefix) for name in names if self._is_in(path, name)}
            for name, tensor in read_tensors(path, sorted(here)):
                yield prefix + name, tensor

    def place(self, name: str) -> str:
        """The file that holds a tensor, and its name there."""
        path = next(path for path in self.prefixes if self._is_in(path, name))
        return f"{path}: {name.removeprefix(self.prefixes[path])}"

    def _is_in(self, path: Path, name: str) -> bool:
        """Of two files the one with the prefix holds everything that begins with it."""
        if len(self.prefixes) == 1:
            return True
        return name.startswith(TEXT_PREFIX) == (self.prefixes[path] == TEXT_PREFIX)


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that has been looked at, and nothing read yet but names and shapes."""

    source: Path
    files: _Files
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]
    sizes: Sizes
    projector: VisualProjector
    towers: list[TowerSizes]


@dataclass(frozen=True)
class _Towers:
    """The encoders of the model: configurations, weights by name in its vision tower, and where they came from."""

    configs: list[PreTrainedConfig]
    weights: dict[str, Weight]
    used: tuple[str, ...] = ()


def holds_visualrwkv(source: str | os.PathLike[str]) -> bool:
    """Whether a `.pth` file holds a checkpoint of VisualRWKV, or half of one, by the names of its tensors.

    Raises:
        ValueError: If it cannot be read.
        OSError: If it cannot be found.
    """
    source = absolute(source)
    return not source.is_dir() and (len(_files_of(source).prefixes) > 1 or is_visualrwkv(open_weights(source)))


def convert_visualrwkv(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    encoders: Sequence[str | os.PathLike[str]] | None = None,
    tokens_per_image: int | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> VisualConversion:
    """Writes a VisualRWKV 7.00 checkpoint as a folder that the Auto classes load, with everything that it needs.

    Args:
        source: A `.pth` file, whole or without towers; or one of the files NAME_rwkv.pth and NAME_visual.pth, which
            must lie side by side.
        destination: A new or empty folder. If anything fails it is left as it was.
        encoders: Folders or Hub ids of DINOv2 with registers, SigLIP and SAM, for a file without towers.
        tokens_per_image: A square number, which no tensor tells; by default every patch becomes a token.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the checkpoint is damaged, incomplete or of another version, if it does not go with the
            encoders, or if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = absolute(source), absolute(destination)
    checkpoint = _look_at(source)
    try:
        towers = _read_towers(checkpoint, encoders)
        text_config = text_config_of(checkpoint.sizes, pad_token_id=0, bos_token_id=0)
        config = visual_config(text_config, towers.configs, checkpoint.projector.type, tokens_per_image)
    except ValueError as error:
        raise naming(source, error) from error
    weights, kept_aside = _weights_of(checkpoint, towers)
    plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
    aside = make_plan({name: Weight(name) for name in kept_aside}, checkpoint.shapes, checkpoint.dtypes, None)
    config.dtype = plan.dtypes["lm_head.weight"]
    total = sum(plan.stored.values()) + sum(aside.stored.values())
    with whole_folder(destination) as folder, progress_bar(total, show_progress) as bar:
        write_plan(plan, folder, checkpoint.files.read, bar, max_shard_size, checkpoint.files.place)
        if aside.weights:
            (folder / EXTRA_FILE).parent.mkdir()
            save_file(read_plan(aside, kept_aside, checkpoint.files.read, bar), folder / EXTRA_FILE)
        _save_companions(folder, config)
    numbers = sum(plan.numbers.values())
    tokens = config.num_token_per_image
    return VisualConversion(checkpoint.sizes, numbers, plan.written_dtypes, kept_aside, True, tokens, towers.used)


def _files_of(source: Path) -> _Files:
    """The file, or both of two files that `export.py` wrote."""
    for end in (TEXT_FILE_END, VISUAL_FILE_END):
        if source.name.endswith(end):
            stem = source.name.removesuffix(end)
            text, visual = source.with_name(stem + TEXT_FILE_END), source.with_name(stem + VISUAL_FILE_END)
            if text.is_file() and visual.is_file():
                return _Files({text: TEXT_PREFIX, visual: ""})
    return _Files({source: ""})


def _look_at(source: Path) -> _Checkpoint:
    files = _files_of(source)
    tensors = files.open()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    try:
        refuse_other_versions(shapes)
        _check_parts(shapes)
        sizes = sizes_of(source, under(shapes, TEXT_PREFIX))
        if sizes.vocab != WORLD_VOCAB_SIZE:
            raise ValueError(f"a vocabulary of {sizes.vocab} is not that of World models, expected {WORLD_VOCAB_SIZE}")
        projector, towers = read_projector(shapes, sizes.hidden), read_towers(shapes)
    except ValueError as error:
        raise naming(source, error) from error
    return _Checkpoint(source, files, shapes, dtypes, sizes, projector, towers)


def _check_parts(shapes: Iterable[str]) -> None:
    if not any(name.startswith(TEXT_PREFIX) for name in shapes):
        raise ValueError(
            f"the text model is missing: no tensor is called {TEXT_PREFIX}*, and there are no files "
            f"NAME{TEXT_FILE_END} and NAME{VISUAL_FILE_END} side by side"
        )
    foreign = next((name for name in shapes if not name.startswith((TEXT_PREFIX, *_VISUAL_PREFIXES))), None)
    if foreign is not None:
        raise ValueError(f"unexpected tensor {foreign} in VisualRWKV 7.00")


def _read_towers(checkpoint: _Checkpoint, encoders: Sequence[str | os.PathLike[str]] | None) -> _Towers:
    """The towers of a file, or those of the encoders that it was trained with."""
    if checkpoint.towers and encoders:
        raise ValueError("holds its own towers, so it takes no encoders")
    if checkpoint.towers:
        configs = [tower.config(sizes) for tower, sizes in zip(TOWERS, checkpoint.towers, strict=True)]
        _check_width(checkpoint, configs)
        return _Towers(configs, _tower_weights(checkpoint.towers))
    used = tuple(os.fspath(encoder) for encoder in encoders or USUAL_ENCODERS)
    configs = read_tower_configs(used)
    _check_width(checkpoint, configs)
    loaded = load_towers(used, configs)
    weights = {
        f"towers.{index}.{name}": Weight(None, tensor=tensor)
        for index, tower in enumerate(loaded)
        for name, tensor in tower.weights.items()
    }
    return _Towers([tower.config for tower in loaded], weights, used)


def _check_width(checkpoint: _Checkpoint, configs: Sequence[PreTrainedConfig]) -> None:
    widths = [tower.hidden_size for tower in tower_configs(configs)]
    if sum(widths) != checkpoint.projector.encoder_dim:
        raise ValueError(
            f"{checkpoint.source}: its projector takes features of {checkpoint.projector.encoder_dim}, but the towers "
            f"give {' + '.join(map(str, widths))} = {sum(widths)}"
        )


def tower_configs(configs: Sequence[PreTrainedConfig]) -> list[VisionTowerConfig]:
    """The towers of a model with these encoders: which features are taken of each."""
    return [
        VisionTowerConfig(
            encoder_config=config, feature_layer=tower.feature_layer, unshuffle_factor=tower.unshuffle_factor
        )
        for tower, config in zip(TOWERS, configs, strict=True)
    ]


def _weights_of(checkpoint: _Checkpoint, towers: _Towers) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """Where each tensor of the composite comes from, and the tensors of the file that it has no place for."""
    weights, entries = {}, all_entries(checkpoint.sizes)
    for name in under(checkpoint.shapes, TEXT_PREFIX):
        if entries[name].fla_name is not None:
            ours = entries[name].fla_name.replace("model.", OUR_TEXT, 1)
            weights[ours] = Weight(TEXT_PREFIX + name, entries[name].change.to_fla)
    for name, ours in checkpoint.projector.names.items():
        weights[OUR_PROJECTOR + ours] = Weight(PROJECTOR_PREFIX + name)
    weights |= {OUR_TOWERS + name: weight for name, weight in towers.weights.items()}
    used = {weight.name for weight in weights.values()}
    return weights, tuple(sorted(name for name in checkpoint.shapes if name not in used))


def _tower_weights(sizes: list[TowerSizes]) -> dict[str, Weight]:
    weights = {}
    for name, entry in tower_entries(sizes).items():
        weights |= {target: Weight(name, change) for target, change in entry.changes().items()}
    for index, tower in enumerate(TOWERS):
        for target, (name, change) in tower.derived.items():
            weights[f"towers.{index}.{target}"] = Weight(tower.prefix + name, change)
    return weights


def visual_config(
    text_config: RWKV7Config, towers: Sequence[PreTrainedConfig], projector_type: str, tokens_per_image: int | None
) -> RWKVWorldConfig:
    """The configuration of a VisualRWKV.

    Args:
        text_config: Of the text model; its end of text becomes VisualRWKV's.
        towers: Of DINOv2 with registers, SigLIP and SAM, as [`load_towers`] gives them.
        projector_type: A `vision_projector_type`, "gated_mlp" in the published models.
        tokens_per_image: A square number; by default every patch becomes a token.
    """
    tokenizer_ids = {token.name: token.world_id for token in MULTIMODAL_TOKENS}
    text_config.eos_token_id = END_OF_TURN_ID
    return RWKVWorldConfig(
        architectures=["RWKVWorldForConditionalGeneration"],
        text_config=text_config,
        vision_config=VisionTowersConfig(towers=tower_configs(towers)),
        vision_projector_type=projector_type,
        num_token_per_image=tokens_per_image,
        # As in `_tokenizer`
        image_token_id=tokenizer_ids["audio_token"],
        audio_token_id=tokenizer_ids["image_token"],
    )


def visual_processor(config: RWKVWorldConfig) -> RWKVWorldProcessor:
    """The processor of a VisualRWKV: each tower sees the picture in its own size, and turns are as in the original."""
    sizes = [tower.encoder_config.image_size for tower in config.vision_config.towers]
    seen = [
        {"size": size, "image_mean": tower.image_mean, "image_std": tower.image_std}
        for tower, size in zip(TOWERS, sizes, strict=True)
    ]
    image_processor = VisionTowersImageProcessorPil(towers=seen)
    return RWKVWorldProcessor.from_model_config(
        config, _tokenizer(), image_processor, chat_template=VISUAL_CHAT_TEMPLATE
    )


def visual_generation_config() -> GenerationConfig:
    """VisualRWKV's way to answer."""
    return GenerationConfig(
        bos_token_id=0,
        eos_token_id=END_OF_TURN_ID,
        pad_token_id=0,
        # Not every blank line is that token: after a Chinese full stop it is two others
        stop_strings=[END_OF_TURN],
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )


def _tokenizer() -> RWKVWorldTokenizer:
    """The World tokenizer, with pictures at 65535 as in VisualRWKV: where other models of the family have clips."""
    contents = {token.name: token.content for token in MULTIMODAL_TOKENS}
    return RWKVWorldTokenizer(image_token=contents["audio_token"], audio_token=contents["image_token"])


def _save_companions(folder: Path, config: RWKVWorldConfig) -> None:
    """Configuration, generation defaults as in the original, processor and tokenizer."""
    config.save_pretrained(folder)
    visual_generation_config().save_pretrained(folder)
    visual_processor(config).save_pretrained(folder)

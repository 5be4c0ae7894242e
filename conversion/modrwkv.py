# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of era E7, by mod-rwkv and torchtitan, to Hub-ready folders, encoder and chat template included."""

import copy
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, GenerationConfig, PreTrainedConfig
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5VisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..configuration.configuration_vision_towers import GRID_ENCODERS
from ..configuration.other_layouts import to_our_fields
from ..modeling_rwkv7_world.blinkdl_names import BLINKDL_NORM_EPS, Sizes, text_config_of
from ..processing.chat_templates_e7 import E7_CHAT_TEMPLATES
from ..processing.processing_rwkv_world import RWKVWorldProcessor
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer
from .blinkdl import Conversion
from .encoders import load_tower, read_encoder_config
from .folder import progress_bar, read_json
from .modrwkv_names import (
    DIALECTS,
    MIN_PIXELS,
    TORCHTITAN,
    Projectors,
    encoder_config_from_shapes,
    family_of_any,
    find_family,
    read_projectors,
)
from .output import whole_folder
from .text_checkpoint import absolute, naming
from .weights import Shape, Weight, make_plan, place_in, write_plan
from .worldrwkv import MAX_NEW_TOKENS, TURN_END_ID, open_source, read_source, text_sizes, text_weights, tower_weights
from .worldrwkv_names import Parts, split_parts


TURN_START_ID = 23


@dataclass(frozen=True)
class ModRWKVConversion(Conversion):
    """What was converted; `other_dialects` are those that nothing rules out, `encoder` is empty if it was inside."""

    dialect: str = ""
    other_dialects: tuple[str, ...] = ()
    template: str = ""
    encoder: str = ""


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint that has been looked at, and nothing read yet but names, shapes and small files."""

    source: Path
    raw_config: dict[str, Any]
    parts: Parts
    sizes: Sizes
    projectors: Projectors
    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]


def holds_modrwkv(source: str | os.PathLike[str]) -> bool:
    """Whether a `.pth` file or a folder holds a checkpoint of E7, by the names of its tensors.

    Raises:
        ValueError: If it cannot be read.
        OSError: If it cannot be found.
    """
    return find_family(open_source(absolute(source))) is not None


def convert_modrwkv(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    dialect: str | None = None,
    encoder: str | os.PathLike[str] | None = None,
    template: str | None = None,
    dtype: torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    show_progress: bool = False,
) -> ModRWKVConversion:
    """Writes a checkpoint of E7 as a folder that the Auto classes load, with everything that it needs.

    Args:
        source: A `.pth` file of training, or an exported folder of the class `RWKV7VLForConditionalGeneration`.
        destination: A new or empty folder. If anything fails it is left as it was.
        dialect: A name in `DIALECTS`. By default what names, shapes and an exported folder's chat template tell,
            else "mod-rwkv".
        encoder: Folder or Hub id of the encoder, or of a whole Qwen3-VL or Qwen3.5 that holds it. By default what the
            exported folder says of it, else what is known of encoders of these shapes. Encoder weights in the
            checkpoint itself take precedence over it.
        template: A name in `E7_CHAT_TEMPLATES`; by default that of the dialect.
        dtype: Of the weights written. `None` keeps that of every tensor.
        max_shard_size: Largest weight file, in bytes or as "5GB".
        show_progress: Whether to draw a bar on stderr if that is a terminal.

    Raises:
        ValueError: If the checkpoint is damaged, incomplete or not of E7, if it does not go with `dialect` or with the
            encoder, or if `destination` is taken.
        OSError: If something cannot be read or written.
    """
    source, destination = absolute(source), absolute(destination)
    try:
        checkpoint = _look_at(source)
        dialect, others = _choose_dialect(checkpoint, dialect)
        template = template or _usual_template(source, dialect)
        if template not in E7_CHAT_TEMPLATES:
            raise ValueError(f"unknown template {template!r}, expected one of {', '.join(E7_CHAT_TEMPLATES)}")
        encoder_config = _encoder_config(checkpoint, encoder)
        tower = _tower(checkpoint, encoder, encoder_config)
        weights, left_out = _weights_of(checkpoint, tower)
        plan = make_plan(weights, checkpoint.shapes, checkpoint.dtypes, dtype)
        config = _config(checkpoint, dialect, encoder_config, plan.dtypes["lm_head.weight"])
    except StrictDataclassError as error:
        raise ValueError(f"{source}: config.json: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise naming(source, error) from error
    with whole_folder(destination) as folder, progress_bar(sum(plan.stored.values()), show_progress) as bar:
        write_plan(plan, folder, partial(read_source, source), bar, max_shard_size, place_in(source))
        image_processor = _image_processor(checkpoint, encoder_config, dialect)
        shares_max_pixels = bool(_stored_processor(source).get("total_pixels_budget", False))
        _save_companions(folder, config, image_processor, template, shares_max_pixels)
    inside = bool(checkpoint.parts.encoder)
    return ModRWKVConversion(
        checkpoint.sizes,
        sum(plan.numbers.values()),
        plan.written_dtypes,
        left_out,
        True,
        dialect,
        others,
        template,
        "" if inside else os.fspath(encoder),
    )


def _look_at(source: Path) -> _Checkpoint:
    tensors = open_source(source)
    family = family_of_any(tensors)
    if family is None:
        raise ValueError("no checkpoint of E7: no tensor is called llm.* or model.llm.*")
    raw_config = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    parts = split_parts(tensors, family)
    sizes = text_sizes(source, tensors, parts)
    projector_shapes = {name: shapes[name] for name in parts.projector}
    told = _section(raw_config, "projector_config")
    projectors = read_projectors(projector_shapes, family.projector, sizes.hidden, told)
    return _Checkpoint(source, raw_config, parts, sizes, projectors, shapes, dtypes)


def _section(raw_config: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in an exported folder's configuration; empty if it is not there."""
    section = raw_config.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"{name} of config.json holds a {type(section).__name__}, expected an object")
    return section


def _choose_dialect(checkpoint: _Checkpoint, dialect: str | None) -> tuple[str, tuple[str, ...]]:
    """The dialect, and others that are as possible if nothing tells it."""
    possible = checkpoint.projectors.dialects
    if dialect is None:
        template = _stored_template(checkpoint.source)
        likeliest, *others = possible
        if not others or "<think></think>" in template:  # which mod-rwkv alone writes
            return likeliest, ()
        return (others[0], ()) if "<image>" in template else (likeliest, tuple(others))
    if dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}, expected one of {', '.join(DIALECTS)}")
    if dialect not in possible:
        raise ValueError(
            f"names and shapes of its projector are of the dialect {' or '.join(possible)}, so it is not of {dialect}"
        )
    return dialect, ()


def _stored_template(source: Path) -> str:
    """The chat template of an exported folder; empty without one."""
    file = source / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _usual_template(source: Path, dialect: str) -> str:
    """The template of a dialect, which of torchtitan there are two of."""
    template = DIALECTS[dialect].template
    is_unspoken = template == "torchtitan" and "</think>" in _stored_template(source)
    return "torchtitan-unspoken" if is_unspoken else template


def _encoder_config(checkpoint: _Checkpoint, encoder: str | os.PathLike[str] | None) -> PreTrainedConfig:
    """The encoder's configuration: of the folder that is told, of the exported folder, or by shapes."""
    family, projectors = checkpoint.parts.family, checkpoint.projectors
    stored = _section(checkpoint.raw_config, "vision_config")
    if encoder is not None:
        config = read_encoder_config(encoder, "vision", GRID_ENCODERS)
    elif not checkpoint.parts.encoder:
        raise ValueError(f"the encoder is missing: no tensor is called {family.encoder}*: tell it with --encoder")
    elif stored:
        config = _stored_vision_config(stored)
    else:
        shapes = {inner: checkpoint.shapes[name] for name, inner in checkpoint.parts.encoder.items()}
        config = encoder_config_from_shapes(shapes, family.encoder)
    if config.out_hidden_size != projectors.encoder_dim:
        raise ValueError(
            f"its projector takes features of {projectors.encoder_dim}, but the encoder gives features of "
            f"{config.out_hidden_size}"
        )
    if projectors.patch_dim is not None:
        return _without_deepstack(config, projectors.patch_dim)
    layers = len(getattr(config, "deepstack_visual_indexes", ()))
    if TORCHTITAN in projectors.dialects and layers != projectors.num_deepstack:
        raise ValueError(
            f"it has projectors for features of {projectors.num_deepstack} earlier layers (proj.deepstack.*), but the "
            f"encoder gives those of {layers}"
        )
    return config


def _without_deepstack(config: PreTrainedConfig, patch_dim: int) -> PreTrainedConfig:
    """The encoder's configuration where the projector attends to patches: its own DeepStack is not there then."""
    if config.hidden_size != patch_dim:
        raise ValueError(
            f"its projector attends to patches of {patch_dim}, but those of the encoder are of {config.hidden_size}"
        )
    config = copy.deepcopy(config)
    if hasattr(config, "deepstack_visual_indexes"):
        config.deepstack_visual_indexes = []
    return config


def _stored_vision_config(stored: dict[str, Any]) -> PreTrainedConfig:
    """What an exported folder says of its encoder; the model type depends on the release that wrote it."""
    is_qwen3_5 = str(stored.get("model_type")).startswith("qwen3_5")
    config_class = Qwen3_5VisionConfig if is_qwen3_5 else Qwen3VLVisionConfig
    stored = dict(stored)
    if "deepstack_visual_indices" in stored:
        stored["deepstack_visual_indexes"] = stored.pop("deepstack_visual_indices")
    if config_class is Qwen3VLVisionConfig:
        stored.setdefault("deepstack_visual_indexes", [])
    known = config_class().to_dict()
    ignored = ("model_type", "dtype", "transformers_version", "architectures")
    config = config_class(**{name: value for name, value in stored.items() if name in known and name not in ignored})
    if config.hidden_size % config.num_heads:
        raise ValueError(f"{config.num_heads} heads do not divide the encoder's width of {config.hidden_size}")
    return config


def _tower(
    checkpoint: _Checkpoint, encoder: str | os.PathLike[str] | None, config: PreTrainedConfig
) -> dict[str, torch.Tensor]:
    """Tensors of the encoder; without numbers if the checkpoint has them."""
    if checkpoint.parts.encoder:
        with torch.device("meta"):
            return AutoModel.from_config(config).state_dict()
    return load_tower(encoder, config).state_dict()


def _weights_of(checkpoint: _Checkpoint, tower: dict[str, torch.Tensor]) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """Where each tensor of the composite comes from, and the tensors of the file that it has no use for."""
    weights, left_out = text_weights(checkpoint.parts, checkpoint.sizes)
    weights |= {f"model.{ours}": Weight(name) for name, ours in checkpoint.projectors.names.items()}
    encoder = tower_weights(checkpoint.source, checkpoint.parts, checkpoint.shapes, tower)
    for name, weight in encoder.items():
        if weight.name is None and weight.tensor.is_meta:
            raise ValueError(f"the tensor {checkpoint.parts.family.encoder}{name} is missing")
        weights[f"model.vision_tower.{name}"] = weight
    return weights, tuple(sorted(left_out))


def _config(
    checkpoint: _Checkpoint, dialect: str, encoder_config: PreTrainedConfig, dtype: torch.dtype
) -> RWKVWorldConfig:
    return RWKVWorldConfig(
        architectures=["RWKVWorldForConditionalGeneration"],
        dtype=dtype,
        text_config=_text_config(checkpoint),
        vision_config=encoder_config,
        **{"vision_projector_type": DIALECTS[dialect].projector_type, **checkpoint.projectors.options},
    )


def _text_config(checkpoint: _Checkpoint) -> PreTrainedConfig:
    ids = {"bos_token_id": TURN_START_ID, "eos_token_id": TURN_END_ID, "pad_token_id": TURN_END_ID}
    fields = to_our_fields(_section(checkpoint.raw_config, "text_config"))
    if fields:
        ids["norm_eps"] = fields.get("norm_eps", BLINKDL_NORM_EPS)
        ids["group_norm_eps"] = fields.get("group_norm_eps")
    if "max_position_embeddings" in fields:
        ids["max_position_embeddings"] = fields["max_position_embeddings"]
    return text_config_of(checkpoint.sizes, **ids)


def _image_processor(
    checkpoint: _Checkpoint, encoder_config: PreTrainedConfig, dialect: str
) -> Qwen2VLImageProcessorPil:
    """What cuts pictures into patches: as an exported folder says, else with the dialect's sizes."""
    stored = _stored_image_processor(checkpoint.source)
    size = stored.get("size") or {}
    return Qwen2VLImageProcessorPil(
        patch_size=encoder_config.patch_size,
        temporal_patch_size=encoder_config.temporal_patch_size,
        merge_size=encoder_config.spatial_merge_size,
        size={
            "shortest_edge": stored.get("min_pixels") or size.get("shortest_edge", MIN_PIXELS),
            "longest_edge": stored.get("max_pixels") or size.get("longest_edge", DIALECTS[dialect].max_pixels),
        },
        image_mean=stored.get("image_mean", IMAGENET_STANDARD_MEAN),
        image_std=stored.get("image_std", IMAGENET_STANDARD_STD),
    )


def _stored_image_processor(source: Path) -> dict[str, Any]:
    """Settings of an exported folder's image processor, which lie in a file of their own or in the processor's."""
    if (source / "preprocessor_config.json").is_file():
        return read_json(source / "preprocessor_config.json")
    return _stored_processor(source).get("image_processor") or {}


def _stored_processor(source: Path) -> dict[str, Any]:
    file = source / "processor_config.json"
    return read_json(file) if file.is_file() else {}


def _save_companions(
    folder: Path,
    config: RWKVWorldConfig,
    image_processor: Qwen2VLImageProcessorPil,
    template: str,
    shares_max_pixels: bool,
) -> None:
    """Configuration, generation defaults, processor and tokenizer."""
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=TURN_START_ID,
        eos_token_id=TURN_END_ID,
        pad_token_id=TURN_END_ID,
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    ).save_pretrained(folder)
    processor = RWKVWorldProcessor.from_model_config(
        config, RWKVWorldTokenizer(), image_processor=image_processor, chat_template=E7_CHAT_TEMPLATES[template]
    )
    processor.shares_max_pixels = shares_max_pixels
    processor.save_pretrained(folder)

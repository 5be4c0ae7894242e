# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The model and processor that a recipe asks for: loaded, put together of a text model and encoders, or new."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.integrations import deepspeed, is_deepspeed_zero3_enabled

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..configuration.configuration_rwkv_world import RWKVWorldConfig
from ..configuration.configuration_vision_towers import GRID_ENCODERS
from ..conversion.encoders import AUDIO_TYPES, VISION_TYPES, Encoder, load_encoder, read_encoder_config
from ..conversion.visualrwkv import visual_config, visual_generation_config, visual_processor
from ..conversion.visualrwkv_encoders import load_towers, read_tower_configs
from ..modeling_rwkv7_world.checkpoint_files import can_be_hub_id
from ..modeling_rwkv7_world.checkpoint_layouts import is_checkpoint_file
from ..modeling_rwkv7_world.modeling_rwkv7 import RWKV7ForCausalLM
from ..modeling_rwkv7_world.modeling_rwkv_world import RWKVWorldForConditionalGeneration
from ..modeling_rwkv7_world.quantization import RWKVQuantizationConfig
from ..processing.chat_templates import TURN_END
from ..processing.processing_rwkv_world import RWKVWorldProcessor
from ..processing.tokenization_rwkv_world import RWKVWorldTokenizer, tokenizer_without_files
from ..processing.world_vocabulary import MULTIMODAL_TOKENS
from .recipe.hooks import load_hook
from .recipe.recipe import COMPOSITE_TEMPLATES, Recipe


Processor = ProcessorMixin | PreTrainedTokenizerBase


def build_model(recipe: Recipe) -> tuple[PreTrainedModel, Processor]:
    """The model of a recipe and its processor, or its tokenizer if it is a text model.

    Raises:
        FileNotFoundError: If a model is not there.
        ValueError: If the recipe's model cannot be had, or weights are missing.
    """
    spec = recipe.model
    if spec.build is not None:
        return load_hook(spec.build, recipe.folder)(**spec.options)
    dtype = getattr(torch, spec.dtype)
    if spec.text is not None:
        return _assemble(recipe, dtype)
    if spec.path is None:
        return _new_model(spec.config, dtype), _load_processor(recipe.processor)
    _check_exists(spec.path)
    quantized = _quantization(recipe)
    model = _load(spec.path, _class_of(spec.path), dtype, **quantized)
    return model, _load_processor(recipe.processor or spec.path, model)


def _new_model(config: dict[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    """A model with the official initialisation."""
    fields = dict(config)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise ValueError("model.config of a new model needs model_type, rwkv7 or rwkv_world")
    config = AutoConfig.for_model(model_type, **fields)
    return _auto_class(config).from_config(config, dtype=dtype)


def _load_processor(path: str | None, model: PreTrainedModel | None = None) -> Processor:
    """The processor at `path`, for a text model the tokenizer; the World tokenizer without a path."""
    if path is None:
        return RWKVWorldTokenizer()
    if is_checkpoint_file(path):
        return tokenizer_without_files(path, model.config.vocab_size)
    _check_exists(path)
    is_text = model is not None and _auto_class(model.config) is AutoModelForCausalLM
    return (AutoTokenizer if is_text else AutoProcessor).from_pretrained(path)


def _class_of(path: str) -> type:
    """What loads the model at `path`: text models of any layout and in any form are ours."""
    if is_checkpoint_file(path):
        return RWKV7ForCausalLM
    config = AutoConfig.from_pretrained(path)
    return RWKV7ForCausalLM if config.model_type == RWKV7Config.model_type else _auto_class(config)


def _auto_class(config) -> type:
    is_composite = config.get_text_config() is not config
    return AutoModelForMultimodalLM if is_composite else AutoModelForCausalLM


def _quantization(recipe: Recipe) -> dict[str, RWKVQuantizationConfig]:
    if recipe.model.bits is None:
        return {}
    if recipe.adapter is None:
        raise ValueError("model.bits: quantised matrices are not trained themselves; the recipe needs an adapter")
    return {"quantization_config": RWKVQuantizationConfig(bits=recipe.model.bits)}


def _load(path: str, model_class: type, dtype: torch.dtype, **options) -> PreTrainedModel:
    model, report = model_class.from_pretrained(path, dtype=dtype, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):  # of a model of others: ours are loaded whole or refused
        raise ValueError(f"{path}: weights are missing, {len(missing)} in all, the first is {missing[0]}")
    if is_deepspeed_zero3_enabled():
        # transformers keeps all its rules for other names then, and would save under names that were never there
        model._weight_conversions = [rule for rule in model._weight_conversions or () if rule.was_used()]
    return model


def _check_exists(path: str) -> None:
    """Refuses what can only be a folder and is none; anything else may be a Hub id."""
    folder = Path(path).expanduser()
    if not folder.exists() and not can_be_hub_id(path):
        raise FileNotFoundError(f"{path}: no such folder")


def _assemble(recipe: Recipe, dtype: torch.dtype) -> tuple[PreTrainedModel, Processor]:
    """A composite of a trained text model and trained encoders, with new projectors."""
    with _without_shards():
        return _assemble_whole(recipe, dtype)


@contextmanager
def _without_shards() -> Iterator[None]:
    """Loads whole models under ZeRO-3 too, for weights of a shard cannot be copied; it shards what is made of them."""
    config = deepspeed._hf_deepspeed_config_weak_ref  # by which `from_pretrained` knows of it
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def _assemble_whole(recipe: Recipe, dtype: torch.dtype) -> tuple[PreTrainedModel, Processor]:
    spec = recipe.model
    _check_exists(spec.text)
    text = _load(spec.text, _class_of(spec.text), dtype)
    if not isinstance(text, RWKV7ForCausalLM):
        raise ValueError(f"{spec.text}: the text model is a {text.config.model_type}, expected rwkv7")
    if isinstance(spec.vision, list):
        return _assemble_visualrwkv(recipe, text, dtype)
    tokenizer = AutoTokenizer.from_pretrained(recipe.processor or spec.text)
    vision, audio = (_encoder(source, kind) for source, kind in ((spec.vision, "vision"), (spec.audio, "audio")))
    text.config.eos_token_id = tokenizer.convert_tokens_to_ids(TURN_END)
    config = RWKVWorldConfig(
        text_config=text.config,
        vision_config=vision and vision.config,
        audio_config=audio and audio.config,
        **{f"{token.name}_id": getattr(tokenizer, f"{token.name}_id") for token in MULTIMODAL_TOKENS},
        **spec.config,
    )
    encoders = {"vision_tower": vision, "audio_tower": audio}
    model = _composite(config, text, {name: encoder.weights for name, encoder in encoders.items() if encoder}, dtype)
    processor = RWKVWorldProcessor.from_model_config(
        config,
        tokenizer,
        vision and vision.preprocessor,
        audio and audio.preprocessor,
        chat_template=_chat_template(spec.chat_template),
    )
    return model, processor


def _assemble_visualrwkv(
    recipe: Recipe, text: RWKV7ForCausalLM, dtype: torch.dtype
) -> tuple[PreTrainedModel, Processor]:
    """A VisualRWKV of a text model and its three towers, with a new projector."""
    spec = recipe.model
    if spec.audio is not None or spec.chat_template is not None or recipe.processor is not None:
        raise ValueError(
            "model.vision with three towers is a VisualRWKV, which has its own processor and no audio encoder"
        )
    towers = load_towers(spec.vision, read_tower_configs(spec.vision))
    options = {"vision_projector_type": "gated_mlp", "num_token_per_image": None, **spec.config}
    config = visual_config(
        text.config,
        [tower.config for tower in towers],
        options.pop("vision_projector_type"),
        options.pop("num_token_per_image"),
    )
    if options:
        raise ValueError(f"model.config of a VisualRWKV has no {', '.join(options)}")
    weights = {f"towers.{i}.{name}": w for i, tower in enumerate(towers) for name, w in tower.weights.items()}
    model = _composite(config, text, {"vision_tower": weights}, dtype)
    model.generation_config = visual_generation_config()
    return model, visual_processor(config)


def _composite(
    config: RWKVWorldConfig, text: RWKV7ForCausalLM, towers: dict[str, dict[str, torch.Tensor]], dtype: torch.dtype
) -> RWKVWorldForConditionalGeneration:
    """A composite with these weights, and projectors as they are at first."""
    model = RWKVWorldForConditionalGeneration(config).to(dtype)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    for name, weights in towers.items():
        getattr(model.model, name).load_state_dict(weights)
    return model


def _encoder(source: str | None, modality: str) -> Encoder | None:
    if source is None:
        return None
    known = (*VISION_TYPES, *GRID_ENCODERS) if modality == "vision" else AUDIO_TYPES
    return load_encoder(source, read_encoder_config(source, modality, known))


def _chat_template(name: str | None) -> str | None:
    """The template of an era of WorldRWKV, or that of a file."""
    if name is None or name in COMPOSITE_TEMPLATES:
        return COMPOSITE_TEMPLATES.get(name)
    return Path(name).read_text(encoding="utf-8")

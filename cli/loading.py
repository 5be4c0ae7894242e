# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a model, its configuration and its processor by the Auto classes, with complaints that name the model.

Whoever imports this has imported the package, and thereby registered our model types with the Auto classes. Code that
a repository carries is never run.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import first_line


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

    from ..modeling_rwkv7_world.quantization import RWKVQuantizationConfig


DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZED_BITS = {"int8": 8, "int4": 4}


def load_config(model: str) -> "PreTrainedConfig":
    """Configuration of `model`; its `name_or_path` is what the other functions load by.

    Args:
        model: A folder or a Hub id, of any layout of RWKV-7, or a `.pth` or `.safetensors` file with BlinkDL's names.

    Raises:
        FileNotFoundError: If there is no such file or folder, nor such a model on the Hub.
        ValueError: If the folder holds no configuration, or one that cannot be used.
    """
    from transformers import AutoConfig

    from ..modeling_rwkv7_world.checkpoint_files import can_be_hub_id
    from ..modeling_rwkv7_world.checkpoint_layouts import is_checkpoint_file, open_checkpoint_file

    folder = Path(model).expanduser()
    if is_checkpoint_file(folder):
        config, _ = open_checkpoint_file(folder)
        config.name_or_path = str(folder)
        return config
    if folder.exists():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{model}: not a model folder, it holds no config.json")
        return _ours(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    if not can_be_hub_id(model) or ("/" in model and folder.parent.is_dir()):
        raise FileNotFoundError(f"{model}: no such model folder")
    try:
        return _ours(AutoConfig.from_pretrained(model, trust_remote_code=False))
    except OSError as error:
        message = f"{model}: neither a folder here nor a model that the Hub gives ({first_line(error)})"
        raise FileNotFoundError(message) from error


def _ours(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """A configuration of our own class, also where transformers has one of the same model type."""
    from .. import RWKV7Config

    is_native = config.model_type == RWKV7Config.model_type and not isinstance(config, RWKV7Config)
    return RWKV7Config.from_pretrained(config.name_or_path) if is_native else config


def is_composite(config: "PreTrainedConfig") -> bool:
    """Whether the model has encoders around its text model, and so a processor rather than only a tokenizer."""
    return config.get_text_config() is not config


def load_processor(config: "PreTrainedConfig") -> "ProcessorMixin | PreTrainedTokenizerBase":
    """The processor of a composite model, the tokenizer of a text model.

    Raises:
        ValueError: If it is missing, damaged, or cannot be had.
    """
    from transformers import AutoProcessor, AutoTokenizer

    from ..modeling_rwkv7_world.checkpoint_layouts import is_checkpoint_file
    from ..processing.tokenization_rwkv_world import tokenizer_without_files

    name = config.name_or_path
    if is_checkpoint_file(name):
        return tokenizer_without_files(name, config.vocab_size)
    auto_class = AutoProcessor if is_composite(config) else AutoTokenizer
    kind = "processor" if is_composite(config) else "tokenizer"
    try:
        processor = auto_class.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its {kind} cannot be loaded ({first_line(error)})") from error
    _check_processor(processor, config)
    return processor


def _check_processor(processor: "ProcessorMixin | PreTrainedTokenizerBase", config: "PreTrainedConfig") -> None:
    """Refuses one that lacks a part or has another vocabulary: transformers gives what it finds, or defaults."""
    name = config.name_or_path
    parts = {"vision_config": "image_processor", "audio_config": "feature_extractor"}
    for encoder, part in parts.items():
        if is_composite(config) and getattr(config, encoder, None) and getattr(processor, part, None) is None:
            raise ValueError(f"{name}: its processor has no {part}, processor_config.json is missing or incomplete")
    size, room = len(getattr(processor, "tokenizer", processor)), config.get_text_config().vocab_size
    if size > room:
        raise ValueError(
            f"{name}: its tokenizer has {size} tokens, the model {room}; tokenizer.json is missing or of another model"
        )


def template_options(
    processor: "ProcessorMixin | PreTrainedTokenizerBase", args: argparse.Namespace
) -> dict[str, bool]:
    """What the option `thinking`, of commands that have it, tells a chat template, by both names in use.

    Raises:
        ValueError: If the template knows neither name, or its models do not think.
    """
    from jinja2 import TemplateError

    wanted = getattr(args, "thinking", None)
    if wanted is None:
        return {}
    option, names = "--thinking" if wanted else "--no-thinking", {"thinking": wanted, "enable_thinking": wanted}
    if "thinking" not in str(processor.chat_template):
        raise ValueError(f"{option} was given, but the chat template of {args.model} has no place for thoughts")
    try:
        processor.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, **names)
    except TemplateError as error:
        raise ValueError(f"{option} was given, but {args.model}: {error}") from error
    return names


def penalty_options(
    processor: "ProcessorMixin | PreTrainedTokenizerBase", args: argparse.Namespace, inputs: "dict[str, torch.Tensor]"
) -> dict[str, Any]:
    """Options of `generate` for the penalties that the option `sample` brings, of what is answered after `inputs`."""
    from ..modeling_rwkv7_world.logits_process_rwkv7 import RWKVPenaltyLogitsProcessor
    from ..processing.text_chat_formats import penalties_of

    penalties = penalties_of(processor.chat_template) if getattr(args, "sample", False) else {}
    if not penalties:
        return {}
    prompt_length = inputs["input_ids"].shape[1]
    return {"logits_processor": [RWKVPenaltyLogitsProcessor(**penalties, prompt_length=prompt_length)]}


def check_weights(folder: Path) -> int:
    """Checks that all weight files of a model folder are there and whole; their bytes.

    Raises:
        FileNotFoundError: If there is no weight file, or a shard of the index is missing.
        ValueError: If one is truncated or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: no such file, and {index.name} names it")
    if not files:
        raise FileNotFoundError(f"{folder}: weights are missing, there is no *.safetensors in it")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file}: truncated, or no safetensors file ({first_line(error)})") from error
    return sum(file.stat().st_size for file in files)


def load_model(
    config: "PreTrainedConfig", dtype: str, device: "torch.device", quantize: str | None = None
) -> "PreTrainedModel":
    """The model on `device`, ready to generate.

    Args:
        config: From [`load_config`].
        dtype: One of `DTYPES`; `auto` is what the weights were saved in.
        device: Where to put it.
        quantize: A key of `QUANTIZED_BITS`, or `None` to leave the weights as they are saved.

    Raises:
        ValueError: If weights are missing, which transformers would replace by random ones, or the model cannot be
            quantised.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    from .. import RWKV7Config, RWKV7ForCausalLM
    from ..modeling_rwkv7_world.checkpoint_layouts import is_checkpoint_file
    from ..processing.text_chat_formats import CHAT_FORMATS, chat_format_of

    auto_class = AutoModelForMultimodalLM if is_composite(config) else AutoModelForCausalLM
    model_class = RWKV7ForCausalLM if isinstance(config, RWKV7Config) else auto_class
    quantized = _quantization(config, quantize) if quantize else {}
    folder = Path(config.name_or_path).expanduser()
    if any(folder.glob("*.safetensors*")):  # else transformers names what it looked for
        check_weights(folder)
    try:
        model, report = model_class.from_pretrained(
            config.name_or_path, dtype=dtype, trust_remote_code=False, output_loading_info=True, **quantized
        )
    except OSError as error:  # of the Hub's client, which names no model
        raise OSError(f"{config.name_or_path}: its weights cannot be loaded ({first_line(error)})") from error
    if missing := sorted(report["missing_keys"]):  # of a model of others: ours are loaded whole or refused
        raise ValueError(f"{config.name_or_path}: weights are missing, {len(missing)} in all: {missing[0]}")
    if is_checkpoint_file(config.name_or_path):  # which has no generation_config.json beside it
        model.generation_config.update(**CHAT_FORMATS[chat_format_of(config.name_or_path)].sampling)
    return model.to(device).eval()


def load_adapted(config: "PreTrainedConfig", args: argparse.Namespace, device: "torch.device") -> "PreTrainedModel":
    """The model of [`load_model`] by the options `dtype` and `quantize`, changed by the one called `adapter`."""
    model = load_model(config, args.dtype, device, args.quantize)
    if not args.adapter:
        return model
    from ..adapters import load_adapter  # needs PEFT

    return load_adapter(model, args.adapter).get_base_model()


def answer_settings(config: "PreTrainedConfig", device: "torch.device", args: argparse.Namespace) -> dict[str, Any]:
    """What answers depend on, but for what is asked: the model's contents, how it runs, and the code."""
    from ..evaluation.fingerprints import code_fingerprint, model_fingerprint

    return {
        "model": str(args.model),
        "revision": getattr(config, "_commit_hash", None),
        "weights": model_fingerprint(config.name_or_path),
        "adapter": args.adapter,
        "adapter_weights": model_fingerprint(args.adapter, "adapter_config.json") if args.adapter else None,
        "dtype": args.dtype,
        "quantize": args.quantize,
        "device": device.type,
        "runs": _what_runs(config, device, args.dtype),
        "code": code_fingerprint(),
    }


def saved_dtype(config: "PreTrainedConfig") -> "torch.dtype | None":
    """What the weights of a model were saved in, as far as its configuration says it."""
    return config.dtype or config.get_text_config().dtype


def _what_runs(config: "PreTrainedConfig", device: "torch.device", dtype: str | None) -> str | None:
    """What runs a model of ours, in words; `None` for others."""
    import torch

    from ..kernels.dispatch import execution_here

    text = config.get_text_config()
    if text.model_type != "rwkv7":
        return None
    chosen = saved_dtype(config) if dtype == "auto" else getattr(torch, dtype)
    return str(execution_here(device, chosen or torch.float32, text.head_dim))


def save_folder(model: "PreTrainedModel", processor: "ProcessorMixin | PreTrainedTokenizerBase", folder: Path) -> int:
    """Saves a model with its processor; the bytes of its weights."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def describe_quantization(config: "PreTrainedConfig") -> str | None:
    """How the weights of a saved model are quantised, in words; `None` if they are not."""
    from ..modeling_rwkv7_world.quantization import QUANTIZATION_METHOD, RWKVQuantizationConfig

    saved = getattr(config, "quantization_config", None)
    if saved is None or saved["quant_method"] != QUANTIZATION_METHOD:
        return saved and saved["quant_method"]
    return RWKVQuantizationConfig.from_dict(saved).describe()


def pick_device(name: str | None) -> "torch.device":
    """The device called `name`; without a name a GPU if there is one, else the CPU.

    Raises:
        ValueError: If no such device can be used here.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name} cannot be used here ({first_line(error)})") from error
    return device


def _quantization(config: "PreTrainedConfig", name: str) -> "dict[str, RWKVQuantizationConfig]":
    from ..modeling_rwkv7_world.quantization import RWKVQuantizationConfig

    if already := describe_quantization(config):
        raise ValueError(f"{config.name_or_path}: is saved quantised ({already}), and cannot be once more")
    return {"quantization_config": RWKVQuantizationConfig(QUANTIZED_BITS[name])}

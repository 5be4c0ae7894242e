# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world info`: what would run here and why, and with a model, how large it and its state are.

Only the headers of weight files are read: sizes come from the configuration and, in bytes, from the files.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .console import PROGRAM, quiet_libraries
from .loading import check_weights, describe_quantization, is_composite, load_config, pick_device, saved_dtype


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig


MANY_ROWS = 512  # as a prompt has
USUAL_HEAD_DIM = 64

_EPILOG = f"""\
examples:
  {PROGRAM} info
  {PROGRAM} info examples/tiny_world/checkpoint
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "info",
        help="say how large a model is, and what runs it here",
        description="Says what runs a model on this machine and why, and how large a model and its state are.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="folder with a model, Hub id, or .pth file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the model is none of ours, or its folder is not as it should be.
        OSError: If something cannot be read.
    """
    with quiet_libraries():
        config = load_config(args.model) if args.model else None
        lines = [] if config is None else _describe_model(args.model, config)
        lines += _describe_backends(config)
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def _describe_model(model: str, config: "PreTrainedConfig") -> list[tuple[str, str]]:
    text = config.get_text_config()
    if text.model_type != "rwkv7":
        raise ValueError(f"{model}: holds a {config.model_type} model, and this describes RWKV-7 models only")
    dtype = saved_dtype(config)
    parameters = _count_parameters(config)
    lines = [
        ("model", f"{config.model_type}{_kind(text)}, {text.num_hidden_layers} layers, width {text.hidden_size}"),
        ("parameters", f"{parameters:,}"),
        ("saved as", "unknown dtype" if dtype is None else str(dtype).removeprefix("torch.")),
    ]
    if quantization := describe_quantization(config):
        lines.append(("quantised", quantization))
    if Path(model).expanduser().is_dir():
        size = check_weights(Path(model).expanduser())
        lines.append(("weight files", f"{size:,} bytes"))
    return [*lines, ("state", _describe_state(text, dtype))]


def _kind(config: "PreTrainedConfig") -> str:
    if config.deep_embed_attn_dim is not None:
        return " (RWKV-7b, with DeepEmbed and DEA)"
    return "" if config.deep_embed_dim is None else " (RWKV-7a, with DeepEmbed)"


def _count_parameters(config: "PreTrainedConfig") -> int:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    auto_class = AutoModelForMultimodalLM if is_composite(config) else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config).num_parameters()


def _describe_state(config: "PreTrainedConfig", dtype: "torch.dtype | None") -> str:
    """In every layer two tokens of the model's dtype and a float32 matrix a head; in RWKV-7b also the context."""
    import torch

    size, hidden, layers = (dtype or torch.float32).itemsize, config.hidden_size, config.num_hidden_layers
    constant = layers * hidden * (2 * size + config.head_dim * torch.float32.itemsize)
    if config.deep_embed_attn_dim is None:
        return f"{constant:,} bytes a sequence, however long"
    place = torch.int64.itemsize
    constant += layers * config.deep_embed_attn_dim * size + config.vocab_size * place
    token = layers * 2 * config.deep_embed_attn_low_rank_dim * size + 2 * place
    different = layers * (config.deep_embed_attn_dim + hidden) * size
    return f"{constant:,} bytes a sequence, {token:,} more a token and {different:,} a different token"


def _describe_backends(config: "PreTrainedConfig | None") -> list[tuple[str, str]]:
    import torch

    from ..kernels.cpu import decode as decode_cpu
    from ..kernels.cpu import linear as linear_cpu
    from ..kernels.cpu import prefill as prefill_cpu
    from ..kernels.dispatch import execution_here, explain_backends

    ways = {
        linear_cpu.FEW_ROWS: "C++ (reads the weights at the speed of memory)",
        linear_cpu.ONEDNN: "oneDNN (MKL is slow on AMD)",
        linear_cpu.IN_FLOAT32: "float32 (this processor has no float16 products)",
        linear_cpu.ORDINARY: "PyTorch",
    }
    lines = [(f"wkv7 {name}", reason) for name, reason in explain_backends().items()]
    device, dtype = pick_device(None), torch.float32 if config is None else saved_dtype(config) or torch.float32
    head_dim = USUAL_HEAD_DIM if config is None else config.get_text_config().head_dim
    name = str(dtype).removeprefix("torch.")
    lines.append((f"runs {name}", f"on {device.type}: {execution_here(device, dtype, head_dim)}"))
    for dtype in linear_cpu.DTYPES:
        few, many = (ways[linear_cpu.way_of_linear(dtype, rows)] for rows in (1, MANY_ROWS))
        name = str(dtype).removeprefix("torch.")
        lines.append((f"linear {name}", f"on the CPU a token by {few}; a prompt by {many}"))
    lines.append(("linear C++", linear_cpu.why_not_built() or "ok"))
    lines.append(("prefill C++", prefill_cpu.why_not_built() or "ok"))
    lines.append(("decode C++", decode_cpu.why_not_built() or "ok"))
    return [*lines, ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]

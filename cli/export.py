# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world export`: a text model as an ONNX file."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, quiet_libraries, show_stage
from .loading import describe_quantization, is_composite, load_config, load_model, pick_device


_EPILOG = f"""\
examples:
  {PROGRAM} export rwkv7-0.1b rwkv7-0.1b.onnx
  {PROGRAM} export rwkv7-0.1b batches.onnx --attention-mask --last-logits
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "export",
        help="write a text model as an ONNX file",
        description="Writes a text model as an ONNX file: one graph, in float32 whatever the folder holds, for a step "
        "and for prompts of any length and batch, with the state as inputs and outputs. ONNX Runtime's result is "
        "compared with PyTorch's.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="FOLDER", help="folder with a text model, Hub id, or .pth file")
    parser.add_argument("destination", metavar="OUT.onnx", type=Path, help="file to write; must not exist yet")
    parser.add_argument(
        "--attention-mask", action="store_true", help="with this input, 0 for padding, for prompts of unequal length"
    )
    parser.add_argument("--last-logits", action="store_true", help="with logits of the last token only")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If the model is no text model or quantised, the destination is taken, or the result is wrong.
        ModuleNotFoundError: If a library of the extra `onnx` is missing.
        OSError: If something cannot be read or written.
    """
    from .. import RWKV7Config
    from ..conversion.onnx_file import check_libraries, export_onnx, files_of
    from ..conversion.output import check_new

    check_new(*files_of(args.destination))
    check_libraries()
    with nullcontext() if args.debug else quiet_libraries(), show_stage() as on_stage:
        config = load_config(args.model)
        if is_composite(config) or not isinstance(config, RWKV7Config):
            raise ValueError(f"{args.model}: holds a {config.model_type} model, expected a text model of RWKV-7")
        if quantization := describe_quantization(config):
            raise ValueError(f"{args.model}: is quantised ({quantization}), expected the model that it was made from")
        on_stage("loading")
        model = load_model(config, "float32", pick_device("cpu"))
        layout = {"attention_mask": args.attention_mask, "last_logits": args.last_logits}
        done = export_onnx(model, args.destination, **layout, on_stage=on_stage)
    print(f"{args.destination}: {done.parameters:,} parameters in float32, {done.size:,} bytes")
    for file in done.files[1:]:
        print(f"{file}: beside it")
    print(f"ONNX Runtime's logits differ from PyTorch's by at most {done.difference:.1e} of the largest")

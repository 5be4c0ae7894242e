# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world generate`: one question, with pictures and clips if wanted, answered on stdout as it is generated.

Everything that can be refused without the model's weights is refused before they are read.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import PROGRAM, number, quiet_libraries
from .inputs import check_audio, check_file, check_image
from .loading import (
    DTYPES,
    QUANTIZED_BITS,
    is_composite,
    load_config,
    load_model,
    load_processor,
    pick_device,
)


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


DEFAULT_MAX_NEW_TOKENS = 256

_EPILOG = f"""\
examples:
  {PROGRAM} generate MODEL "What is in the picture?" --image photo.png
  {PROGRAM} generate MODEL "Write down what is said." --audio clip.wav
  {PROGRAM} generate MODEL "What happens here?" --video film.mp4 --frames 16
  {PROGRAM} generate MODEL "Who are you?" --adapter my-state
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "generate",
        help="answer a question about text, pictures, clips and videos",
        description="Answers a question about pictures, clips and videos; prints the answer as it comes.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="folder with a model, or its id on the Hugging Face Hub")
    parser.add_argument("question", help='what to ask; "" for a model that only listens')
    parser.add_argument(
        "--image", metavar="FILE", type=Path, action="append", default=[], help="a picture; repeatable"
    )
    parser.add_argument("--audio", metavar="FILE", type=Path, action="append", default=[], help="a clip; repeatable")
    parser.add_argument(
        "--video", metavar="FILE", type=Path, action="append", default=[], help="a video, seen as pictures; repeatable"
    )
    parser.add_argument(
        "--frames",
        metavar="N",
        type=number(int, lambda value: value >= 1, "a whole number of at least 1"),
        help="pictures taken of a video (default: 8)",
    )
    parser.add_argument("--adapter", metavar="DIR", help="an adapter of PEFT for the model, as a folder or a Hub id")
    parser.add_argument("--system", metavar="TEXT", help="instruction that stands before the question")
    _add_sampling_options(parser)
    _add_runtime_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If a file, an option or the model is not as it should be.
        OSError: If something cannot be read.
    """
    with nullcontext() if args.debug else quiet_libraries(), _backend(args.backend):
        _check_request(args)
        device = pick_device(args.device)
        config = load_config(args.model)
        _check_encoders(config, args)
        processor = load_processor(config)
        inputs = _encode(processor, args) if is_composite(config) else _encode_text(processor, args)
        model = load_model(config, args.dtype, device, args.quantize)
        if args.adapter:
            model = _adapt(model, args.adapter)
        _answer(model, processor, inputs, args)


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("length and sampling")
    group.add_argument(
        "--max-new-tokens",
        metavar="N",
        type=number(int, lambda value: value >= 1, "a whole number of at least 1"),
        default=DEFAULT_MAX_NEW_TOKENS,
        help="stop after so many tokens (default: %(default)s)",
    )
    group.add_argument(
        "--temperature",
        metavar="T",
        type=number(float, lambda value: 0 <= value < float("inf"), "a number of at least 0"),
        help="sample at this temperature (default: the likeliest token is taken, as with 0)",
    )
    group.add_argument(
        "--top-p",
        metavar="P",
        type=number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
        help="sample among the likeliest tokens that together have this probability",
    )


def _add_runtime_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)")
    group.add_argument(
        "--quantize", choices=QUANTIZED_BITS, help="weights of so many bits: less memory, and on a CPU less time"
    )
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    group.add_argument("--backend", metavar="NAME", help="of the recurrence (default: $RWKV7_BACKEND, else chosen)")
    group.add_argument("--no-stream", action="store_true", help="print the answer only when it is complete")
    group.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")


@contextmanager
def _backend(name: str | None) -> Iterator[None]:
    """Lets the kernels run on the backend `name` meanwhile; refuses an unknown one, given here or by environment."""
    from ..kernels.wkv7 import BACKEND_VARIABLE, select_backend

    before = os.environ.get(BACKEND_VARIABLE)
    select_backend(name)
    os.environ[BACKEND_VARIABLE] = name or before or ""
    try:
        yield
    finally:
        os.environ.pop(BACKEND_VARIABLE)
        if before is not None:
            os.environ[BACKEND_VARIABLE] = before


def _check_request(args: argparse.Namespace) -> None:
    if not (args.question.strip() or args.image or args.audio or args.video):
        raise ValueError("the question is empty")
    for path in args.image:
        check_image(path)
    for path in args.audio:
        check_audio(path)
    for path in args.video:
        check_file(path)


def _check_encoders(config: "PreTrainedConfig", args: argparse.Namespace) -> None:
    seen = args.image + args.video
    if seen and getattr(config, "vision_config", None) is None:
        raise ValueError(f"{args.model}: the model has no eyes, but was given {seen[0]}")
    if args.audio and getattr(config, "audio_config", None) is None:
        raise ValueError(f"{args.model}: the model has no ears, but was given {args.audio[0]}")


def _encode(processor: "ProcessorMixin", args: argparse.Namespace) -> dict[str, "torch.Tensor"]:
    """The conversation with its pictures and clips, before the question, as the inputs of the model."""
    content = [{"type": "image", "path": str(path)} for path in args.image]
    content += [{"type": "video", "path": str(path)} for path in args.video]
    content += [{"type": "audio", "path": str(path)} for path in args.audio]
    if args.question.strip():
        content.append({"type": "text", "text": args.question})
    conversation = [{"role": "user", "content": content}]
    if args.system:
        conversation.insert(0, {"role": "system", "content": [{"type": "text", "text": args.system}]})
    frames = {"num_frames": args.frames} if args.video else {}
    return _apply_chat_template(processor, conversation, **frames)


def _encode_text(tokenizer: "PreTrainedTokenizerBase", args: argparse.Namespace) -> dict[str, "torch.Tensor"]:
    """The question as the inputs of a text model; a tokenizer without chat template takes it as text to continue."""
    if tokenizer.chat_template is None:
        prompt = f"{args.system}\n\n{args.question}" if args.system else args.question
        return dict(tokenizer(prompt, return_tensors="pt"))
    conversation = [{"role": "user", "content": args.question}]
    if args.system:
        conversation.insert(0, {"role": "system", "content": args.system})
    return _apply_chat_template(tokenizer, conversation)


def _apply_chat_template(
    processor: Any, conversation: list[dict[str, Any]], **options: int | None
) -> dict[str, "torch.Tensor"]:
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True} | options
    return dict(processor.apply_chat_template(conversation, **options))


def _answer(
    model: "PreTrainedModel",
    decoder: "ProcessorMixin | PreTrainedTokenizerBase",
    inputs: dict[str, "torch.Tensor"],
    args: argparse.Namespace,
) -> None:
    """Generates the answer and prints it, as it comes unless told otherwise."""
    from ..processing.answers import text_before
    from ..processing.chat_templates import stop_strings
    from .streaming import AnswerStreamer

    # A World text model ends its answer by going on with the user's next turn; others may have strings of their own
    strings = stop_strings(decoder.chat_template, model.generation_config.stop_strings)
    stop = {"stop_strings": strings, "tokenizer": getattr(decoder, "tokenizer", decoder)} if strings else {}
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    streamer = None if args.no_stream else AnswerStreamer(decoder, strings)
    output = model.generate(**inputs, **_sampling(args), **stop, max_new_tokens=args.max_new_tokens, streamer=streamer)
    if args.no_stream:
        answer = output[0, inputs["input_ids"].shape[1] :]
        text = decoder.decode(answer, skip_special_tokens=True)
        print(text_before(text, strings))


def _adapt(model: "PreTrainedModel", adapter: str) -> "PreTrainedModel":
    from ..adapters import load_adapter

    return load_adapter(model, adapter).get_base_model()


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `generate`: greedy unless a temperature above 0 or a share of probability asks for sampling."""
    if args.temperature == 0 or (args.temperature is None and args.top_p is None):
        return {"do_sample": False}
    given = {"temperature": args.temperature, "top_p": args.top_p}
    return {"do_sample": True} | {name: value for name, value in given.items() if value is not None}

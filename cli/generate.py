# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world generate`: one question, with images and audio if wanted, answered on stdout as it is generated; or a
file of questions, answered in batches.

Everything that can be refused without the model's weights is refused before they are read.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import PROGRAM, number, quiet_libraries
from .inputs import check_audio, check_file, check_image, fetch, media_source
from .loading import (
    DTYPES,
    QUANTIZED_BITS,
    is_composite,
    load_adapted,
    load_config,
    load_processor,
    penalty_options,
    pick_device,
    template_options,
)


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin


DEFAULT_MAX_NEW_TOKENS = 256
DEFAULT_BATCH_SIZE = 8

_EPILOG = f"""\
examples:
  {PROGRAM} generate MODEL "What is in the picture?" --image photo.png
  {PROGRAM} generate MODEL "Write down what is said." --audio clip.wav
  {PROGRAM} generate MODEL "What happens here?" --video film.mp4 --frames 16
  {PROGRAM} generate MODEL "Who are you?" --adapter my-state
  {PROGRAM} generate rwkv7-g1i-1.5b "How many r are in strawberry?" --thinking --sample
  {PROGRAM} generate MODEL "What is in the picture?" --image https://example.org/photo.png --json
  {PROGRAM} generate MODEL - < question.txt
  {PROGRAM} generate MODEL --input questions.jsonl --out answers.jsonl
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    parser = commands.add_parser(
        "generate",
        help="answer a question about text, pictures, clips and videos",
        description="Answers a question about pictures, clips and videos; prints the answer as it comes.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="folder with a model, Hub id, or .pth file")
    parser.add_argument(
        "question", nargs="?", help='what to ask; "" for a model that only listens; - reads it from standard input'
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        type=Path,
        help='in place of a question, .jsonl: "question", "image", "audio", "video"',
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="with --input: the same records with their answers")
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=number(int, lambda value: value >= 1, "a whole number of at least 1"),
        help=f"with --input: so many questions at once (default: {DEFAULT_BATCH_SIZE})",
    )
    for medium, text in (("image", "an image"), ("audio", "a clip"), ("video", "a video, seen as images")):
        parser.add_argument(
            f"--{medium}",
            metavar="FILE|URL",
            type=media_source,
            action="append",
            default=[],
            help=f"{text}; repeatable",
        )
    parser.add_argument(
        "--frames",
        metavar="N",
        type=number(int, lambda value: value >= 1, "a whole number of at least 1"),
        help="pictures taken of a video (default: 8)",
    )
    parser.add_argument("--adapter", metavar="DIR", help="an adapter of PEFT for the model, as a folder or a Hub id")
    parser.add_argument("--system", metavar="TEXT", help="instruction that stands before the question")
    parser.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="let the model think before it answers, or have it not (default: what its chat template does)",
    )
    _add_sampling_options(parser)
    _add_runtime_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If a file, an option or the model is not as it should be.
        OSError: If something cannot be read.
    """
    from ..kernels.dispatch import override_backend

    _check_options(args)
    with (
        nullcontext() if args.debug else quiet_libraries(),
        override_backend(args.backend),
        tempfile.TemporaryDirectory() as downloads,
    ):
        if args.input:
            _answer_file(args)
            return
        if args.question == "-":
            args.question = sys.stdin.read().strip()
        _check_request(args, Path(downloads))
        device = pick_device(args.device)
        config = load_config(args.model)
        _check_encoders(config, args)
        processor = load_processor(config)
        inputs = _encode(processor, args) if is_composite(config) else _encode_text(processor, args)
        _answer(load_adapted(config, args, device), processor, inputs, args)


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
        "--sample",
        action="store_true",
        help="sample as is usual for the model (docs/chat.md)",
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
    group.add_argument(
        "--seed",
        metavar="N",
        type=number(int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1"),
        help="of sampling: the same answer every time",
    )


def _add_runtime_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)")
    group.add_argument(
        "--quantize", choices=QUANTIZED_BITS, help="weights of so many bits: less memory, and on a CPU less time"
    )
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    group.add_argument("--backend", metavar="NAME", help="of the recurrence (default: $RWKV7_BACKEND, else chosen)")
    group.add_argument("--json", action="store_true", help="print one JSON object: question, answer, tokens, seconds")
    group.add_argument("--no-stream", action="store_true", help="print the answer only when it is complete")
    group.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")


def _check_options(args: argparse.Namespace) -> None:
    """Refuses options that do not go together, or would do nothing."""
    media = [f"--{name}" for name in ("image", "audio", "video") if getattr(args, name)]
    if args.input is None:
        if args.question is None:
            raise ValueError("a QUESTION is needed, or --input with a file of questions")
        if args.out or args.batch_size:
            raise ValueError(f"{'--out' if args.out else '--batch-size'} goes with --input, a file of questions")
        if args.frames and not args.video:
            raise ValueError("--frames is for videos, and there is no --video")
        return
    if args.question is not None or media:
        raise ValueError(f"{media[0] if media else 'a question'} does not go with --input, whose lines hold both")
    if args.out is None:
        raise ValueError("--input needs --out, the file for the answers")
    for name in ("json", "frames", "no_stream"):
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} does not go with --input")


def _answer_file(args: argparse.Namespace) -> None:
    """Answers a file of questions into another."""
    from .batches import answer_samples_of, check_output, digest_of, finish, read_questions

    check_output(args.out)
    asked = list(read_questions(args.input))
    samples = [sample for _, sample in asked]
    config = load_config(args.model)
    needed = {"image": "vision_config", "video": "vision_config", "audio": "audio_config"}
    for sample in samples:
        for block in sample.content:
            name = needed.get(block["type"])
            if name and getattr(config, name, None) is None:
                encoder = name.removesuffix("_config")
                raise ValueError(f"{args.model}: the model has no {encoder} encoder, which {sample.id} needs")
    args.batch_size = args.batch_size or DEFAULT_BATCH_SIZE
    options = _sampling(args) | {"max_new_tokens": args.max_new_tokens}
    settings = {"questions": digest_of(samples), "system": args.system, "seed": args.seed, "options": options}
    settings |= {"thinking": args.thinking, "sample": args.sample}  # which brings penalties, too
    _seed(args.seed)
    records = answer_samples_of(args, config, samples, "questions", settings, options, args.system)
    if records:  # of the first process
        lines = [
            record | ({"error": done["error"]} if "error" in done else {"answer": done["prediction"]})
            for (record, _), done in zip(asked, records, strict=True)
        ]
        finish(args.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), records)


def _seed(seed: int | None) -> None:
    if seed is not None:
        from transformers import set_seed

        set_seed(seed)


def _check_request(args: argparse.Namespace, downloads: Path) -> None:
    """Checks what is asked, and makes files of URLs."""
    if not (args.question.strip() or args.image or args.audio or args.video):
        raise ValueError("the question is empty")
    for name, check in (("image", check_image), ("audio", check_audio), ("video", check_file)):
        sources = getattr(args, name)
        files = [fetch(source, downloads) for source in sources]
        for file, source in zip(files, sources, strict=True):
            check(file, source)
        setattr(args, name, files)


def _check_encoders(config: "PreTrainedConfig", args: argparse.Namespace) -> None:
    seen = args.image + args.video
    if seen and getattr(config, "vision_config", None) is None:
        raise ValueError(f"{args.model}: the model has no vision encoder, but was given {seen[0]}")
    if args.audio and getattr(config, "audio_config", None) is None:
        raise ValueError(f"{args.model}: the model has no audio encoder, but was given {args.audio[0]}")


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
    return _apply_chat_template(processor, conversation, **frames, **template_options(processor, args))


def _encode_text(tokenizer: "PreTrainedTokenizerBase", args: argparse.Namespace) -> dict[str, "torch.Tensor"]:
    """The question as the inputs of a text model; a tokenizer without chat template takes it as text to continue."""
    options = template_options(tokenizer, args)
    if tokenizer.chat_template is None:
        prompt = f"{args.system}\n\n{args.question}" if args.system else args.question
        return dict(tokenizer(prompt, return_tensors="pt"))
    conversation = [{"role": "user", "content": args.question}]
    if args.system:
        conversation.insert(0, {"role": "system", "content": args.system})
    return _apply_chat_template(tokenizer, conversation, **options)


def _apply_chat_template(
    processor: Any, conversation: list[dict[str, Any]], **options: Any
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
    from ..processing.answers import answer_text, begun_answer
    from ..processing.text_chat_formats import stop_strings
    from .streaming import AnswerStreamer

    # A World text model ends its answer by going on with the user's next turn; others may have strings of their own
    strings = stop_strings(decoder.chat_template, model.generation_config.stop_strings)
    stop = {"stop_strings": strings, "tokenizer": getattr(decoder, "tokenizer", decoder)} if strings else {}
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
    begun = begun_answer(decoder, inputs["input_ids"][0])
    streamer = None if args.no_stream or args.json else AnswerStreamer(decoder, strings, begun)
    options = _sampling(args) | stop | {"max_new_tokens": args.max_new_tokens, "streamer": streamer}
    options |= penalty_options(decoder, args, inputs)
    _seed(args.seed)
    started = time.monotonic()
    output = model.generate(**inputs, **options)
    if streamer is not None:
        return
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = answer_text(begun + decoder.decode(answer, skip_special_tokens=True), strings)
    if args.json:
        seconds = round(time.monotonic() - started, 3)
        counts = {"prompt_tokens": inputs["input_ids"].shape[1], "new_tokens": len(answer), "seconds": seconds}
        text = json.dumps({"question": args.question, "answer": text} | counts, ensure_ascii=False)
    print(text)


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `generate`: greedy unless `--sample`, a temperature above 0 or a share of probability asks."""
    if args.temperature == 0 or (args.temperature is None and args.top_p is None and not args.sample):
        return {"do_sample": False}
    given = {"temperature": args.temperature, "top_p": args.top_p}
    return {"do_sample": True} | {name: value for name, value in given.items() if value is not None}

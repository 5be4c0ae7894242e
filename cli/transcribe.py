# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world transcribe`: the text of every clip of a folder, in one file."""

import argparse
import csv
import glob
import io
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from .console import PROGRAM, number, quiet_libraries
from .loading import DTYPES, QUANTIZED_BITS, load_config


FORMATS = (".csv", ".jsonl", ".srt")
COLUMNS = ("file", "text", "seconds", "error")
DEFAULT_BATCH_SIZE, DEFAULT_MAX_NEW_TOKENS = 8, 256

_EPILOG = f"""\
examples:
  {PROGRAM} transcribe MODEL recordings --out texts.csv
  {PROGRAM} transcribe MODEL "calls/2026-*.mp3" --out texts.jsonl --batch-size 16
  {PROGRAM} transcribe MODEL list.txt --out texts.srt --prompt "Write down what is said."

A run that was ended goes on where it was, when the same command is given again.
"""


def add_parser(commands) -> None:
    """Adds the sub-command to `commands`, the object that `ArgumentParser.add_subparsers` returned."""
    at_least_one = number(int, lambda value: value >= 1, "a whole number of at least 1")
    parser = commands.add_parser(
        "transcribe",
        help="write down what is said in many clips",
        description="Writes down what is said in all clips of a folder, of a pattern, or of a list, in batches.",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="folder with a model, or its id on the Hugging Face Hub")
    parser.add_argument(
        "clips", metavar="FOLDER|GLOB|LIST", help="a folder with clips, a pattern, or a .txt with a path a line"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="to write: .csv, .jsonl or .srt")
    parser.add_argument("--prompt", metavar="TEXT", help="what to ask about each clip (default: nothing)")
    parser.add_argument("--batch-size", metavar="N", type=at_least_one, default=DEFAULT_BATCH_SIZE)
    parser.add_argument("--max-new-tokens", metavar="N", type=at_least_one, default=DEFAULT_MAX_NEW_TOKENS)
    parser.add_argument("--adapter", metavar="DIR", help="an adapter of PEFT for the model, as a folder or a Hub id")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (default: as saved)")
    parser.add_argument("--quantize", choices=QUANTIZED_BITS, help="weights of so many bits")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda ... (default: a GPU if there is one)")
    parser.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Runs the sub-command.

    Raises:
        ValueError: If there is no clip, an option or the model is not as it should be, or no clip can be read.
        OSError: If something cannot be read or written.
    """
    from .batches import answer_samples_of, check_output, finish

    if args.out.suffix not in FORMATS:
        raise ValueError(f"{args.out}: --out ends in {', '.join(FORMATS)}, which is the format")
    check_output(args.out)
    clips = find_clips(args.clips)
    with nullcontext() if args.debug else quiet_libraries():
        config = load_config(args.model)
        if getattr(config, "audio_config", None) is None:
            raise ValueError(f"{args.model}: the model has no audio encoder, which transcribe needs")
        from ..evaluation.tasks.task import Sample, text_block

        question = (text_block(args.prompt),) if args.prompt else ()
        samples = [Sample(str(clip), ({"type": "audio", "audio": str(clip)}, *question)) for clip in clips]
        options = {"max_new_tokens": args.max_new_tokens, "do_sample": False}
        settings = {"prompt": args.prompt, "max_new_tokens": args.max_new_tokens}
        records = answer_samples_of(args, config, samples, "clips", settings, options)
    if records:  # of the first process
        finish(args.out, _formatted(records, args.out.suffix), records)


def find_clips(clips: str) -> list[Path]:
    """The clips of a folder and its sub-folders, of a pattern, or of a list, each once and in order.

    Raises:
        FileNotFoundError: If there is no such folder or file, or nothing matches.
        ValueError: If there is no clip.
    """
    from ..data.manifests import CLIP_SUFFIXES, clips_in
    from ..data.text_files import read_text

    path = Path(clips).expanduser()
    if path.is_dir():
        found = clips_in(path)
        if not found:
            raise ValueError(f"{path}: no clip in it, expected files {', '.join(CLIP_SUFFIXES)}")
        return found
    if path.is_file() and path.suffix == ".txt":
        lines = read_text(path).splitlines()
        found = [path.parent / line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"{path}: an empty list")
        return list(dict.fromkeys(found))
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if path.is_file() and not found:  # its name looks like a pattern
        found = [path]
    if not found:
        raise FileNotFoundError(f"{clips}: no such folder or file, and no file matches it")
    return found


def _formatted(records: Sequence[dict], suffix: str) -> str:
    rows = [
        {"file": one["id"], "text": one["prediction"], "seconds": one["seconds"], "error": one.get("error")}
        for one in records
    ]
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if suffix == ".srt":
        return _subtitles(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _subtitles(rows: Sequence[dict]) -> str:
    """One subtitle a clip, one clip after the other: models of this family give no times within a clip."""
    blocks, start = [], 0.0
    for index, row in enumerate(rows, 1):
        end = start + (row["seconds"] or 0.0)
        blocks.append(f"{index}\n{_clock(start)} --> {_clock(end)}\n{row['text']}\n")
        start = end
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02},{rest % 1000:03}"

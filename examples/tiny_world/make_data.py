"""Writes Tiny World's data, four sets of the `datasets` library, into one folder.

    python make_data.py data --train-clips 12000 --train-scenes 40000

`speech_train`, `speech_test`: `audio` (bytes: mono int16 PCM at 16 kHz, `numpy.frombuffer(row["audio"], "<i2")`),
`text`, `voice`. `scenes_train`, `scenes_test`: `image` (bytes of a PNG), `family`, `questions`, `answers`,
`caption`; all questions of a picture are of one family, for the answers of two would give each other away. Both have
`difficulty`: the words of a clip, the things in a picture. What is held out is told in `speech.py` and `scenes.py`.
The rows depend on the seed and the counts alone, whatever the number of processes.
"""

import argparse
import io
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import scenes
import speech


# The seeds of one run are `--seed` * this + 0, 1, 2 ...
SEEDS_A_RUN = 10_000_000
# How often a training picture asks each family: finding a thing by what it is takes the most pictures to learn.
TRAIN_FAMILIES = (*scenes.FAMILIES, "color", "shape", "exists", "word")

CARD = """# Tiny World data

Made by `examples/tiny_world/make_data.py --seed {seed}`: synthetic, from espeak-ng and Pillow, nothing recorded.

| set | rows | held out by |
|---|---|---|
| speech_train | {train_clips} | {train_voices} voices |
| speech_test | {test_clips} | voice: {held_out_voices} |
| scenes_train | {train_scenes} | |
| scenes_test | {test_scenes} | what stands where (a hash bucket that training never shows) |
"""


def vocabulary_words() -> list[str]:
    """Every word of all transcripts, questions, answers and captions, "?" and ",", sorted."""
    return sorted({*speech.words(), *scenes.words(), "?", ","})


def speech_row(task: tuple[int, bool]) -> dict:
    """`(seed, held_out)` -> one row of a speech set."""
    clip = speech.make_clip(*task)
    samples = clip.samples.astype("<i2").tobytes()
    return {"audio": samples, "text": clip.text, "voice": clip.voice, "difficulty": len(clip.text.split())}


def scene_row(task: tuple[int, bool, str]) -> dict:
    """`(seed, held_out, family)` -> one row of a scenes set."""
    image, questions, caption = scenes.make_scene(*task)
    png = io.BytesIO()
    image.save(png, "PNG", compress_level=1)  # noise hardly compresses; 1 is the fastest
    return {
        "image": png.getvalue(),
        "family": questions[0].family,
        "questions": [question.question for question in questions],
        "answers": [question.answer for question in questions],
        "caption": caption,
        "difficulty": sum(quarter != scenes.NOTHING for quarter in caption.split(", ")),
    }


def scene_tasks(seeds: range, held_out: bool) -> list[tuple[int, bool, str]]:
    """One task for `scene_row` a seed, the families in turn; held-out pictures ask each equally often."""
    families = scenes.FAMILIES if held_out else TRAIN_FAMILIES
    return [(seed, held_out, families[i % len(families)]) for i, seed in enumerate(seeds)]


def make_rows(row: Callable[[tuple], dict], tasks: tuple[tuple, ...], processes: int, title: str) -> Iterator[dict]:
    """`row(task)` for each task, in order, with a progress bar."""
    from tqdm import tqdm

    # spawn: a forked child would inherit the threads of torch and pyarrow in a bad state.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from tqdm(pool.imap(row, tasks, chunksize=50), total=len(tasks), desc=title, unit="row")


def write_set(folder: Path, row: Callable[[tuple], dict], tasks: list[tuple], processes: int) -> None:
    """Saves the rows as a set of the `datasets` library, for `datasets.load_from_disk(folder)`."""
    # Here, not above: the processes that make the rows import this file too, and have no need of it.
    import datasets

    text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
    fields = {"audio": datasets.Value("binary"), "text": text, "voice": text}
    if row is scene_row:
        fields = {"image": datasets.Value("binary"), "family": text}
        fields |= {"questions": texts, "answers": texts, "caption": text}
    features = datasets.Features(fields | {"difficulty": datasets.Value("int32")})
    datasets.disable_progress_bars()
    # `from_generator` remembers what it made, under a name it derives from the function: a folder of its own, so that
    # nothing stale is found.
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        made = datasets.Dataset.from_generator(
            make_rows,
            features=features,
            cache_dir=cache,
            # A tuple: a list would be taken for shards, and the generator started once for each element.
            gen_kwargs={"row": row, "tasks": tuple(tasks), "processes": processes, "title": folder.name},
            fingerprint=folder.name,
        )
        made.save_to_disk(folder)


def write_all(options: argparse.Namespace) -> None:
    """The four sets and the card, as the options say."""
    start = options.seed * SEEDS_A_RUN

    def seeds(count: int) -> range:
        return range(start, start + count)

    tasks = {
        "speech_train": (speech_row, [(seed, False) for seed in seeds(options.train_clips)]),
        "speech_test": (speech_row, [(seed, True) for seed in seeds(options.test_clips)]),
        "scenes_train": (scene_row, scene_tasks(seeds(options.train_scenes), held_out=False)),
        "scenes_test": (scene_row, scene_tasks(seeds(options.test_scenes), held_out=True)),
    }
    for name, (row, row_tasks) in tasks.items():
        write_set(options.out / name, row, row_tasks, options.processes)
    voices = {"train_voices": len(speech.TRAIN_VOICES), "held_out_voices": ", ".join(speech.HELD_OUT_VOICES)}
    (options.out / "README.md").write_text(CARD.format(**vars(options), **voices), encoding="utf-8")


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"make_data.py: {message}\n")


def _count(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line; leaves with one line and status 2 where it cannot be carried out."""
    parser = _OneLineParser(
        prog="make_data.py",
        description="Writes Tiny World's synthetic speech and pictures into the folder OUT.",
        epilog="example: python make_data.py data --train-clips 12000 --train-scenes 40000 --seed 0",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must be new or empty")
    rows = _count(1, SEEDS_A_RUN)
    for name, count in (("train-clips", 12_000), ("test-clips", 300), ("train-scenes", 40_000), ("test-scenes", 400)):
        parser.add_argument(f"--{name}", metavar="N", type=rows, default=count, help=f"default {count}")
    parser.add_argument("--seed", metavar="N", type=_count(0, 10_000), default=0, help="other data; default 0")
    parser.add_argument("--processes", metavar="N", type=_count(1, 256), default=2, help="same data; default 2")
    options = parser.parse_args(arguments)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"{options.out} is a file; name a folder that is new or empty")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make the folder {options.out}: {error.strerror}")
    if any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty; remove what is in it or name another folder")
    return options


def main(arguments: list[str]) -> None:
    write_all(parse_options(arguments))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Pictures of coloured shapes and printed words, drawn by Pillow, and questions: the eyes' half of Tiny World's data.

`make_scene(seed)` returns a 64x64 RGB picture and questions that the picture answers in one word. It depends on
nothing but its arguments. `describe` says what a scene holds (each shape or word, its color, its cell of a 3x3 grid);
scenes whose description hashes into bucket 0 of `BUCKETS` are never drawn unless `held_out=True`, and then only those
are. So a held-out scene differs from every training scene in what is where, not in its noise alone.

Within a family, answers are spread evenly whatever the question says, so that guessing without looking does badly.
"""

import hashlib
import math
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont


SIDE = 64  # pixels, width and height
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (230, 35, 35),
    "green": (30, 185, 50),
    "blue": (45, 85, 255),
    "yellow": (250, 225, 40),
    "purple": (175, 45, 215),
    "white": (248, 248, 248),
}
WORDS = (
    *("cat", "sun", "box", "key", "dog", "cup", "hat", "map"),
    *("pen", "bus", "egg", "car", "tree", "fish", "leaf", "ball"),
)
COUNTS = ("one", "two", "three", "four")
DIRECTIONS = ("left", "right", "top", "bottom")
FAMILIES = ("color", "shape", "count", "side", "exists", "word")

SIZES = (20, 26)  # least and most pixels across a shape
WORD_SIZES = (19, 22)  # font size
JITTER = 2  # most pixels between a centre and the middle of its place, along each axis
CLEAR_MARGIN = 16  # least pixels between two centres before one is called left of, or above, the other
SHADES = (10, 60)  # of the background
NOISE = (3.0, 10.0)  # standard deviation of the pixel noise, least and most

BUCKETS = 10
HELD_OUT_BUCKET = 0
_OVERSAMPLE = 4  # shapes are drawn this much larger and averaged down, for smooth edges


class Item(NamedTuple):
    """One thing drawn: a shape of `SHAPES` or a word of `WORDS`; its centre and its size in pixels."""

    name: str
    color: str
    x: int
    y: int
    size: int


class Question(NamedTuple):
    """`answer` is one lower-case word; `family` is one of `FAMILIES`."""

    question: str
    answer: str
    family: str


def words() -> list[str]:
    """Every word of every question and answer, sorted, without the question mark."""
    frames = "what color is the shape on left right at top bottom thing how many shapes are there a word written"
    return sorted({*frames.split(), *DIRECTIONS, *SHAPES, *COLORS, *WORDS, *COUNTS, "yes", "no"})


def make_scene(seed: int, held_out: bool = False, family: str | None = None) -> tuple[Image.Image, list[Question]]:
    """One picture and one question for each family it can answer, the asked `family` first.

    Args:
        seed: at least 0; training and held-out scenes of the same seed have nothing in common.
        held_out: draw a scene that training never shows (see the module's docstring).
        family: what the first question asks; None draws one of `FAMILIES`. Answers are evenly spread over first
            questions only: a scene made for `side` always has two shapes, so its `count` is always "two".
    """
    rng = np.random.default_rng([seed, held_out])
    if family is None:
        family = str(rng.choice(FAMILIES))
    items = make_items(rng, held_out, family)
    questions = ask(items, rng)
    questions.sort(key=lambda question: question.family != family)
    return draw(items, rng), questions


def make_items(rng: np.random.Generator, held_out: bool, family: str) -> list[Item]:
    """What stands where, such that a question of `family` is answered by it without doubt."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    # Decided before the loop: rejecting layouts must not make one count more frequent than another.
    count = 2 if family == "side" else int(rng.integers(1, len(COUNTS) + 1))
    while True:
        items = _place_word(rng) if family == "word" else _place_shapes(count, rng)
        if _can_ask(family, items) and is_held_out(items) == held_out:
            return items


def describe(items: list[Item]) -> str:
    """What the scene holds and roughly where, the same for any order of `items`."""
    cell = SIDE / 3
    return "; ".join(sorted(f"{i.color} {i.name} {int(i.x // cell)},{int(i.y // cell)}" for i in items))


def is_held_out(items: list[Item]) -> bool:
    """Whether the description of `items` falls into the bucket that training never shows."""
    digest = hashlib.blake2b(describe(items).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS == HELD_OUT_BUCKET


def _place_word(rng: np.random.Generator) -> list[Item]:
    word, color = str(rng.choice(WORDS)), str(rng.choice(list(COLORS)))
    x, y = (SIDE // 2 + int(offset) for offset in rng.integers(-JITTER, JITTER + 1, size=2))
    return [Item(word, color, x, y, int(rng.integers(WORD_SIZES[0], WORD_SIZES[1] + 1)))]


def _place_shapes(count: int, rng: np.random.Generator) -> list[Item]:
    """`count` shapes, each about the middle of a quarter of the picture of its own."""
    items = []
    for quarter in rng.permutation(4)[:count]:
        row, column = divmod(int(quarter), 2)
        x, y = (SIDE // 4 + int(offset) for offset in rng.integers(-JITTER, JITTER + 1, size=2))
        name, color = str(rng.choice(SHAPES)), str(rng.choice(list(COLORS)))
        size = int(rng.integers(SIZES[0], SIZES[1] + 1))
        items.append(Item(name, color, x + column * SIDE // 2, y + row * SIDE // 2, size))
    return items


def _is_word(items: list[Item]) -> bool:
    return items[0].name in WORDS


def _once(values: list[str]) -> list[str]:
    """The values that occur exactly once, in order."""
    counts = Counter(values)
    return [value for value in values if counts[value] == 1]


def _clear_directions(items: list[Item]) -> dict[str, Item]:
    """direction -> the item that lies there, for two different shapes well apart along that axis."""
    if len(items) != 2 or items[0].name == items[1].name:
        return {}
    (left, right), (top, bottom) = sorted(items, key=lambda i: i.x), sorted(items, key=lambda i: i.y)
    clear = {"left": left, "right": right} if right.x - left.x >= CLEAR_MARGIN else {}
    return clear | ({"top": top, "bottom": bottom} if bottom.y - top.y >= CLEAR_MARGIN else {})


def _can_ask(family: str, items: list[Item]) -> bool:
    if family == "word" or _is_word(items):
        return family == "word" and _is_word(items)
    needs = {
        "color": _once([i.name for i in items]),
        "shape": _once([i.color for i in items]),
        "side": _clear_directions(items),
    }
    return bool(needs.get(family, True))


def ask(items: list[Item], rng: np.random.Generator) -> list[Question]:
    """One question of each family that `items` answer without doubt."""
    return [_ASK[family](items, rng) for family in FAMILIES if _can_ask(family, items)]


def _ask_color(items: list[Item], rng: np.random.Generator) -> Question:
    shape = rng.choice(_once([i.name for i in items]))
    return Question(f"what color is the {shape}?", next(i.color for i in items if i.name == shape), "color")


def _ask_shape(items: list[Item], rng: np.random.Generator) -> Question:
    color = rng.choice(_once([i.color for i in items]))
    return Question(f"what shape is the {color} thing?", next(i.name for i in items if i.color == color), "shape")


def _ask_count(items: list[Item], rng: np.random.Generator) -> Question:
    return Question("how many shapes are there?", COUNTS[len(items) - 1], "count")


def _ask_side(items: list[Item], rng: np.random.Generator) -> Question:
    clear = _clear_directions(items)
    direction = str(rng.choice(list(clear)))
    preposition = "on" if direction in ("left", "right") else "at"
    return Question(f"what shape is {preposition} the {direction}?", clear[direction].name, "side")


def _ask_exists(items: list[Item], rng: np.random.Generator) -> Question:
    present = {i.name for i in items}
    answer = str(rng.choice(["yes", "no"]))
    shape = rng.choice([s for s in SHAPES if (s in present) == (answer == "yes")])
    return Question(f"is there a {shape}?", answer, "exists")


def _ask_word(items: list[Item], rng: np.random.Generator) -> Question:
    return Question("what word is written?", items[0].name, "word")


_ASK = {
    "color": _ask_color,
    "shape": _ask_shape,
    "count": _ask_count,
    "side": _ask_side,
    "exists": _ask_exists,
    "word": _ask_word,
}


def draw(items: list[Item], rng: np.random.Generator) -> Image.Image:
    """The picture of `items` on an even dark background, with Gaussian noise on every pixel: (64, 64) RGB."""
    shade = int(rng.integers(SHADES[0], SHADES[1] + 1))
    canvas = Image.new("RGB", (SIDE * _OVERSAMPLE,) * 2, (shade,) * 3)
    pen = ImageDraw.Draw(canvas)
    for item in items:
        _draw_item(pen, item)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLE), dtype=np.float32)  # (64, 64, 3)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(*NOISE))
    return Image.fromarray((pixels + noise).clip(0, 255).round().astype(np.uint8))


def _draw_item(pen: ImageDraw.ImageDraw, item: Item) -> None:
    color = COLORS[item.color]
    x, y, radius = item.x * _OVERSAMPLE, item.y * _OVERSAMPLE, item.size * _OVERSAMPLE / 2
    box = (x - radius, y - radius, x + radius, y + radius)
    if item.name in WORDS:
        # The stroke makes the thin embedded font bold enough for 64 pixels.
        font = _font(item.size * _OVERSAMPLE)
        pen.text((x, y), item.name, fill=color, font=font, anchor="mm", stroke_width=2)
    elif item.name == "circle":
        pen.ellipse(box, fill=color)
    elif item.name == "ring":
        pen.ellipse(box, outline=color, width=round(radius * 0.4))
    elif item.name == "square":
        pen.rectangle([x - radius * 0.9, y - radius * 0.9, x + radius * 0.9, y + radius * 0.9], fill=color)
    elif item.name == "cross":
        arm = radius * 0.32
        pen.rectangle([x - radius, y - arm, x + radius, y + arm], fill=color)
        pen.rectangle([x - arm, y - radius, x + arm, y + radius], fill=color)
    elif item.name == "triangle":
        pen.polygon([(x, y - radius), (x - radius, y + radius * 0.8), (x + radius, y + radius * 0.8)], fill=color)
    else:
        pen.polygon(_star_points(x, y, radius * 1.1), fill=color)


def _star_points(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Five points, outer and inner corners in turn, one corner straight up."""
    corners = []
    for corner in range(10):
        length = radius * (0.45 if corner % 2 else 1.0)
        angle = math.pi * corner / 5
        corners.append((x + length * math.sin(angle), y - length * math.cos(angle)))
    return corners


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)

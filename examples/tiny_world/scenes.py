"""Pictures of coloured shapes and printed words, drawn by Pillow, and questions: the vision half of Tiny World's data.

`make_scene(seed)` returns a 64x64 RGB picture and questions that the picture answers in one word. It depends on
nothing but its arguments. `describe` says what a scene holds (each shape or word, its color, its cell of a 3x3 grid);
scenes whose description hashes into bucket 0 of `BUCKETS` are never drawn unless `held_out=True`, and then only those
are. So a held-out scene differs from every training scene in what is where, not in its noise alone.

Within a family, answers to first questions are spread evenly whatever the question says, so that guessing without
looking does badly.
`caption` tells the whole picture, quarter by quarter.
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
CAPTION_QUESTION = "what is in the picture?"
NOTHING = "nothing"  # what a caption says of an empty quarter

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
    captions = {*CAPTION_QUESTION.strip("?").split(), NOTHING}
    return sorted({*frames.split(), *captions, *DIRECTIONS, *SHAPES, *COLORS, *WORDS, *COUNTS, "yes", "no"})


def make_scene(
    seed: int, held_out: bool = False, family: str | None = None
) -> tuple[Image.Image, list[Question], str]:
    """One picture, every question of `family` that it answers, in random order, and its caption.

    Args:
        seed: at least 0; training and held-out scenes of the same seed have nothing in common.
        held_out: draw a scene that training never shows (see the module's docstring).
        family: what is asked; None draws one of `FAMILIES`.
    """
    rng = np.random.default_rng([seed, held_out])
    if family is None:
        family = str(rng.choice(FAMILIES))
    items = make_items(rng, held_out, family)
    questions = ask(items, family, rng)
    return draw(items, rng), questions, caption(items)


def make_items(rng: np.random.Generator, held_out: bool, family: str) -> list[Item]:
    """What stands where, such that a question of `family` is answered by it without doubt."""
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}; got {family!r}")
    # Decided before the loop: rejecting layouts must not make one count more frequent than another.
    count = 2 if family == "side" else int(rng.integers(1, len(COUNTS) + 1))
    while True:
        items = _place_word(rng) if family == "word" else _place_shapes(count, rng)
        if ask(items, family, rng) and is_held_out(items) == held_out:
            return items


def describe(items: list[Item]) -> str:
    """What the scene holds and roughly where, the same for any order of `items`."""
    cell = SIDE / 3
    return "; ".join(sorted(f"{i.color} {i.name} {int(i.x // cell)},{int(i.y // cell)}" for i in items))


def caption(items: list[Item]) -> str:
    """The quarters in reading order, as "red ring, nothing, blue star, nothing"; of a printed word, "red cat"."""
    if _is_word(items):
        return f"{items[0].color} {items[0].name}"
    quarters = [NOTHING] * 4
    for item in items:
        quarters[2 * (item.y >= SIDE // 2) + (item.x >= SIDE // 2)] = f"{item.color} {item.name}"
    return ", ".join(quarters)


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


def ask(items: list[Item], family: str, rng: np.random.Generator) -> list[Question]:
    """Every question of `family` that `items` answer without doubt, in random order; none if there is none.

    The first answer is spread evenly: that of `exists` is "yes" half the time, though most shapes are absent.
    """
    if _is_word(items) != (family == "word"):
        return []
    pairs = _ASK[family](items)
    pairs = [pairs[place] for place in rng.permutation(len(pairs))]
    if family == "exists":
        answer = str(rng.choice(["yes", "no"]))
        first = next(place for place, pair in enumerate(pairs) if pair[1] == answer)
        pairs.insert(0, pairs.pop(first))
    return [Question(question, answer, family) for question, answer in pairs]


def _ask_color(items: list[Item]) -> list[tuple[str, str]]:
    shapes = _once([item.name for item in items])
    return [(f"what color is the {item.name}?", item.color) for item in items if item.name in shapes]


def _ask_shape(items: list[Item]) -> list[tuple[str, str]]:
    colors = _once([item.color for item in items])
    return [(f"what shape is the {item.color} thing?", item.name) for item in items if item.color in colors]


def _ask_count(items: list[Item]) -> list[tuple[str, str]]:
    return [("how many shapes are there?", COUNTS[len(items) - 1])]


def _ask_side(items: list[Item]) -> list[tuple[str, str]]:
    prepositions = {"left": "on", "right": "on", "top": "at", "bottom": "at"}
    clear = _clear_directions(items).items()
    return [(f"what shape is {prepositions[direction]} the {direction}?", item.name) for direction, item in clear]


def _ask_exists(items: list[Item]) -> list[tuple[str, str]]:
    present = {item.name for item in items}
    return [(f"is there a {shape}?", "yes" if shape in present else "no") for shape in SHAPES]


def _ask_word(items: list[Item]) -> list[tuple[str, str]]:
    return [("what word is written?", items[0].name)]


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

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Asks the shipped model about four samples and draws images, questions and answers side by side.

`python examples/tiny_world/draw_answers.py docs/demo.png`. The file also holds questions and answers as JSON, in the
PNG text chunk `answers`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from transformers import AutoModelForImageTextToText, AutoProcessor

import rwkv7_world  # noqa: F401 (registers the models with the Auto classes)


HERE = Path(__file__).resolve().parent
SHOWN = ("count.png", "color.png", "word.png", "clip1.wav")
SIDE, MARGIN, TEXT_HEIGHT = 208, 20, 76  # pixels


def ask(model, processor, sample: dict) -> str:
    """The model's answer to one entry of samples.json."""
    kind = "image" if "image" in sample else "audio"
    content = [
        {"type": kind, "path": str(HERE / "samples" / sample[kind])},
        {"type": "text", "text": sample["question"]},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def draw_waveform(path: Path) -> Image.Image:
    """The largest and smallest amplitude of every column of pixels."""
    amplitudes, _ = soundfile.read(path, dtype="float32")
    image = Image.new("RGB", (SIDE, SIDE), "#f4f6fa")
    pen = ImageDraw.Draw(image)
    scale = SIDE / 2 / max(float(np.abs(amplitudes).max()), 1e-6)
    for column, part in enumerate(np.array_split(amplitudes, SIDE)):
        pen.line([(column, SIDE / 2 - part.max() * scale), (column, SIDE / 2 - part.min() * scale)], fill="#2f5fb3")
    return image


def draw(answers: list[dict]) -> Image.Image:
    """One column a sample: image or waveform, question, answer."""
    canvas = Image.new("RGB", (MARGIN + len(answers) * (SIDE + MARGIN), SIDE + TEXT_HEIGHT + 2 * MARGIN), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for column, sample in enumerate(answers):
        left = MARGIN + column * (SIDE + MARGIN)
        path = HERE / "samples" / sample["file"]
        picture = draw_waveform(path) if path.suffix == ".wav" else Image.open(path).convert("RGB")
        canvas.paste(picture.resize((SIDE, SIDE)), (left, MARGIN))
        pen.text((left, MARGIN + SIDE + 10), sample["question"], fill="#444444", font=font)
        wrong = sample["answer"] != sample["right"]
        answer = f"{sample['answer']} (right: {sample['right']})" if wrong else sample["answer"]
        color = "#a32a1d" if wrong else "#0b6b2d"
        pen.text((left, MARGIN + SIDE + 38), answer, fill=color, font=ImageFont.load_default(size=20))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the PNG file")
    options = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(HERE / "checkpoint")
    processor = AutoProcessor.from_pretrained(HERE / "checkpoint")
    samples = json.loads((HERE / "samples" / "samples.json").read_text(encoding="utf-8"))
    shown = {sample.get("image") or sample["audio"]: sample for sample in samples}
    answers = [
        {
            "file": name,
            "question": shown[name]["question"],
            "answer": ask(model, processor, shown[name]),
            "right": shown[name]["answer"],
        }
        for name in SHOWN
    ]
    info = PngInfo()
    info.add_text("answers", json.dumps(answers))
    draw(answers).quantize(64).save(options.out, pnginfo=info, optimize=True)
    print("\n".join(f"{entry['file']}: {entry['question']} {entry['answer']}" for entry in answers))


if __name__ == "__main__":
    main()

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny World answers the questions of other harnesses, through their own classes."""

import configparser
import importlib.util
import json
import mimetypes
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
import soundfile
from PIL import Image

from rwkv7_world import RWKVWorldForConditionalGeneration, RWKVWorldProcessor
from rwkv7_world.evaluation.answering import GreedyAnswers
from rwkv7_world.evaluation.tasks import Sample


ROOT = Path(__file__).resolve().parents[2]
TINY_WORLD = ROOT / "examples" / "tiny_world"
CHECKPOINT, SAMPLES = TINY_WORLD / "checkpoint", TINY_WORLD / "samples"
MAX_NEW_TOKENS = 10


def parse_file(text: str) -> tuple[str | None, str]:
    """As VLMEvalKit's function of this name does with files and texts."""
    return (mimetypes.guess_type(text)[0] if Path(text).is_file() else None), text


@pytest.fixture(scope="module")
def vlmevalkit_model():
    """Tiny World on the real base class, without the rest of VLMEvalKit, which imports every model and benchmark."""
    spec = importlib.util.find_spec("vlmeval")
    if spec is None:
        pytest.skip("ms-vlmeval is not installed")
    names = ("vlmeval", "vlmeval.vlm", "vlmeval.dataset", "vlmeval.smp")
    package, models, datasets, tools = modules = [ModuleType(name) for name in names]
    package.__path__ = [str(Path(spec.origin).parent)]
    models.__path__ = [str(Path(spec.origin).parent / "vlm")]
    unused = dict.fromkeys(("concat_images_vlmeval", "encode_image_to_base64", "listinstr"))
    tools.__dict__.update(unused, parse_file=parse_file)
    datasets.DATASET_TYPE = None
    with pytest.MonkeyPatch.context() as patch:
        for name, module in zip(names, modules, strict=True):
            patch.setitem(sys.modules, name, module)
        from rwkv7_world.evaluation.harnesses.vlmevalkit import RWKVWorld

        yield RWKVWorld(str(CHECKPOINT), device="cpu", max_new_tokens=MAX_NEW_TOKENS)
        del sys.modules["vlmeval.vlm.base"]


@pytest.mark.parametrize("name", ["color.png", "count.png", "clip1.wav"])
def test_vlmevalkit_asks_about_pictures_and_clips(vlmevalkit_model, name):
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    (sample,) = (sample for sample in listed if name in sample.values())
    kind = "image" if "image" in sample else "audio"
    message = [{"type": kind, "value": str(SAMPLES / name)}, {"type": "text", "value": sample["question"]}]
    assert vlmevalkit_model.generate(message, dataset="mine") == sample["answer"]


def test_vlmevalkit_leaves_parts_where_they_stand(vlmevalkit_model):
    assert vlmevalkit_model.INTERLEAVE
    parts = [("text", "what color is this? "), ("image", "color.png"), ("text", " and this? "), ("image", "count.png")]
    parts = [(kind, value if kind == "text" else str(SAMPLES / value)) for kind, value in parts]
    model, processor = (
        kind.from_pretrained(CHECKPOINT) for kind in (RWKVWorldForConditionalGeneration, RWKVWorldProcessor)
    )
    answers = GreedyAnswers(model, processor, MAX_NEW_TOKENS)
    sample = Sample("0", tuple({"type": kind, kind: value} for kind, value in parts))
    message = [{"type": kind, "value": value} for kind, value in parts]
    assert [vlmevalkit_model.generate(message)] == answers.answer(answers.encode([sample]))


@pytest.fixture(scope="module")
def lmms_eval_model():
    """Tiny World as lmms-eval finds it."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, value = setup["options.entry_points"]["lmms_eval.models"].strip().partition(" = ")
    manifest = EntryPoint(name, value, "lmms_eval.models").load()
    assert manifest.model_id == name
    module, _, name = manifest.simple_class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)(str(CHECKPOINT), device="cpu", batch_size=2)


def test_lmms_eval_asks_about_pictures_and_clips(lmms_eval_model):
    from lmms_eval.api.instance import Instance

    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    documents = [sample for sample in listed if sample.get("image") != "word.png"]  # which it may misread
    lmms_eval_model.task_dict = {"mine": {"test": documents}}
    options = {"max_new_tokens": MAX_NEW_TOKENS, "until": ["\n"]}
    requests = [
        Instance(
            "generate_until",
            (sample["question"], options, visuals, number, "mine", "test"),
            0,
            {"task": "mine", "doc_id": number, "repeats": 1},
        )
        for number, sample in enumerate(documents)
    ]
    assert lmms_eval_model.generate_until(requests) == [sample["answer"] for sample in documents]


def visuals(document: dict) -> list:
    """The picture or clip of a document, as tasks of lmms-eval give them."""
    if "image" in document:
        return [Image.open(SAMPLES / document["image"])]
    samples, rate = soundfile.read(SAMPLES / document["audio"])
    return [{"array": samples, "sampling_rate": rate}]

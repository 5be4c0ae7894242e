# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The lines of code in a model card, which are run before they are published.

They run in a process of their own in an empty folder, and those that load a model by its own code run as where this
package is not installed. So running them shows that strangers can load what is published and make it say something.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from ..configuration.source_code import CODE_FOLDER
from .contents import Contents, Kind, is_trained_state, tensor_names


TIME_LIMIT = 1800  # seconds, for a base model may have to be downloaded first
CLIP_SECONDS, CLIP_RATE = 1, 16_000
PICTURE_SIZE = 64
_LIBRARIES = "torch transformers pillow soundfile soxr"
_WITH_OWN_CODE = (
    f"With `pip install {_LIBRARIES}`, nothing else; the code is in `{CODE_FOLDER}`. A C++ compiler and `ninja` make "
    "it faster on a CPU."
)
_WITH_PACKAGE = "With the package `rwkv7-world`:"
HIDE_PACKAGE = "import sys; sys.modules['rwkv7_world'] = None\n"

_TEXT = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{repo}", trust_remote_code=True)
inputs = tokenizer("The Eiffel tower is in the city of", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=20)
print(tokenizer.decode(output[0]))
"""

_WORLD = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("{repo}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
content = [{media}{{"type": "text", "text": "{question}"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
output = model.generate(**inputs, max_new_tokens=20)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""

_ADAPTER = """\
from peft import PeftModel
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{base}", trust_remote_code=True)
model = PeftModel.from_pretrained(model, "{repo}")
tokenizer = AutoTokenizer.from_pretrained("{base}", trust_remote_code=True)
output = model.generate(**tokenizer("Hello!", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(output[0]))
"""

_OUR_ADAPTER = """\
from rwkv7_world.adapters import load_adapter
from transformers import {auto_class}, AutoTokenizer

model = load_adapter({auto_class}.from_pretrained("{base}"), "{repo}")
tokenizer = AutoTokenizer.from_pretrained("{base}")
output = model.generate(**tokenizer("Hello!", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(output[0]))
"""

_STATE = """\
from huggingface_hub import hf_hub_download
from rwkv7_world.state import {function}
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{base}")
state = {function}({file}, model)
tokenizer = AutoTokenizer.from_pretrained("{base}")
output = model.generate(**tokenizer("Hello!", return_tensors="pt"), cache=state, max_new_tokens=20)
print(tokenizer.decode(output[0]))
"""


def write_snippets(contents: Contents, repo: str, base: str | None, local: bool = False) -> dict[str, str]:
    """The lines for the card, by what they need.

    Args:
        contents: What is published.
        repo: The name on the Hub, or a folder here.
        base: The base model of an adapter or a state.
        local: Whether `repo` is a folder here.
    """
    if contents.kind is Kind.ADAPTER:
        auto_class = "AutoModelForImageTextToText" if is_composite_adapter(contents) else "AutoModelForCausalLM"
        plain, ours = (text.format(repo=repo, base=base, auto_class=auto_class) for text in (_ADAPTER, _OUR_ADAPTER))
        return {f"With `pip install {_LIBRARIES} peft`, by plain PEFT:": plain, _WITH_PACKAGE: ours}
    if contents.kind is Kind.STATE:
        name = contents.weights[0].name
        file = f'"{repo}/{name}"' if local else f'hf_hub_download("{repo}", "{name}")'
        function = "load_trained_state" if is_trained_state(contents.weights[0]) else "load_state"
        return {_WITH_PACKAGE: _STATE.format(base=base, function=function, file=file, auto_class=_auto_class(base))}
    return {_WITH_OWN_CODE: _TEXT.format(repo=repo) if contents.kind is Kind.TEXT else _world_snippet(contents, repo)}


def is_composite_adapter(contents: Contents) -> bool:
    """Whether an adapter is for a model with vision or audio encoders, whose text model is called `language_model`."""
    parts = ".language_model.", "_tower.", "_projector.", "_projectors."
    return any(part in name for file in contents.weights for name in tensor_names(file) for part in parts)


def _world_snippet(contents: Contents, repo: str) -> str:
    if contents.config.get("vision_config"):
        return _WORLD.format(repo=repo, media='{"type": "image", "path": "photo.png"}, ', question="What is this?")
    if contents.config.get("audio_config"):
        return _WORLD.format(repo=repo, media='{"type": "audio", "path": "clip.wav"}, ', question="What is said?")
    return _WORLD.format(repo=repo, media="", question="Hello!")


def run_snippets(contents: Contents, base: str | None) -> None:
    """Runs the lines of the card on the folder as it is here.

    Raises:
        ValueError: If they fail or do not end; the message has the last line of what went wrong.
    """
    variables = {"PYTHONPATH": os.pathsep.join(_library_folders())}
    if contents.kind in (Kind.TEXT, Kind.WORLD):
        variables["HF_HUB_OFFLINE"] = "1"  # all is here; without a network the Hub's client would wait for one
    for needs, script in write_snippets(contents, str(contents.folder.resolve()), base, local=True).items():
        _run(script if needs == _WITH_PACKAGE else HIDE_PACKAGE + script, contents.folder, variables)


def _run(script: str, folder: Path, variables: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        _write_samples(Path(place))
        try:
            process = subprocess.run(
                [sys.executable, "-c", script],
                cwd=place,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env=os.environ | variables,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"{folder}: the card's example did not end in {TIME_LIMIT} s") from error
    if process.returncode != 0:
        lines = [line for line in process.stderr.splitlines() if line.strip()] or ["no message"]
        raise ValueError(f"{folder}: cannot be loaded and run: {lines[-1].strip()}")


def _library_folders() -> list[str]:
    """Where libraries are found here, but for transformers' folders of models' code, of which it adds its own."""
    return [folder for folder in sys.path if folder and not Path(folder, TRANSFORMERS_DYNAMIC_MODULE_NAME).is_dir()]


def _auto_class(base: str) -> str:
    config, _ = PreTrainedConfig.get_config_dict(base)
    return "AutoModelForImageTextToText" if config.get("model_type") == "rwkv_world" else "AutoModelForCausalLM"


def _write_samples(folder: Path) -> None:
    """The files that the lines name: a red picture and a second of silence."""
    Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "red").save(folder / "photo.png")
    soundfile.write(folder / "clip.wav", np.zeros(CLIP_SECONDS * CLIP_RATE, dtype=np.float32), CLIP_RATE)

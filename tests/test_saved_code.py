# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Saved folders load by Auto classes where this package is not installed, and go on working from there."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.dynamic_module_utils import get_imports

from helpers.adapters import logits_of, randomize_adapter
from helpers.clean_environment import STRANGERS_LIBRARIES, make_clean_environment, run_python
from helpers.composites import random_image, tiny_composite, tiny_processor, tiny_tokenizer
from helpers.text_models import random_ids, tiny_config, tiny_model
from rwkv7_world import (
    RWKV7ForCausalLM,
    RWKV7ForSequenceClassification,
    RWKVQuantizationConfig,
    RWKVWorldForConditionalGeneration,
    RWKVWorldProcessor,
    VisionTowerConfig,
    VisionTowersConfig,
    VisionTowersImageProcessorPil,
)
from rwkv7_world.adapters import StateTuningConfig
from rwkv7_world.configuration.source_code import CODE_FOLDER, ENTRY_MODULE, REQUIRED_LIBRARIES, flat_modules


TINY_WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
CHECKPOINT, SAMPLES = TINY_WORLD / "checkpoint", TINY_WORLD / "samples"
PACKAGE = TINY_WORLD.parents[1]
TOKEN_PACKER = {"vision_projector_type": "token_packer", "vision_projector_scale_factor": 2}
TOKEN_PACKER |= {"cross_attention_vision_layers": [1], "cross_attention_text_layers": [0]}
PICTURE_PROMPT = "what is this? <|image_pad|>"
IDS = random_ids(2, 7)
TOLERANCE = {"atol": 1e-5, "rtol": 0}  # there is no ninja elsewhere, so other kernels

ASK = """
def ask(model, processor, samples, sample):
    medium = "image" if "image" in sample else "audio"
    content = [{"type": medium, "path": f"{samples}/{sample[medium]}"}, {"type": "text", "text": sample["question"]}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
                                           tokenize=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=20)
    return processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
"""

# Answers to a question about a picture, and to the question alone, and the transcripts of clips; and what
# `transformers serve` looks models up by
PIPELINES = """
def run_pipelines(folder, sample, clips):
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES as names
    question = {"type": "text", "text": sample["question"]}
    picture = {"type": "image", "path": str(work / sample["image"])}
    options = {"max_new_tokens": 10, "return_full_text": False}
    see = transformers.pipeline("image-text-to-text", model=folder, trust_remote_code=True)
    seen = see(text=[{"role": "user", "content": [picture, question]}], **options)
    read = transformers.pipeline("text-generation", model=folder, trust_remote_code=True)
    guessed = read([{"role": "user", "content": sample["question"]}], **options)
    assert names["rwkv_world"] == type(see.model).__name__ and names["rwkv7"] == "RWKV7ForCausalLM"
    hear = transformers.pipeline("automatic-speech-recognition", model=folder, trust_remote_code=True)
    heard = hear([str(work / clip["audio"]) for clip in clips], prompt=clips[0]["question"], batch_size=2)
    return [seen[0]["generated_text"], guessed[0]["generated_text"], [clip["text"] for clip in heard]]
"""

# Loads every folder, saves it into another, and gives logits and answers
STRANGER = f"""
import importlib.util, json, pathlib, sys
import torch, transformers
from PIL import Image
{ASK}
{PIPELINES}
folders, again, work = (pathlib.Path(argument) for argument in sys.argv[1:])
assert all(importlib.util.find_spec(name) is None for name in ("rwkv7_world", "peft", "triton", "av"))
cases = json.loads((work / "cases.json").read_text())
results = {{"answers": [], "backends": []}}
for name, auto_class in cases.items():
    model = getattr(transformers, auto_class).from_pretrained(folders / name, trust_remote_code=True).eval()
    inputs = {{"input_ids": torch.tensor(json.loads((work / "ids.json").read_text()))}}
    if (folders / name / "processor_config.json").is_file():
        processor = transformers.AutoProcessor.from_pretrained(folders / name, trust_remote_code=True)
        processor.save_pretrained(again / name)
        inputs = processor(text={PICTURE_PROMPT!r}, images=Image.open(work / "picture.png"), return_tensors="pt")
    if name == "tiny_world":
        samples = json.loads((work / "samples.json").read_text())
        results["answers"] = [ask(model, processor, sys.argv[3], sample) for sample in samples]
        clips = [sample for sample in samples if "audio" in sample]
        results["pipelines"] = run_pipelines(str(folders / name), samples[0], clips)
    with torch.no_grad():
        results[name] = model(**inputs).logits
    kernels = sys.modules[type(model).__module__.rpartition(".")[0] + ".kernels_wkv7"]
    results["backends"].append(kernels.explain_backends()["cpu"])
    model.save_pretrained(again / name)
torch.save(results, again / "results.pt")
"""


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory):
    return make_clean_environment(tmp_path_factory.mktemp("stranger") / "environment")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of models, one of every kind, saved; beside them what they are asked."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(SAMPLES, work, dirs_exist_ok=True)
    random_image().save(work / "picture.png")
    (work / "ids.json").write_text(json.dumps(IDS.tolist()))
    folders = work / "folders"
    tiny_model(hidden_size=96).save_pretrained(folders / "text")
    quantized = {"quantization_config": RWKVQuantizationConfig(bits=8)}
    RWKV7ForCausalLM.from_pretrained(folders / "text", **quantized).save_pretrained(folders / "quantized")
    classifier = RWKV7ForSequenceClassification(tiny_config(pad_token_id=0, num_labels=3)).eval()
    classifier.save_pretrained(folders / "classifier")
    save_towers(folders / "towers")
    projector = {"vision_projector_type": "gelu_mlp", "vision_projector_kernel_size": 5}
    tiny_composite("siglip", **projector).save_pretrained(folders / "tiles")
    tiny_processor("siglip", sees="tiles", **projector).save_pretrained(folders / "tiles")
    for name, options in (("deepstack", {"num_deepstack_projectors": 2}), ("token_packer", TOKEN_PACKER)):
        tiny_composite("qwen3_vl", **options).save_pretrained(folders / name)
        tiny_processor("qwen3_vl", **options).save_pretrained(folders / name)
    RWKVWorldForConditionalGeneration.from_pretrained(CHECKPOINT).save_pretrained(folders / "tiny_world")
    AutoProcessor.from_pretrained(CHECKPOINT).save_pretrained(folders / "tiny_world")
    (work / "cases.json").write_text(json.dumps(CASES))
    return work


CASES = {
    "text": "AutoModelForCausalLM",
    "quantized": "AutoModelForCausalLM",
    "classifier": "AutoModelForSequenceClassification",
    "towers": "AutoModelForMultimodalLM",
    "tiles": "AutoModelForMultimodalLM",
    "deepstack": "AutoModelForMultimodalLM",
    "token_packer": "AutoModelForMultimodalLM",
    "tiny_world": "AutoModelForImageTextToText",
}


def save_towers(folder: Path) -> None:
    """A composite whose vision encoder, configuration and image processor are of this package too."""
    encoder = {"model_type": "siglip_vision_model", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder |= {"intermediate_size": 12, "image_size": 24, "patch_size": 8, "vision_use_head": False}
    config = VisionTowersConfig(towers=[VisionTowerConfig(encoder_config=encoder)] * 2)
    half = [0.5, 0.5, 0.5]
    images = VisionTowersImageProcessorPil(towers=[{"size": 24, "image_mean": half, "image_std": half}] * 2)
    model = tiny_composite(None, None, vision_config=config)
    model.save_pretrained(folder)
    RWKVWorldProcessor.from_model_config(model.config, tiny_tokenizer(), images).save_pretrained(folder)


def expected_logits(folder: Path, auto_class: str) -> torch.Tensor:
    """By this package."""
    import transformers

    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    assert type(model).__module__.startswith("rwkv7_world.")
    inputs = {"input_ids": IDS}
    if (folder / "processor_config.json").is_file():
        processor = AutoProcessor.from_pretrained(folder)
        inputs = processor(text=PICTURE_PROMPT, images=random_image(), return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits


def test_strangers_load_every_kind_of_folder_and_those_that_they_saved(work, clean_python, tmp_path):
    """Loaded, saved and loaded again where there is only torch, transformers and what reads media."""
    places = [work / "folders", tmp_path / "once", tmp_path / "twice"]
    scope = {}
    exec(ASK, scope)
    model, processor = (kind.from_pretrained(CHECKPOINT) for kind in (AutoModelForImageTextToText, AutoProcessor))
    samples = json.loads((SAMPLES / "samples.json").read_text())
    answers = [scope["ask"](model, processor, SAMPLES, sample) for sample in samples]
    for folders, again in zip(places, places[1:], strict=False):
        again.mkdir()
        run_python(clean_python, STRANGER, folders, again, work, cache=tmp_path)
        results = torch.load(again / "results.pt")
        assert results["answers"] == answers
        seen, guessed, heard = results["pipelines"]
        assert seen == answers[0] and guessed
        assert heard == [answer for sample, answer in zip(samples, answers, strict=True) if "audio" in sample]
        assert set(results["backends"]) <= {wkv7_backend_here()}
        for name, auto_class in CASES.items():
            torch.testing.assert_close(results[name], expected_logits(folders / name, auto_class), **TOLERANCE)
            assert same_code(folders / name, again / name)


def wkv7_backend_here() -> str:
    """What this package says of the C++ backend, which the folders' own code must build or find like it."""
    from rwkv7_world.kernels.wkv7 import explain_backends

    return explain_backends()["cpu"]


def same_code(first: Path, second: Path) -> bool:
    texts = [{file.name: file.read_text() for file in (f / CODE_FOLDER).glob("*.py")} for f in (first, second)]
    return texts[0] == texts[1] and len(texts[0]) > 1


TWO_VERSIONS = """
import sys
import torch
from transformers import AutoModelForCausalLM
from peft import PeftModel
first, second, adapter, ids, output = sys.argv[1:]
models = [AutoModelForCausalLM.from_pretrained(f, trust_remote_code=True).eval() for f in (first, second)]
assert type(models[0]) is not type(models[1])
packages = [type(model).__module__.rpartition(".")[0] for model in models]
namespaces = [sys.modules[f"{package}.kernels_operator_namespace"].NAMESPACE for package in packages]
assert namespaces[0] != namespaces[1]
ids = torch.tensor(eval(ids))
for model in models:
    model(ids, labels=ids).loss.backward()
results = [model(ids).logits.detach() for model in models]
for model in models:
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    results += [tuned(ids).logits.detach(), tuned.merge_and_unload()(ids).logits.detach()]
torch.save(results, output)
"""


def test_two_versions_run_side_by_side_with_adapters(work, tmp_path):
    """One folder's code is of another version, in which logits are halved."""
    text, other = work / "folders" / "text", tmp_path / "other" / "text"
    shutil.copytree(text, other)
    modeling = other / CODE_FOLDER / "modeling_rwkv7.py"
    source, logits = modeling.read_text(), "linear(self.lm_head, slice_logits_to_keep("
    assert source.count(logits) == 1
    modeling.write_text(source.replace(logits, f"0.5 * {logits}"))
    tuned = get_peft_model(RWKV7ForCausalLM.from_pretrained(text), StateTuningConfig(target_modules=["key"]))
    randomize_adapter(tuned).save_pretrained(tmp_path / "adapter")
    python = make_clean_environment(tmp_path / "environment", (*STRANGERS_LIBRARIES, "peft"))
    ids = json.dumps(IDS.tolist())
    run_python(python, TWO_VERSIONS, text, other, tmp_path / "adapter", ids, tmp_path / "out.pt", cache=tmp_path)
    plain, halved, *adapted = torch.load(tmp_path / "out.pt")
    torch.testing.assert_close(halved, plain / 2, **TOLERANCE)
    expected = logits_of(tuned, IDS)
    for result, factor in zip(adapted, (1, 1, 0.5, 0.5), strict=True):
        torch.testing.assert_close(result, factor * expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trust", [True, False, None])
def test_where_the_package_is_imported_its_classes_load(work, trust):
    text, tiny_world = work / "folders" / "text", work / "folders" / "tiny_world"
    assert type(AutoModelForCausalLM.from_pretrained(text, trust_remote_code=trust)) is RWKV7ForCausalLM
    assert type(AutoProcessor.from_pretrained(tiny_world, trust_remote_code=trust)) is RWKVWorldProcessor


def test_flat_code_comes_out_as_it_is(work):
    code = work / "folders" / "text" / CODE_FOLDER
    again = flat_modules(code / f"{ENTRY_MODULE}.py")
    assert again == flat_modules(PACKAGE / f"{ENTRY_MODULE}.py")
    assert again == {file.name: file.read_text() for file in code.iterdir()}


def test_no_module_asks_for_a_library_that_loading_does_not_need(work):
    """The loader takes every import outside `try` for a requirement, even one inside a function."""
    import sys

    imports = {name for file in (work / "folders" / "text" / CODE_FOLDER).iterdir() for name in get_imports(file)}
    assert imports <= REQUIRED_LIBRARIES | sys.stdlib_module_names


def test_imports_that_no_saved_folder_can_carry_are_refused(tmp_path):
    entry = tmp_path / "entry.py"
    entry.write_text("from .missing import name\n")
    with pytest.raises(ValueError, match="entry.py:1: .*missing.py is no module"):
        flat_modules(entry)


def test_modules_of_one_name_are_refused(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").touch()
    (tmp_path / "entry.py").write_text("from .first import same\nfrom .second.same import name\n")
    with pytest.raises(ValueError, match="would both be same.py"):
        flat_modules(tmp_path / "entry.py")


def test_stop_strings_without_a_tokenizer_ask_and_fetch_nothing(tmp_path):
    tokenizer = tiny_tokenizer()
    model = RWKV7ForCausalLM(tiny_config(vocab_size=len(tokenizer))).eval()
    model.generation_config.eos_token_id = None
    prompt = tokenizer("what", return_tensors="pt")["input_ids"]
    text = tokenizer.decode(model.generate(prompt, max_new_tokens=8)[0, prompt.shape[1] :])
    model.generation_config.stop_strings = [text[2:4]]
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    expected = model.generate(prompt, max_new_tokens=8, tokenizer=tokenizer).tolist()
    script = """
import builtins, json, sys, torch, transformers
builtins.input = lambda *_: sys.exit("it asked")
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
model.generation_config.eos_token_id = None
print(json.dumps(model.generate(torch.tensor(json.loads(sys.argv[2])), max_new_tokens=8).tolist()))
"""
    interpreter = make_clean_environment(tmp_path / "environment")
    (tmp_path / "cache").mkdir()
    arguments = tmp_path / "model", json.dumps(prompt.tolist())
    printed = run_python(interpreter, script, *arguments, cache=tmp_path / "cache", HF_HUB_OFFLINE="0")
    assert json.loads(printed.splitlines()[-1]) == expected


# Six processes that have imported transformers begin at one moment
TOGETHER = """
import os, sys, time, torch
from transformers import AutoModelForCausalLM
begin = time.time() + 0.5
children = []
for number in range(6):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, begin - time.time()))
        try:
            model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
            torch.save(model(torch.tensor([[1, 2, 3]])).logits.detach(), f"{sys.argv[2]}/{number}.pt")
        finally:
            os._exit(0)  # the files say who arrived
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
@pytest.mark.parametrize("attempt", range(2))
def test_many_processes_fill_one_empty_cache_at_once(clean_python, tmp_path, attempt):
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "logits").mkdir()
    variables = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    run_python(clean_python, TOGETHER, tmp_path / "model", tmp_path / "logits", cache=tmp_path, **variables)
    expected = logits_of(model, torch.tensor([[1, 2, 3]]))
    arrived = sorted((tmp_path / "logits").iterdir())
    assert len(arrived) == 6
    for file in arrived:
        torch.testing.assert_close(torch.load(file), expected, atol=1e-5, rtol=0)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Tools that know nothing of this package work with a saved folder, where this package is not installed."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
import torch

from helpers.clean_environment import (
    STRANGERS_LIBRARIES,
    find_library,
    make_clean_environment,
    run_python,
    strangers_variables,
)
from helpers.composites import tiny_tokenizer
from helpers.serving import TRANSFORMERS_COMMAND, serving
from helpers.text_models import tiny_model
from rwkv7_world import RWKVWorldForConditionalGeneration, RWKVWorldProcessor


TINY_WORLD = Path(__file__).resolve().parents[1] / "examples" / "tiny_world"
CHECKPOINT, SAMPLES = TINY_WORLD / "checkpoint", TINY_WORLD / "samples"
SERVING_LIBRARIES = ("transformers[serving]",)
NUM_ASKED = {"image": 3, "audio": 2}
TEXT_QUESTION = "is there a ring?"
SECONDS = 120

# What a stranger does with a model, however it was loaded
ASK = """
import importlib.util, json, pathlib, sys
import accelerate, torch, transformers
from transformers import AutoModelForImageTextToText, AutoProcessor
assert importlib.util.find_spec("rwkv7_world") is None
folder, samples, work = sys.argv[1:4]
asked = json.loads(sys.argv[4])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

def answers(model):
    found = []
    for sample in asked:
        medium = "image" if "image" in sample else "audio"
        content = [{"type": medium, "path": f"{samples}/{sample[medium]}"}]
        content += [{"type": "text", "text": sample["question"]}]
        inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
                                               tokenize=True, return_dict=True, return_tensors="pt")
        output = model.eval().generate(**inputs, max_new_tokens=10)
        found.append(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
    return found
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny World, saved with its code."""
    folder = tmp_path_factory.mktemp("saved") / "tiny_world"
    RWKVWorldForConditionalGeneration.from_pretrained(CHECKPOINT).save_pretrained(folder)
    RWKVWorldProcessor.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Where only what README asks for and what serves is installed."""
    libraries = (*STRANGERS_LIBRARIES, *SERVING_LIBRARIES)
    return make_clean_environment(tmp_path_factory.mktemp("tools") / "environment", libraries)


@pytest.fixture(scope="class")
def address(python, folder, tmp_path_factory):
    with serving(python, folder, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def samples():
    """Some pictures and clips with a question and the right answer, which is what Tiny World says."""
    listed = json.loads((SAMPLES / "samples.json").read_text())
    return [
        sample
        for medium, count in NUM_ASKED.items()
        for sample in [sample for sample in listed if medium in sample][:count]
    ]


def by_stranger(python: Path, script: str, folder: Path, samples: list[dict], work: Path):
    """What a script prints last, as JSON."""
    output = run_python(python, ASK + script, folder, SAMPLES, work, json.dumps(samples), cache=work)
    return json.loads(output.splitlines()[-1])


@pytest.mark.skipif(
    None in map(find_library, ("openai", "fastapi", "uvicorn")), reason="transformers[serving] is not installed"
)
class TestServer:
    @pytest.fixture
    def ask(self, address, folder):
        from openai import OpenAI

        client = OpenAI(base_url=address, api_key="none", timeout=SECONDS)

        def ask(content: str | list[dict], **options):
            messages = [{"role": "user", "content": content}]
            return client.chat.completions.create(model=str(folder), messages=messages, max_tokens=10, **options)

        return ask

    def test_an_openai_client_sends_text_pictures_and_sound(self, ask, samples):
        assert ask(TEXT_QUESTION).choices[0].message.content in ("yes", "no")
        for sample in samples:
            content = [encoded(sample), {"type": "text", "text": sample["question"]}]
            assert ask(content).choices[0].message.content == sample["answer"]

    def test_answers_are_streamed(self, ask, samples):
        content = [encoded(samples[0]), {"type": "text", "text": samples[0]["question"]}]
        pieces = [chunk.choices[0].delta.content or "" for chunk in ask(content, stream=True) if chunk.choices]
        assert "".join(pieces) == samples[0]["answer"]

    def test_transformers_chat_talks_to_it(self, address, ask, python, folder, tmp_path):
        options = ["chat", str(folder), address, "max_new_tokens=10", "do_sample=False"]
        process = subprocess.run(
            [python, "-I", "-c", TRANSFORMERS_COMMAND, *options],
            input=f"{TEXT_QUESTION}\n!exit\n",
            capture_output=True,
            text=True,
            env=strangers_variables(tmp_path) | {"HF_HUB_OFFLINE": "0"},  # it talks by the Hub's client
            cwd=tmp_path,
            timeout=SECONDS,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        lines = [line.strip() for line in process.stdout.splitlines()]
        assert ask(TEXT_QUESTION).choices[0].message.content in lines


def encoded(sample: dict) -> dict:
    """The picture or clip of a sample as OpenAI's clients send it."""
    if "image" in sample:
        data = base64.b64encode((SAMPLES / sample["image"]).read_bytes()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    data = base64.b64encode((SAMPLES / sample["audio"]).read_bytes()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


OFFLOADED = """
from accelerate import cpu_offload, disk_offload, init_empty_weights, load_checkpoint_and_dispatch

def load(**options):
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, **options)

plain = load()
language_model = "model.language_model"
places = {f"model.{name}": "cpu" for name, _ in plain.model.named_children() if name != "language_model"}
places |= {f"{language_model}.{name}": "cpu" for name, _ in plain.model.language_model.named_children()}
del places[f"{language_model}.layers"]
for index in range(len(plain.model.language_model.layers)):
    places[f"{language_model}.layers.{index}"] = "disk" if index % 2 else "cpu"
places |= {"lm_head": "disk", "model.vision_tower": "disk"}

with init_empty_weights():
    empty = type(plain)(plain.config)
few = {"max_memory": {"cpu": "3MB"}, "no_split_module_classes": plain._no_split_modules}
models = {
    "device map": load(device_map=places, offload_folder=f"{work}/map"),
    "automatic": load(device_map="auto"),
    "dispatched": load_checkpoint_and_dispatch(empty, folder, "auto", offload_folder=f"{work}/dispatch", **few),
    "memory": cpu_offload(load(), execution_device="cpu"),
    "disk": disk_offload(load(), f"{work}/disk", execution_device="cpu"),
}
elsewhere = {name: sum(p.is_meta for p in model.parameters()) for name, model in models.items()}
print(json.dumps([elsewhere, {name: answers(model) for name, model in models.items()}]))
"""


def test_accelerate_keeps_parts_in_memory_and_on_disk(python, folder, samples, tmp_path):
    elsewhere, answers = by_stranger(python, OFFLOADED, folder, samples, tmp_path)
    assert all((elsewhere[name] > 0) == (name != "automatic") for name in elsewhere)
    assert answers == {name: [sample["answer"] for sample in samples] for name in elsewhere}


QUANTISED = """
from torchao.quantization import Int8WeightOnlyConfig
model = AutoModelForImageTextToText.from_pretrained(
    folder, trust_remote_code=True, quantization_config=transformers.TorchAoConfig(Int8WeightOnlyConfig())
)
print(json.dumps([type(model.model.language_model.layers[0].ffn.key.weight).__name__, answers(model)]))
"""


@pytest.mark.skipif(find_library("torchao") is None, reason="torchao is not installed")
def test_torchao_keeps_weights_in_8_bits(folder, samples, tmp_path):
    python = make_clean_environment(tmp_path / "environment", (*STRANGERS_LIBRARIES, "accelerate", "torchao"))
    kind, answers = by_stranger(python, QUANTISED, folder, samples, tmp_path)
    assert kind != "Parameter"
    assert answers == [sample["answer"] for sample in samples]


FINE_TUNED = """
import importlib.util, json, sys
assert importlib.util.find_spec("rwkv7_world") is None
import datasets, torch, trl
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, output, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
trust = {"trust_remote_code": True}
messages = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "the red circle"}]
trainer = trl.SFTTrainer(
    AutoModelForCausalLM.from_pretrained(folder, **trust),
    trl.SFTConfig(output, max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
                  save_steps=steps, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True),
    train_dataset=datasets.Dataset.from_list([{"messages": messages}] * 16),
    processing_class=AutoTokenizer.from_pretrained(folder, **trust),
)
trainer.train()
saved = AutoModelForCausalLM.from_pretrained(f"{output}/checkpoint-{steps}", **trust).state_dict()
same = all(torch.equal(tensor, saved[name]) for name, tensor in trainer.model.state_dict().items())
print(json.dumps([[entry["loss"] for entry in trainer.state.log_history if "loss" in entry], same]))
"""


def test_trl_fine_tunes_it_and_its_checkpoint_loads(tmp_path):
    python = make_clean_environment(tmp_path / "environment", (*STRANGERS_LIBRARIES, "trl"))
    tokenizer = tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    output = run_python(python, FINE_TUNED, tmp_path / "model", tmp_path / "run", "4", cache=tmp_path)
    losses, same = json.loads(output.splitlines()[-1])
    assert losses[-1] < losses[0] - 0.5
    assert same


LM_EVAL = """
import importlib.util, runpy
assert importlib.util.find_spec("rwkv7_world") is None
runpy.run_module("lm_eval", run_name="__main__")
"""
QUESTIONS = [
    {"question": f"what color is the {shape}?", "choices": ["red", "blue", "green"], "label": label}
    for label, shape in enumerate(("circle", "square", "star"))
]


@pytest.mark.skipif(find_library("lm_eval") is None, reason="lm_eval is not installed")
def test_lm_eval_scores_likelihoods(folder, tmp_path):
    python = make_clean_environment(tmp_path / "environment", (*STRANGERS_LIBRARIES, "lm_eval[hf]"))
    (tmp_path / "colors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    task = {
        "task": "colors",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(tmp_path / "colors.jsonl")}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "colors.yaml").write_text(json.dumps(task))  # JSON is YAML
    options = f"--model hf --model_args pretrained={folder},trust_remote_code=True --device cpu --tasks colors"
    options += f" --include_path {tmp_path} --output_path {tmp_path}/scores --log_samples"
    run_python(python, LM_EVAL, *options.split(), cache=tmp_path, HF_DATASETS_OFFLINE="1")
    (results,), (samples,) = ((tmp_path / "scores").rglob(f"{name}_*") for name in ("results", "samples"))
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    expected = expected_likelihoods()
    for sample in found:
        likelihoods = torch.tensor([float(response[0]) for response in sample["filtered_resps"]])
        torch.testing.assert_close(likelihoods, expected[sample["doc_id"]], atol=1e-3, rtol=1e-4)
    right = expected.argmax(-1) == torch.tensor([row["label"] for row in QUESTIONS])
    accuracy = json.loads(results.read_text())["results"]["colors"]["acc,none"]
    assert accuracy == pytest.approx(right.float().mean().item())


@torch.no_grad()
def expected_likelihoods() -> torch.Tensor:
    """(questions, choices): of every answer after its question and a space, in nats, by this package."""
    model = RWKVWorldForConditionalGeneration.from_pretrained(CHECKPOINT).eval()
    tokenizer = RWKVWorldProcessor.from_pretrained(CHECKPOINT).tokenizer

    def likelihood(question: str, choice: str) -> float:
        start = len(tokenizer(question)["input_ids"])
        ids = torch.tensor([tokenizer(f"{question} {choice}")["input_ids"]])
        logits = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
        return logits.gather(-1, ids[0, start:, None]).sum().item()

    return torch.tensor([[likelihood(row["question"], choice) for choice in row["choices"]] for row in QUESTIONS])

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Shipped recipes at toy size: the loss falls, what is frozen stays, resuming and loading give the same."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import soundfile
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers import composites
from helpers.text_models import tiny_model
from helpers.training import PACKAGE_PARENT, QUIET_TRAINER, differing, weights, write_llava
from helpers.visualrwkv import save_towers
from rwkv7_world import RWKVWorldTokenizer
from rwkv7_world.training.recipe.recipe import find_recipe
from rwkv7_world.training.run import run_recipe
from rwkv7_world.training.trainer.trainer import RWKVTrainer


STEPS, RESUMED_AT, NEW_TOKENS = 12, 7, 6
TOY = {**QUIET_TRAINER, "bf16": False, "dataloader_num_workers": 0, "max_steps": STEPS, "save_steps": RESUMED_AT}
TOY |= {"save_total_limit": None, "warmup_steps": 1, "per_device_train_batch_size": 4, "logging_steps": 1}
TOY |= {"gradient_accumulation_steps": 2, "eval_strategy": "no", "save_strategy": "steps"}
WORDS = ("red", "the red", "circle", "the red circle")


@dataclass
class Shop:
    """Where the models and data of the toy runs are made."""

    folder: Path

    def text(self) -> str:
        """A text model with random numbers everywhere."""
        tokenizer = composites.tiny_tokenizer()
        return self._save("text", tiny_model(vocab_size=len(tokenizer)), tokenizer)

    def world_text(self) -> str:
        """One with the World vocabulary."""
        tokenizer = RWKVWorldTokenizer()
        return self._save("world", tiny_model(vocab_size=len(tokenizer)), tokenizer)

    def _save(self, name: str, *parts) -> str:
        for part in parts:
            part.save_pretrained(self.folder / name)
        return str(self.folder / name)

    def wavlm(self) -> str:
        return self._save("wavlm", composites.tiny_composite(None, "wavlm").model.audio_tower)

    def towers(self) -> list[str]:
        folders, _ = save_towers(self.folder / "towers", side=4)
        return [str(path) for path in folders]

    def lines(self, name: str, rows: list[dict]) -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def chat(self) -> str:
        turns = [("what the red", word) for word in WORDS]
        roles = ("user", "assistant")
        rows = [[{"role": r, "content": c} for r, c in zip(roles, turn, strict=True)] for turn in turns]
        return self.lines("chat.jsonl", [{"messages": row} for row in rows] * 4)

    def books(self) -> str:
        return self.lines("books.jsonl", [{"text": " ".join(WORDS * 3)}] * 16)

    def clips(self) -> str:
        rows = []
        for index, word in enumerate(WORDS):
            path = self.folder / f"{index}.wav"
            soundfile.write(path, composites.random_clip(index, 8000), composites.SAMPLING_RATE)
            rows.append({"audio_filepath": str(path), "text": word.upper()})
        return self.lines("clips.jsonl", rows * 4)

    def pictures(self) -> str:
        return str(write_llava(self.folder / "pictures"))


def text_settings(shop: Shop, data: str) -> dict:
    return {"model": shop.text(), "data.0.path": data, "samples.max_length": 64}


def sft_settings(shop: Shop) -> dict:
    return {**text_settings(shop, shop.chat()), "eval_share": 0.1, "trainer.learning_rate": 1e-2, "adapter.r": 8}


def state_settings(shop: Shop) -> dict:
    return {**text_settings(shop, shop.chat()), "data.0.split": "[:1]", "trainer.learning_rate": 1.0}


def infctx_settings(shop: Shop) -> dict:
    # The chunks are shorter than the samples
    return {**text_settings(shop, shop.books()), "trainer.learning_rate": 1e-2, "trainer.chunk_length": 16}


def asr_settings(shop: Shop) -> dict:
    model = {"model.text": shop.text(), "model.audio": shop.wavlm(), "trainer.learning_rate": 0.1}
    return {**model, "data.0.path": shop.clips(), "data.0.split": "[:1]", "eval_share": None, "generation": None}


def visual_settings(shop: Shop) -> dict:
    model = {"model.text": shop.world_text(), "model.vision": shop.towers(), "model.config.num_token_per_image": 4}
    return {**model, "data.0.path": shop.pictures(), "data.0.split": "[:1]", "trainer.learning_rate": 0.1}


# By recipe: its settings, and below what share of the first loss the last has to be
RECIPES: dict[str, tuple[Callable[[Shop], dict], float]] = {
    "lora_sft": (sft_settings, 0.8),
    "bone_sft": (sft_settings, 0.8),
    "state_tuning": (state_settings, 0.95),
    "infctx": (infctx_settings, 0.8),
    "rwkv_asr": (asr_settings, 0.95),
    "visualrwkv_pretrain": (visual_settings, 0.998),
}
# Those that see one sample all the time, so that every step has to be better than the one before
ONE_SAMPLE = ("state_tuning", "rwkv_asr", "visualrwkv_pretrain")
ADAPTERS = ("lora_sft", "bone_sft", "state_tuning", "rwkv_asr")


@dataclass
class Run:
    """A run of a recipe, and how it can be run again."""

    trainer: RWKVTrainer
    settings: tuple[str, ...]
    out: Path

    def losses(self) -> list[float]:
        return [entry["loss"] for entry in self.trainer.state.log_history if "loss" in entry]


def run(name: str, settings: dict, out: Path) -> Run:
    settings = {**{f"trainer.{key}": value for key, value in TOY.items()}, **settings}
    assignments = tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())
    return Run(run_recipe(find_recipe(name), (*assignments, f"output_dir={out}")), assignments, out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("recipes")
    cache, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
    done = {name: run(name, make(Shop(folder)), folder / name) for name, (make, _) in RECIPES.items()}
    model = {"model": str(folder / "visualrwkv_pretrain"), "data.0.path": Shop(folder).pictures()}
    more = {"data.0.split": "[0:]", "eval_share": None, "generation": None, "trainer.learning_rate": 1e-2}
    done["visualrwkv_finetune"] = run("visualrwkv_finetune", {**model, **more}, folder / "visualrwkv_finetune")
    yield done
    datasets.config.HF_DATASETS_CACHE = cache


ALL = (*RECIPES, "visualrwkv_finetune")


@pytest.mark.parametrize("name", ALL)
def test_loss_falls(runs, name):
    values = runs[name].losses()
    assert len(values) == STEPS
    assert sum(values[-2:]) < RECIPES.get(name, (None, 0.9))[1] * sum(values[:2]), values
    if name in ONE_SAMPLE:
        assert all(later < earlier for earlier, later in zip(values[1:], values[2:], strict=False)), values


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_alone_is_trained_and_saved(runs, name):
    out = runs[name].out
    base = out / "base" if name == "rwkv_asr" else out.parent / "text"
    saved = load_file(out / "adapter_model.safetensors")
    parts = {"lora_sft": "lora_", "bone_sft": "miss_", "state_tuning": "learned"}
    expected = parts.get(name, "learned")
    assert all(expected in key or "audio_projector" in key for key in saved)
    assert any("audio_projector" in key for key in saved) == (name == "rwkv_asr")
    assert not (out / "model.safetensors").exists()
    assert (out / "tokenizer_config.json").is_file() and (out / "recipe.yaml").is_file()
    adapted = runs[name].trainer.model
    frozen = {key: value for key, value in adapted.named_parameters() if not value.requires_grad}
    originals = weights(base)
    names = {key.replace(".base_layer", "").replace(".original_module", ""): key for key in frozen}
    for key, tensor in originals.items():
        assert torch.equal(frozen[names[f"base_model.model.{key}"]], tensor), key


def test_visualrwkv_learns_the_parts_that_its_stages_name(runs):
    first, second = (weights(runs[name].out) for name in ("visualrwkv_pretrain", "visualrwkv_finetune"))
    text = weights(runs["visualrwkv_pretrain"].out.parent / "world")
    for name, tensor in text.items():
        ours = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        assert torch.equal(first[ours], tensor), name
    changed = differing(first, second)
    assert {name.split(".")[1] for name in changed} == {"vision_projector", "language_model", "weight"}
    assert "model.language_model.embeddings.weight" not in changed


def test_visualrwkv_learns_what_follows_the_opening_of_a_turn(runs):
    trainer = runs["visualrwkv_pretrain"].trainer
    labels = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    assert trainer.processor.tokenizer.decode(labels[labels >= 0]) == " red\n\n"


def weights_file(out: Path) -> str:
    return "adapter_model.safetensors" if (out / "adapter_config.json").is_file() else "model.safetensors"


@pytest.mark.parametrize("name", ALL)
def test_resumed_run_ends_with_the_same_weights_bit_for_bit(runs, name, tmp_path):
    done = runs[name]
    file = weights_file(done.out)
    expected = load_file(done.out / file)
    checkpoint = f"checkpoint-{RESUMED_AT}"
    (tmp_path / checkpoint).symlink_to(done.out / checkpoint)
    resumed = run_recipe(find_recipe(name), (*done.settings, f"output_dir={tmp_path}"), resume=True)
    assert resumed.state.global_step == STEPS
    assert not differing(expected, load_file(tmp_path / file))


_LOAD_AND_GENERATE = """
import json, sys, torch
import rwkv7_world, rwkv7_world.adapters
from pathlib import Path
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

for folder in map(Path, sys.argv[2:]):
    adapter = folder / "adapter_config.json"
    base = json.loads(adapter.read_text())["base_model_name_or_path"] if adapter.is_file() else folder
    config = AutoConfig.from_pretrained(base)
    auto = AutoModelForCausalLM if config.get_text_config() is config else AutoModelForMultimodalLM
    model = auto.from_pretrained(base)
    if adapter.is_file():
        model = PeftModel.from_pretrained(model, folder)
    inputs = torch.load(Path(sys.argv[1], folder.name + ".pt"))
    print(model.eval().generate(**inputs, max_new_tokens=6, do_sample=False, stop_strings=None).tolist())
"""


def test_results_generate_the_same_in_a_new_process(runs, tmp_path):
    expected = []
    for name in ALL:
        trainer = runs[name].trainer
        row = trainer.train_dataset[0]
        text = {"input_ids": torch.tensor([[1, 2, 3, 4]])}
        inputs = text if row.get("messages") is None else dict(trainer.data_collator.prompts([row]))
        torch.save(inputs, tmp_path / f"{name}.pt")
        model = trainer.model.eval()
        said = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, stop_strings=None)
        expected.append(said.tolist())
    command = [sys.executable, "-c", _LOAD_AND_GENERATE, str(tmp_path), *(str(runs[name].out) for name in ALL)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected


@pytest.mark.parametrize("bits", [8, 4])
def test_lora_learns_on_a_quantised_model(runs, bits, tmp_path):
    settings = dict(assignment.split("=", 1) for assignment in runs["lora_sft"].settings)
    settings = {key: json.loads(value) for key, value in settings.items()}
    model = settings.pop("model")
    done = run("lora_sft", settings | {"model": {"path": model, "bits": bits}}, tmp_path / "out")
    assert done.losses()[-1] < 0.8 * done.losses()[0]
    kinds = {type(module).__name__ for module in done.trainer.model.modules()}
    assert "QuantizedLinear" in kinds
    saved = load_file(done.out / "adapter_model.safetensors")
    assert all("lora_" in key for key in saved)


def test_quantised_matrices_are_not_trained_themselves(runs, tmp_path):
    path = str(runs["lora_sft"].out.parent / "text")
    settings = ("adapter=null", f"output_dir={tmp_path}", f"model={{path: {path}, bits: 8}}")
    with pytest.raises(ValueError, match=r"^model.bits: quantised matrices are not trained themselves"):
        run_recipe(find_recipe("lora_sft"), (*runs["lora_sft"].settings, *settings))


def test_checkpoint_of_another_adapter_is_told_in_one_line(runs):
    done = runs["lora_sft"]
    settings = (*done.settings, f"output_dir={done.out}", "adapter.r=4", f"trainer.max_steps={STEPS + 1}")
    with pytest.raises(ValueError, match="of another model or adapter, size mismatch") as error:
        run_recipe(find_recipe("lora_sft"), settings, resume=True)
    assert "\n" not in str(error.value)
    assert isinstance(done.trainer.model, PeftModel)

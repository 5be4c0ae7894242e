# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Shipped recipes as a new user tries them: 60 rows, no GPU, nothing set but the model and the data."""

import json
from pathlib import Path

import datasets
import pytest
import soundfile
import torch
import yaml

from helpers import composites
from helpers.file_modes import modes, umask
from helpers.text_models import tiny_model
from helpers.training import save_composite, save_text_model, write_llava, write_recipe, write_text
from helpers.visualrwkv import save_towers
from rwkv7_world import RWKVWorldTokenizer
from rwkv7_world.data.mixture import hold_out
from rwkv7_world.training.recipe.recipe import SHIPPED_RECIPES, find_recipe, load_recipe
from rwkv7_world.training.run import run_recipe


ROWS = 60
RECIPES = sorted(path.stem for path in SHIPPED_RECIPES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def chat(folder: Path) -> Path:
    turns = [{"role": "user", "content": "what"}, {"role": "assistant", "content": "the red circle"}]
    return write_lines(folder / "chat.jsonl", [{"messages": turns}] * ROWS)


def texts(folder: Path) -> Path:
    return write_lines(folder / "texts.jsonl", [{"text": f"the red circle {index}"} for index in range(ROWS)])


def clips(folder: Path) -> Path:
    soundfile.write(folder / "clip.wav", composites.random_clip(0, 8000), composites.SAMPLING_RATE)
    return write_lines(folder / "clips.jsonl", [{"audio_filepath": "clip.wav", "text": "RED"}] * ROWS)


def pictures(folder: Path) -> Path:
    return write_llava(folder / "pictures", ROWS)


def visual_model(folder: Path) -> dict:
    """A model of World's vocabulary and tiny towers, put together by the recipe."""
    tokenizer = RWKVWorldTokenizer()
    for part in (tiny_model(vocab_size=len(tokenizer)), tokenizer):
        part.save_pretrained(folder / "text")
    towers, _ = save_towers(folder / "towers", side=4)
    return {
        "text": str(folder / "text"),
        "vision": [str(path) for path in towers],
        "config": {"num_token_per_image": 4},
    }


def speech_model(folder: Path) -> dict:
    composites.tiny_composite(None, "wavlm").model.audio_tower.save_pretrained(folder / "wavlm")
    return {"text": str(save_text_model(folder / "text")), "audio": str(folder / "wavlm"), "chat_template": "speech"}


def world_model(folder: Path) -> dict:
    encoder = composites.tiny_composite("siglip").model.vision_tower
    for part in (encoder, composites.tiny_image_processor("siglip")):
        part.save_pretrained(folder / "encoder")
    return {"text": str(save_text_model(folder / "text")), "vision": str(folder / "encoder"), "chat_template": "E5"}


def settings(name: str, folder: Path) -> dict:
    """The model and the data that a user of the recipe would name."""
    if name in ("worldrwkv_stage2", "visualrwkv_finetune"):
        return {"model": str(save_composite(folder / "model")), "data.0.path": str(pictures(folder))}
    assembled = {"rwkv_asr": speech_model, "visualrwkv_pretrain": visual_model, "worldrwkv_stage1": world_model}
    if name in assembled:
        data = clips if name == "rwkv_asr" else pictures
        return {"model": assembled[name](folder), "data.0.path": str(data(folder))}
    data = texts if name in ("pretrain_text", "infctx") else chat
    model = tiny_model(
        vocab_size=len(composites.tiny_tokenizer()), hidden_size=64, intermediate_size=64
    )  # as wide as the ranks
    for part in (model, composites.tiny_tokenizer()):
        part.save_pretrained(folder / "model")
    return {"model": str(folder / "model"), "data.0.path": str(data(folder))}


@pytest.mark.parametrize("name", RECIPES)
def test_sixty_rows_train_without_a_gpu(name, tmp_path):
    chosen = settings(name, tmp_path) | {
        "trainer.max_steps": 1,
        "trainer.use_cpu": True,
        "output_dir": str(tmp_path / "out"),
    }
    trainer = run_recipe(find_recipe(name), tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items()))
    assert trainer.state.global_step == 1
    held_out = load_recipe(find_recipe(name))[0].eval_share is not None
    assert len(trainer.train_dataset) + (len(trainer.eval_dataset) if held_out else 0) == ROWS
    if held_out:
        assert trainer.evaluate()["eval_loss"] > 0


class TestHeldOut:
    """`eval_share` takes evaluation rows out of `data`, whatever that is."""

    @pytest.fixture
    def recipe(self, tmp_path):
        trainer = {"max_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "no", "eval_strategy": "steps"}
        content = {"output_dir": str(tmp_path / "out"), "model": str(save_text_model(tmp_path / "model"))}
        data = [str(write_text(tmp_path / "data.txt"))]
        return write_recipe(tmp_path / "recipe.yaml", trainer, **content, data=data, eval_share=0.1)

    def test_rows_are_spread_over_the_set_and_the_same_every_time(self):
        rows = datasets.Dataset.from_dict({"row": list(range(100))})
        kept, held_out = hold_out(rows, 0.05)
        assert held_out["row"] == [10, 30, 50, 70, 90]
        assert sorted([*kept["row"], *held_out["row"]]) == list(range(100))

    @pytest.mark.parametrize(("length", "count"), [(2, 1), (3, 1), (60, 1), (1000, 2)])
    def test_one_row_at_least_is_held_out(self, length, count):
        kept, held_out = hold_out(datasets.Dataset.from_dict({"row": list(range(length))}), 0.002)
        assert (len(kept), len(held_out)) == (length - count, count)

    def test_one_row_at_least_is_learned(self):
        kept, held_out = hold_out(datasets.Dataset.from_dict({"row": [0, 1]}), 0.9)
        assert (len(kept), len(held_out)) == (1, 1)

    def test_it_follows_the_data_and_its_parts(self, recipe, tmp_path):
        other = write_text(tmp_path / "other.txt", rows=50)
        data = f"[{{path: {other}, split: '[20:]'}}, {{path: {tmp_path / 'data.txt'}, weight: 2}}]"
        trainer = run_recipe(recipe, (f"data={data}",))
        sources = [row["source"] for row in trainer.eval_dataset]
        assert len(trainer.train_dataset) == 27 + 2 * 36
        assert [source.rsplit(":")[0] for source in sources] == [str(other)] * 3 + [str(tmp_path / "data.txt")] * 4
        assert not set(sources) & {row["source"] for row in trainer.train_dataset}
        assert all(int(source.rsplit(":")[1]) > 20 for source in sources[:3])

    def test_a_stream_has_no_share_to_hold_out(self, recipe):
        with pytest.raises(ValueError, match=r"data\.0: eval_share needs the number of rows.*eval_data.*\[:500\]"):
            run_recipe(recipe, (f"data=[{{path: {recipe.parent / 'data.txt'}, options: {{streaming: true}}}}]",))

    def test_one_row_cannot_be_shared(self, recipe):
        with pytest.raises(ValueError, match=r"data\.0: eval_share leaves nothing: there is one row in .*data\.txt"):
            run_recipe(recipe, (f"data=[{{path: {recipe.parent / 'data.txt'}, split: '[:1]'}}]",))

    def test_rows_of_two_places_are_refused(self, recipe):
        with pytest.raises(ValueError, match=r"recipe\.yaml: eval_data and eval_share .*eval_share=null"):
            load_recipe(recipe, ["eval_data=[a.txt]"])

    def test_evaluation_of_nothing_is_refused(self, recipe):
        with pytest.raises(ValueError, match=r"recipe\.yaml: trainer\.eval_strategy is 'steps', but .* eval_share"):
            load_recipe(recipe, ["eval_share=null"])


class TestNoRows:
    """A part of some data in which no row is left is refused by key and file."""

    @pytest.fixture
    def recipe(self, tmp_path):
        content = {"output_dir": str(tmp_path / "out"), "model": str(save_text_model(tmp_path / "model"))}
        return write_recipe(
            tmp_path / "recipe.yaml", {"max_steps": 1}, **content, data=[str(write_text(tmp_path / "d.txt"))]
        )

    @pytest.mark.parametrize("key", ["data", "eval_data"])
    @pytest.mark.parametrize("split", ["[40:]", "[5:5]"])
    @pytest.mark.parametrize("streaming", [True, False])
    def test_split(self, recipe, key, split, streaming):
        spec = {"path": str(recipe.parent / "d.txt"), "split": split, "options": {"streaming": streaming}}
        with pytest.raises(ValueError, match=rf"^{key}\.0\.split is .*, but .*d\.txt has"):
            run_recipe(recipe, (f"{key}=[{json.dumps(spec)}]",))

    @pytest.mark.parametrize("streaming", [True, False])
    def test_empty_file(self, recipe, streaming):
        (recipe.parent / "d.txt").write_text("")
        spec = {"path": str(recipe.parent / "d.txt"), "options": {"streaming": streaming}}
        with pytest.raises(ValueError, match=r"d\.txt: holds no rows"):
            run_recipe(recipe, (f"data=[{json.dumps(spec)}]",))

    @pytest.mark.parametrize("split", ["[:5%]", "5%"])
    def test_split_that_cannot_be(self, recipe, split):
        spec = {"path": str(recipe.parent / "d.txt"), "split": split, "options": {"streaming": True}}
        with pytest.raises(ValueError, match=r"data\.0(\.|: )split "):
            run_recipe(recipe, (f"data=[{json.dumps(spec)}]",))

    def test_weight(self, recipe):
        spec = {"path": str(recipe.parent / "d.txt"), "weight": 0.001}
        with pytest.raises(ValueError, match=r"^data\.0\.weight is 0\.001, .*d\.txt has 40 rows"):
            run_recipe(recipe, (f"data=[{json.dumps(spec)}]",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU trains there")
@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_machine_without_a_gpu_names_the_key_to_set(precision, tmp_path):
    content = {"output_dir": str(tmp_path / "out"), "model": "m", "data": ["d"]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content | {"trainer": {precision: True}}))
    with pytest.raises(
        ValueError,
        match=rf"recipe\.yaml: trainer: {precision} .*--set trainer\.use_cpu=true.*trainer\.{precision}=false",
    ):
        run_recipe(recipe)


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("adapter", [None, {"method": "lora", "r": 2}], ids=["whole", "adapter"])
def test_what_is_saved_has_the_mode_that_the_umask_says(adapter, mask, tmp_path):
    content = {
        "output_dir": str(tmp_path / "out"),
        "model": str(save_text_model(tmp_path / "model")),
        "adapter": adapter,
    }
    trainer = {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 2}
    recipe = write_recipe(tmp_path / "recipe.yaml", trainer, **content, data=[str(write_text(tmp_path / "data.txt"))])
    with umask(mask):
        run_recipe(recipe)
    saved = modes(tmp_path / "out")
    assert sum(path.endswith(".safetensors") for path in saved) == 2
    assert set(saved.values()) == {0o666 & ~mask}, saved

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders go to a Hub on this machine through the real client, and come back from it."""

import json
import os
import shutil
import sys
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.adapters import logits_of, randomize_adapter
from helpers.blinkdl import Sizes, fla_state_dict, random_checkpoint
from helpers.clean_environment import make_clean_environment, run_python
from helpers.composites import tiny_tokenizer
from helpers.hub_server import TOKEN, running_hub, use_hub
from helpers.layouts import write_layout
from helpers.text_models import random_ids, tiny_model
from helpers.training import write_recipe, write_text
from rwkv7_world import RWKV7ForCausalLM, RWKVWorldTokenizer
from rwkv7_world.adapters import StateTuningConfig
from rwkv7_world.cli.main import main
from rwkv7_world.publishing.contents import find_problems, read_contents
from rwkv7_world.publishing.model_card import MARK, state_bytes
from rwkv7_world.publishing.snippets import run_snippets
from rwkv7_world.state.states import load_trained_state, state_size


REPO = "me/small"
RESULTS = {
    "task": "automatic-speech-recognition",
    "dataset": "LibriSpeech",
    "split": "test-clean",
    "metrics": {"wer": 3.25, "cer": 1.5},
    "settings": {"normalizer": "whisper-english"},
}
IDS = random_ids(2, 6)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        use_hub(hub, monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tokenizer = tiny_tokenizer()
    tiny_model(vocab_size=len(tokenizer), hidden_size=64, pad_token_id=0, eos_token_id=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "results_speech.json").write_text(json.dumps(RESULTS))
    return folder


@pytest.fixture
def model_folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def unrun(monkeypatch):
    """Leaves out the run of the card's lines, where something else is tested; it takes seconds."""
    monkeypatch.setattr("rwkv7_world.publishing.upload.run_snippets", lambda *_: None)


def upload(*arguments: str | Path, repo: str = REPO) -> int:
    folder, *options = map(str, arguments)
    return main(["upload", folder, repo, "--license", "apache-2.0", *options])


def refusal(capsys, *arguments, **kwargs) -> str:
    """The one line that an upload which must fail says."""
    capsys.readouterr()
    assert upload(*arguments, **kwargs) == 2
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    lines = captured.err.splitlines()
    assert [line.startswith("rwkv7-world: error: ") for line in lines].index(True) == len(lines) - 1, lines
    return lines[-1]


STRANGER = """
import importlib.util, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert importlib.util.find_spec("rwkv7_world") is None
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
torch.save(model(torch.tensor(eval(sys.argv[2]))).logits.detach(), sys.argv[3])
"""


def test_a_stranger_downloads_what_was_uploaded(hub, model_folder, tmp_path, capsys):
    assert upload(model_folder, "--private") == 0
    assert capsys.readouterr().out.startswith(f"{hub.endpoint}/{REPO}/commit/")
    assert hub.repositories[REPO].private
    files = {file.relative_to(model_folder).as_posix() for file in model_folder.rglob("*") if file.is_file()}
    assert set(hub.files(REPO)) == files | {"README.md", ".gitattributes"}
    python = make_clean_environment(tmp_path / "environment")
    variables = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    arguments = REPO, json.dumps(IDS.tolist()), tmp_path / "logits.pt"
    run_python(python, STRANGER, *arguments, cache=tmp_path, **variables)
    expected = logits_of(RWKV7ForCausalLM.from_pretrained(model_folder), IDS)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, atol=1e-5, rtol=0)


def test_code_that_is_cached_elsewhere_does_not_mislead_the_run_of_the_card(hub, model_folder, tmp_path, monkeypatch):
    (tmp_path / "cache" / "transformers_modules").mkdir(parents=True)
    (tmp_path / "cache" / "transformers_modules" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cache"), *sys.path])
    assert upload(model_folder, "--dry-run") == 0


def test_the_card_says_what_was_measured_and_how_to_load(hub, model_folder, unrun):
    assert upload(model_folder, "--base-model", "you/base", "--dataset", "you/texts") == 0
    card = hub.files(REPO)["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "apache-2.0"
    assert (metadata["base_model"], metadata["datasets"]) == ("you/base", ["you/texts"])
    (result,) = metadata["model-index"][0]["results"]
    assert result["task"]["type"] == RESULTS["task"]
    assert result["dataset"] == {
        "name": "LibriSpeech",
        "type": "librispeech",
        "split": "test-clean",
        "args": RESULTS["settings"],
    }
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == RESULTS["metrics"]
    model = RWKV7ForCausalLM.from_pretrained(model_folder)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    with torch.no_grad():
        state = model(IDS[:1], use_cache=True).past_key_values
    assert state_bytes(model.config.to_dict()) == state_size(state)
    assert f"{state_size(state):,} bytes" in card
    assert f'from_pretrained("{REPO}", trust_remote_code=True)' in card


def test_an_own_card_keeps_its_text_and_is_completed(hub, model_folder, unrun):
    (model_folder / "README.md").write_text("---\nlanguage: en\n---\n\n# Mine\n\nWritten by hand.\n")
    assert upload(model_folder) == 0
    card = hub.files(REPO)["README.md"].decode()
    assert card.endswith("# Mine\n\nWritten by hand.\n")
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["language"], metadata["license"]) == ("en", "apache-2.0")


def test_metadata_without_a_text_is_kept_and_gets_one(hub, model_folder, unrun):
    (model_folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert main(["upload", str(model_folder), REPO]) == 0
    card = hub.files(REPO)["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit" and "## Use" in card


def test_a_card_that_cannot_be_read_is_refused(model_folder, capsys):
    (model_folder / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "README.md: its metadata cannot be read" in refusal(capsys, model_folder)


def test_a_card_that_an_upload_wrote_is_written_anew(hub, model_folder, unrun):
    assert upload(model_folder) == 0
    card = hub.files(REPO)["README.md"].decode()
    (model_folder / "README.md").write_text(card)
    assert upload(model_folder, repo="me/other") == 0
    assert hub.files("me/other")["README.md"].decode() == card.replace("small", "other")
    (model_folder / "README.md").write_text(card.replace(MARK, "By me."))
    assert upload(model_folder, repo="me/third") == 0
    assert hub.files("me/third")["README.md"].decode().endswith("By me.\n")


def test_an_adapter_comes_back_with_its_base(hub, model_folder, tmp_path, capsys):
    assert upload(model_folder) == 0
    tuned = get_peft_model(RWKV7ForCausalLM.from_pretrained(model_folder), StateTuningConfig(target_modules=["key"]))
    randomize_adapter(tuned).save_pretrained(tmp_path / "adapter")
    assert "--base-model OWNER/NAME" in refusal(capsys, tmp_path / "adapter", repo="me/adapter")
    assert upload(tmp_path / "adapter", "--base-model", REPO, repo="me/adapter") == 0
    assert str(tmp_path) not in "".join(map(str, hub.files("me/adapter").values()))
    base = AutoModelForCausalLM.from_pretrained(REPO)
    torch.testing.assert_close(logits_of(PeftModel.from_pretrained(base, "me/adapter"), IDS), logits_of(tuned, IDS))


def test_a_trained_state_comes_back(hub, model_folder, tmp_path):
    from huggingface_hub import hf_hub_download

    assert upload(model_folder) == 0
    model = RWKV7ForCausalLM.from_pretrained(model_folder)
    config = model.config
    shape = config.num_heads, config.head_dim, config.head_dim
    tensors = {f"blocks.{i}.att.time_state": torch.randn(shape) for i in range(config.num_hidden_layers)}
    (tmp_path / "state").mkdir()
    save_file(tensors, tmp_path / "state" / "polite.safetensors")
    assert upload(tmp_path / "state", "--base-model", REPO, repo="me/polite") == 0
    state = load_trained_state(
        hf_hub_download("me/polite", "polite.safetensors"), AutoModelForCausalLM.from_pretrained(REPO)
    )
    own = load_trained_state(tmp_path / "state" / "polite.safetensors", model)
    logits = [logits_of(model, IDS[:1], past_key_values=start) for start in (state, own)]
    torch.testing.assert_close(*logits)


def card_with(base_model) -> str:
    return f"---\n{yaml.safe_dump({'base_model': base_model})}---\n\n# Mine\n"


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", ["adapter", "state"])
def test_the_base_model_may_stand_in_the_card(hub, model_folder, tmp_path, capsys, unrun, kind, listed):
    folder = tmp_path / "trained"
    model = RWKV7ForCausalLM.from_pretrained(model_folder)
    if kind == "adapter":
        get_peft_model(model, StateTuningConfig(target_modules=["key"])).save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    else:
        folder.mkdir()
        save_file({"blocks.0.att.time_state": torch.zeros(1, 64, 64)}, folder / "polite.safetensors")
    for base in (None, "../model", ["me/one", "me/two"]):
        (folder / "README.md").write_text(card_with(base))
        said = refusal(capsys, folder, repo="me/trained")
        assert said.endswith("give --base-model OWNER/NAME, or base_model in the metadata of README.md"), said
    (folder / "README.md").write_text(card_with([REPO] if listed else REPO))
    assert upload(folder, repo="me/trained") == 0
    files = hub.files("me/trained")
    assert yaml.safe_load(files["README.md"].decode().split("---")[1])["base_model"] == REPO
    if kind == "adapter":
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == REPO
    assert upload(folder, "--base-model", "me/other", repo="me/second") == 0  # the option takes precedence
    metadata = yaml.safe_load(hub.files("me/second")["README.md"].decode().split("---")[1])
    assert metadata["base_model"] == "me/other"


def test_a_dry_run_shows_everything_and_sends_nothing(hub, model_folder, capsys):
    assert upload(model_folder, "--dry-run", "--branch", "second") == 0
    shown = capsys.readouterr().out
    assert not hub.repositories
    assert f"{(model_folder / 'model.safetensors').stat().st_size:>15,}  model.safetensors" in shown
    assert "branch second" in shown and "model-index" in shown and "rwkv7_world_code/hub_classes.py" in shown


@pytest.mark.parametrize("broken", [("POST", "/commit/"), ("PUT", "/lfs/")])
def test_an_interrupted_upload_goes_on(hub, model_folder, capsys, unrun, broken, monkeypatch):
    """Broken off at the end, what arrived is not sent again."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.breaks = [broken] * (1 if broken[0] == "POST" else 20)  # the client tries files again by itself
    assert "interrupted" in refusal(capsys, model_folder)
    hub.breaks, received = [], hub.received
    assert upload(model_folder) == 0
    size = (model_folder / "model.safetensors").stat().st_size
    assert hub.received == size
    assert received == (size if broken[0] == "POST" else 0)


def test_a_repository_in_use_is_replaced_only_if_told_so(hub, model_folder, capsys, unrun):
    assert upload(model_folder) == 0
    assert "in use already; --update" in refusal(capsys, model_folder)
    (model_folder / "results_speech.json").unlink()
    assert upload(model_folder, "--branch", "second") == 0
    assert "model-index" in hub.files(REPO)["README.md"].decode()
    assert "model-index" not in hub.files(REPO, "second")["README.md"].decode()
    assert upload(model_folder, "--pr") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.endpoint}/{REPO}/discussions/1"
    assert "model-index" not in hub.files(REPO, "refs/pr/1")["README.md"].decode()
    assert upload(model_folder, "--update") == 0
    assert "model-index" not in hub.files(REPO)["README.md"].decode()


def test_what_the_hub_refuses_is_said_in_a_line(hub, model_folder, capsys, unrun, monkeypatch, tmp_path):
    assert "may not write there" in refusal(capsys, model_folder, repo="you/small")
    assert "no such repository" in refusal(capsys, model_folder, "--pr")
    assert "is no name of a repository" in refusal(capsys, model_folder, repo="small")
    use_hub(hub, monkeypatch, tmp_path / "cache", token="hf_wrong")
    line = refusal(capsys, model_folder)
    assert "does not know this token" in line and "hf_wrong" not in line
    monkeypatch.delenv("HF_TOKEN")
    assert "set HF_TOKEN" in refusal(capsys, model_folder)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (".env", "HF_TOKEN=x", "may hold a secret"),
        ("deep/id_rsa", "x", "may hold a secret"),
        ("chat_template.jinja", f"token: {TOKEN}\n", "looks like a Hugging Face token"),
        ("generation_config.json", '{"a": {"b": ["C:\\\\Users\\\\me"]}}', "b is 'C:\\\\Users"),
        ("pytorch_model.bin", "x", "only safetensors"),
        ("tokenizer_config.json", "{", "not a JSON file"),
        ("notes.txt", "x", "no part of a model"),
        ("broken.safetensors", "x", "not a safetensors file"),
        ("results.json", '{"task": "a", "dataset": "b", "metrics": {"wer": null}}', 'expected "task", "dataset" and'),
    ],
)
def test_what_must_not_be_published_is_refused(model_folder, capsys, unrun, name, text, reason):
    (model_folder / name).parent.mkdir(exist_ok=True)
    (model_folder / name).write_text(text)
    line = refusal(capsys, model_folder)
    assert name in line
    assert reason in line
    if name in ("notes.txt", ".env"):
        assert not list(find_problems(read_contents(model_folder, exclude=(name,))))


def test_a_folder_that_does_not_load_is_refused(model_folder, capsys):
    (model_folder / "rwkv7_world_code" / "cache_rwkv7.py").unlink()
    assert "cannot be loaded and run" in refusal(capsys, model_folder)


def test_a_folder_without_model_is_refused(tmp_path, capsys):
    (tmp_path / "recipe.yaml").touch()
    assert "no config.json, no adapter_config.json and no trained state" in refusal(capsys, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "model_type is 'llama', expected rwkv7 or rwkv_world" in refusal(capsys, tmp_path)


@pytest.mark.parametrize("layout", ["official", "old fla", "a file"])
def test_a_text_model_of_another_layout_goes_in_ours(hub, tmp_path, unrun, layout):
    sizes = Sizes(hidden=64, vocab=65536 if layout == "a file" else 300)  # a file is taken for one of World
    checkpoint = random_checkpoint(sizes)
    if layout == "a file":
        source = tmp_path / "model.pth"
        torch.save(checkpoint, source)
    else:
        source = write_layout(tmp_path / "model", layout, checkpoint, sizes)
        (source / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
        (source / "NOTICE").write_text("By me.")
        RWKVWorldTokenizer.from_tokens([]).save_pretrained(source)
    assert upload(source) == 0
    assert hub.files(REPO).keys() >= {"rwkv7_world_code/hub_classes.py", "config.json"}
    assert ("Mine." in hub.files(REPO)["README.md"].decode()) == ("NOTICE" in hub.files(REPO)) == source.is_dir()
    model = AutoModelForCausalLM.from_pretrained(REPO)
    torch.testing.assert_close(dict(model.state_dict()), fla_state_dict(checkpoint), rtol=0, atol=0)


def test_a_file_and_a_run_that_did_not_end_are_refused_with_the_way_on(model_folder, tmp_path, capsys):
    (tmp_path / "model.bin").write_bytes(b"")
    assert "model.bin: neither a folder nor a checkpoint" in refusal(capsys, tmp_path / "model.bin")
    for step in (1, 10):
        (tmp_path / f"run/checkpoint-{step}").mkdir(parents=True)
    os.utime(tmp_path / "run/checkpoint-1", (0, 0))
    said = refusal(capsys, tmp_path / "run")
    assert f"the run did not end: --resume ends it, or upload {tmp_path / 'run/checkpoint-10'}" in said


def test_all_that_is_wrong_is_told_in_one_go(model_folder, capsys):
    weights = load_file(model_folder / "model.safetensors")
    weights["lm_head.weight"][3, 4] = torch.nan
    save_file(weights, model_folder / "model.safetensors", {"format": "pt"})
    config = json.loads((model_folder / "config.json").read_text())
    del config["auto_map"]
    (model_folder / "config.json").write_text(json.dumps(config))
    (model_folder / "tokenizer.json").unlink()
    (model_folder / "rwkv_vocab_v20230424.txt").unlink()
    (model_folder / "notes.txt").write_text("x")
    (model_folder / "LICENSE").write_text(f"{TOKEN} sk-{'a' * 20}")
    (model_folder / "generation_config.json").write_text('{"a": "/home/me/a", "b": "/home/me/b"}')
    (model_folder / "results.json").write_text("{")
    (model_folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'
    )
    (model_folder / "README.md").write_text("---\nlicense: apache2\n---\n# Mine\n")
    assert main(["upload", str(model_folder), "small"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("rwkv7-world: error: ") for line in lines)
    told = [
        "'small' is no name of a repository",
        "LICENSE: holds what looks like a Hugging Face token",
        "LICENSE: holds what looks like an API key",
        "generation_config.json: a is '/home/me/a', a path on this machine",
        "generation_config.json: b is '/home/me/b', a path on this machine",
        "model.safetensors: 1 tensors hold NaN or infinity, for example lm_head.weight",
        "notes.txt: no part of a model",
        "results.json: not a JSON file",
        "holds no tokenizer (tokenizer.json or rwkv_vocab_*.txt)",
        "model-00001-of-00001.safetensors: no such file, but model.safetensors.index.json names it",
        "holds no code",
        "did you mean 'apache-2.0'?",
        "results.json: not a JSON file",
    ]
    assert len(lines) == len(told)
    for line, reason in zip(lines, told, strict=True):
        assert reason in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "no licence is set; give --license"),
        (["--license", "apache2"], "licence 'apache2' is unknown to the Hub; did you mean 'apache-2.0'?"),
        (["--license", "GPL v3"], "did you mean 'gpl-3.0'?"),
        (["--license", "ours"], "use other with --license-name"),
        (["--license", "other", "--license-link", "https://a.b/c"], "licence other needs --license-name"),
        (["--license", "other", "--license-name", "ours"], "needs its text: a file LICENSE, or --license-link"),
        (["--license", "other", "--license-name", "ours", "--license-link", "TERMS"], "no address and no file"),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_refused(model_folder, capsys, options, reason):
    assert main(["upload", str(model_folder), REPO, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_another_licence_goes_with_its_name_and_text(hub, model_folder, unrun):
    (model_folder / "LICENSE").write_text("Do as you like.")
    options = "--license", "other", "--license-name", "as-you-like", "--license-link", "LICENSE"
    assert main(["upload", str(model_folder), REPO, *options]) == 0
    metadata = yaml.safe_load(hub.files(REPO)["README.md"].decode().split("---")[1])
    names = "license", "license_name", "license_link"
    assert [metadata[name] for name in names] == ["other", "as-you-like", "LICENSE"]


# What a run of training may leave beside what the runs below write
LEFT_BEHIND = (
    "predictions/a-step-1.jsonl",
    "wandb/run/a.json",
    "skipped_rows.jsonl",
    "_partial/checkpoint-3/config.json",
)


@pytest.fixture
def train(tmp_path, monkeypatch, model_folder):
    """Trains two steps with a checkpoint each and returns the run's folder, with the traces of a longer run."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_text(tmp_path / "text.txt")

    def run(**content) -> Path:
        text, folder = [str(tmp_path / "text.txt")], tmp_path / "run"
        content = {"output_dir": str(folder), "model": str(model_folder), "data": text, "eval_data": text} | content
        trainer = {"max_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        recipe = write_recipe(tmp_path / "recipe.yaml", trainer | {"report_to": "tensorboard"}, **content)
        assert main(["train", str(recipe)]) == 0
        for name in LEFT_BEHIND:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")
        return folder

    return run


def test_the_folder_of_a_run_is_uploaded_as_it_is(hub, train, capsys, monkeypatch):
    folder = train()
    assert upload(folder, "--dry-run") == 0  # which lets it say something
    shown = capsys.readouterr().out
    monkeypatch.setattr("rwkv7_world.publishing.upload.run_snippets", lambda *_: None)
    assert upload(folder) == 0
    told = capsys.readouterr().err
    for name in ("checkpoint-1/", "checkpoint-2/", "runs/", "recipe.yaml", "training_args.bin", "trainer_state.json"):
        assert f"left out: {name}" in shown and f"left out: {name}" in told
    assert "left out: wandb/ (1 files)" in shown
    code = {f"rwkv7_world_code/{file.name}" for file in (folder / "rwkv7_world_code").iterdir()}
    needed = {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    assert set(hub.files(REPO)) == needed | tokenizer | code | {"README.md", ".gitattributes"}
    assert "| steps | 2 |" in hub.files(REPO)["README.md"].decode()
    # a checkpoint of the run too
    assert upload(folder / "checkpoint-1", repo="me/first") == 0
    assert set(hub.files("me/first")) == set(hub.files(REPO))


@pytest.mark.parametrize("adapter", [{"method": "lora", "r": 4}, {"method": "state"}, {"method": "miss", "r": 4}])
def test_the_adapter_of_a_run_goes_with_a_card_of_ours(hub, train, model_folder, capsys, unrun, adapter, tmp_path):
    folder = train(adapter=adapter)
    for place in (folder, folder / "checkpoint-1"):
        card = (place / "README.md").read_text()
        assert "[More Information Needed]" not in card and MARK in card
    assert upload(model_folder) == 0
    assert "upload that first and give --base-model OWNER/NAME" in refusal(capsys, folder, repo="me/adapter")
    assert upload(folder, "--base-model", REPO, repo="me/adapter") == 0
    files = hub.files("me/adapter")
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.startswith(("checkpoint", "runs", "recipe", "train", "wandb"))]
    assert str(tmp_path) not in "".join(map(str, files.values()))
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["base_model"], metadata["library_name"], metadata["license"]) == (REPO, "peft", "apache-2.0")
    method = {"lora": "lora", "state": "state-tuning", "miss": "miss"}[adapter["method"]]
    assert metadata["tags"] == ["rwkv", "rwkv-7", method, f"base_model:adapter:{REPO}"]
    assert f"`attn.{'initial_state' if method == 'state-tuning' else 'k_proj'}`" in card
    assert f'load_adapter(AutoModelForCausalLM.from_pretrained("{REPO}"), "me/adapter")' in card
    assert 'PeftModel.from_pretrained(model, "me/adapter")' in card
    assert "| steps | 2 |" in card and "| eval_loss | " in card and "runtime" not in card


def test_a_card_of_ones_own_is_kept_by_training_and_upload(hub, train, tmp_path, unrun):
    (tmp_path / "run").mkdir()
    own = "---\ntags:\n- mine\n---\n\n# Mine\n\n[More Information Needed] on the data.\n"
    (tmp_path / "run" / "README.md").write_text(own)
    folder = train(adapter={"method": "lora", "r": 4})
    assert (folder / "README.md").read_text() == own
    assert upload(folder, "--base-model", REPO) == 0
    card = hub.files(REPO)["README.md"].decode()
    assert "[More Information Needed] on the data." in card and str(tmp_path) not in card
    assert "mine" in yaml.safe_load(card.split("---")[1])["tags"]


def test_an_example_that_does_not_end_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr("rwkv7_world.publishing.snippets.TIME_LIMIT", 0.2)
    with pytest.raises(ValueError, match="the card's example did not end in 0.2 s"):
        run_snippets(read_contents(model_folder), None)

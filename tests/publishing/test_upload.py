# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders go to a Hub on this machine through the real client, and come back from it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from helpers.adapters import logits_of, randomize_adapter
from helpers.clean_environment import make_clean_environment, run_python
from helpers.composites import tiny_tokenizer
from helpers.hub_server import TOKEN, running_hub, use_hub
from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM
from rwkv7_world.adapters import StateTuningConfig
from rwkv7_world.cli.main import main
from rwkv7_world.publishing.contents import read_contents
from rwkv7_world.publishing.model_card import MARK, state_bytes
from rwkv7_world.publishing.snippets import run_snippet
from rwkv7_world.state import load_trained_state, state_size


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
    monkeypatch.setattr("rwkv7_world.publishing.upload.run_snippet", lambda *_: None)


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
        ("recipe.yaml", f"token: {TOKEN}\n", "looks like a Hugging Face token"),
        ("recipe.yaml", "data:\n  - path: /home/me/texts.jsonl\n", "'/home/me/texts.jsonl', a path on this machine"),
        ("generation_config.json", '{"a": {"b": ["C:\\\\Users\\\\me"]}}', "b is 'C:\\\\Users"),
        ("training_args.bin", "x", "only safetensors"),
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
        assert name not in read_contents(model_folder, exclude=(name,)).files


def test_a_folder_that_does_not_load_is_refused(model_folder, capsys):
    (model_folder / "tokenizer.json").unlink()
    (model_folder / "rwkv_vocab_v20230424.txt").unlink()
    assert "cannot be loaded and run" in refusal(capsys, model_folder)


def test_a_licence_is_asked_for(model_folder, capsys):
    assert main(["upload", str(model_folder), REPO]) == 2
    assert "no licence is set; give --license" in capsys.readouterr().err


def test_a_folder_without_code_or_model_is_refused(tmp_path, saved):
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(ValueError, match="no config.json, no adapter_config.json and no trained state"):
        read_contents(tmp_path)
    config = json.loads((saved / "config.json").read_text())
    del config["auto_map"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds no code"):
        read_contents(tmp_path)


def test_an_example_that_does_not_end_is_refused(model_folder, monkeypatch):
    monkeypatch.setattr("rwkv7_world.publishing.snippets.TIME_LIMIT", 0.2)
    with pytest.raises(ValueError, match="the card's example did not end in 0.2 s"):
        run_snippet(read_contents(model_folder), None)

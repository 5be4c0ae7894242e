# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""The chat template and the settings of generation that a converted text model is written with."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from helpers.blinkdl import Sizes, random_checkpoint
from helpers.layouts import write_layout
from rwkv7_world import RWKV7ForCausalLM, RWKVPenaltyLogitsProcessor, RWKVWorldTokenizer
from rwkv7_world.cli.main import main
from rwkv7_world.conversion import convert_to_fla, convert_to_hub, convert_to_official
from rwkv7_world.processing.text_chat_formats import CHAT_FORMATS


SIZES = Sizes(layers=2, hidden=64, vocab=65536)
FILES = {
    "RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth": "world",
    "rwkv7-g1d-0.1b-20260129-ctx8192.pth": "g1",
    "rwkv7-g1h-7.2b-20260710-ctx10240.pth": "g1h",
    "rwkv7-g1j-1.5b-20260831-ctx16384.pth": "g1i",
}


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return random_checkpoint(SIZES)


def generation_config(folder: Path) -> dict:
    return json.loads((folder / "generation_config.json").read_text())


@pytest.mark.parametrize("file, name", FILES.items())
def test_the_name_of_a_file_chooses(file, name, checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / file)
    done = convert_to_hub(tmp_path / file, tmp_path / "hub")
    chat_format = CHAT_FORMATS[name]
    assert done.template == name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hub")
    assert tokenizer.chat_template == chat_format.template
    assert tokenizer.response_template == chat_format.response_template
    written = generation_config(tmp_path / "hub")
    assert {key: written[key] for key in chat_format.sampling} == chat_format.sampling
    assert written["stop_strings"] == [chat_format.stop_string]
    assert written["eos_token_id"] == chat_format.eos_token_id
    # `generate` finds the tokenizer that stop strings need beside the weights
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], return_tensors="pt", return_dict=True)
    assert model.generate(**prompt, max_new_tokens=3).shape[1] <= prompt["input_ids"].shape[1] + 3


def test_an_option_chooses_and_is_kept_on_the_way(checkpoint, tmp_path, capsys):
    source = tmp_path / "rwkv7-g1d-0.1b-20260129-ctx8192.pth"
    torch.save(checkpoint, source)
    assert main(["convert", str(source), str(tmp_path / "hub"), "--template", "g1h"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "chat template g1h"
    # A folder of ours keeps what it has, whatever its name, until another is asked for
    assert convert_to_hub(tmp_path / "hub", tmp_path / "rwkv7-g1i-again").template is None
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json"):
        assert (tmp_path / "rwkv7-g1i-again" / name).read_text() == (tmp_path / "hub" / name).read_text()
    convert_to_hub(tmp_path / "hub", tmp_path / "other", template="world")
    assert AutoTokenizer.from_pretrained(tmp_path / "other").chat_template == CHAT_FORMATS["world"].template
    assert generation_config(tmp_path / "other")["top_p"] == 0.3
    assert generation_config(tmp_path / "other")["stop_strings"] == ["\n\nUser:"]


def test_official_folders_talk_as_theirs_and_keep_their_settings(checkpoint, tmp_path):
    source = write_layout(tmp_path / "RWKV7-0.1B-20260805", "official", checkpoint, SIZES)
    (source / "generation_config.json").write_text('{"eos_token_id": 0, "temperature": 0.9, "use_cache": true}')
    assert convert_to_hub(source, tmp_path / "hub").template == "g1i"
    written = generation_config(tmp_path / "hub")
    assert (written["temperature"], written["top_p"], written["do_sample"]) == (0.9, 0.5, True)
    convert_to_fla(source, tmp_path / "fla")
    # The classes of others would ask for a tokenizer
    assert "stop_strings" not in generation_config(tmp_path / "fla")
    assert generation_config(tmp_path / "fla")["top_p"] == 0.5
    convert_to_official(tmp_path / "hub", tmp_path / "back", template="g1i")
    del written["stop_strings"]
    assert generation_config(tmp_path / "back") == written


def test_a_template_that_does_not_fit_is_refused_and_nothing_written(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "a.pth")
    torch.save(random_checkpoint(Sizes()), tmp_path / "small.pth")
    for convert in (convert_to_hub, convert_to_fla, convert_to_official):
        with pytest.raises(ValueError, match="unknown template 'E5' of a text model, expected one of world, g1"):
            convert(tmp_path / "a.pth", tmp_path / "out", template="E5")
        with pytest.raises(ValueError, match="template g1 is for World's vocabulary, this one has 90 tokens"):
            convert(tmp_path / "small.pth", tmp_path / "out", template="g1")
    assert not (tmp_path / "out").exists()


def test_a_bare_file_is_asked_in_the_layout_of_its_name(checkpoint, tmp_path, capsys):
    for file, name in FILES.items():
        torch.save(checkpoint, tmp_path / file)
        command = ["generate", str(tmp_path / file), "hi", "--max-new-tokens", "2", "--json", "--thinking"]
        if name == "world":
            assert main(command) == 2
            error = capsys.readouterr().err
            assert "--thinking was given, but" in error and "trained on a layout without it" in error
        else:
            assert main(command) == 0
            assert '"answer": "<think' in capsys.readouterr().out


def test_sampling_as_is_usual_has_the_settings_and_penalties_of_the_generation(checkpoint, tmp_path, capsys):
    """As `generate` with them gives it, of a bare file and of its folder, of one question and of a file of some."""
    source = tmp_path / "rwkv7-g1h-7.2b-20260710-ctx10240.pth"
    torch.save(checkpoint, source)
    convert_to_hub(source, tmp_path / "hub")
    model, tokenizer = RWKV7ForCausalLM.from_pretrained(source), RWKVWorldTokenizer.for_chat("g1h")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    penalty = RWKVPenaltyLogitsProcessor(presence=1.0, frequency=0.1, decay=0.988, prompt_length=ids.shape[1])
    options = {"do_sample": True, "temperature": 0.96, "top_p": 0.76, "top_k": 32, "max_new_tokens": 12}
    set_seed(5)
    output = model.generate(ids, **options, logits_processor=[penalty])
    expected = tokenizer.decode(output[0, ids.shape[1] :]).strip()
    (tmp_path / "q.jsonl").write_text('{"question": "hi"}\n')
    asked = ["--sample", "--seed", "5", "--max-new-tokens", "12"]
    for model_path in (source, tmp_path / "hub"):
        assert main(["generate", str(model_path), "hi", *asked, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["answer"].strip() == expected
        out = tmp_path / f"{model_path.stem}.jsonl"
        assert (
            main(["generate", str(model_path), "--input", str(tmp_path / "q.jsonl"), "--out", str(out), *asked]) == 0
        )
        assert json.loads(out.read_text())["answer"].strip() == expected
        capsys.readouterr()

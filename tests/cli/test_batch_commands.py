# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Files of questions, folders of clips, `quantize`, `merge` and what else a user of transformers reaches for."""

import csv
import io
import json
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import soundfile
import torch
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from helpers import composites
from helpers.adapters import logits_of, randomize_adapter
from helpers.file_modes import modes, umask
from helpers.text_models import random_ids, randomize
from helpers.training import PACKAGE_PARENT, save_text_model
from rwkv7_world.adapters import attach_adapter, load_adapter
from rwkv7_world.cli import batches, inputs
from rwkv7_world.cli.main import main
from rwkv7_world.cli.transcribe import _clock, find_clips


CLIPS = 5
SHORT = ("--max-new-tokens", "6", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return composites.save_tiny_composite(tmp_path_factory.mktemp("model"), "siglip", "wavlm")


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> Path:
    """One of which every weight, and so every state, matters."""
    folder = save_text_model(tmp_path_factory.mktemp("text") / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    randomize(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def clips(tmp_path) -> Path:
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for index in range(CLIPS):
        place = folder / ("more" if index % 2 else "") / f"{index}.wav"
        soundfile.write(place, composites.random_clip(index, 4000 + 1000 * index), 16_000)
    return folder


def answered(capsys, *argv) -> str:
    capsys.readouterr()
    assert main([*map(str, argv)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refusal(capsys, *argv) -> str:
    capsys.readouterr()
    try:
        status = main([*map(str, argv)])
    except SystemExit as exit_:
        status = exit_.code
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1), err
    return err


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_of_questions_gets_the_answers_of_single_questions(model, tmp_path, capsys):
    composites.random_image(1).save(tmp_path / "a.png")
    soundfile.write(tmp_path / "a.wav", composites.random_clip(1, 8000), 16_000)
    questions = [
        {"question": "what circle?", "image": "a.png", "note": "kept"},
        {"audio": ["a.wav"], "id": "clip"},
        {"question": "what is the red circle?"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    out = tmp_path / "answers.jsonl"
    answered(capsys, "generate", model, "--input", tmp_path / "q.jsonl", "--out", out, "--batch-size", 2, *SHORT)
    lines = lines_of(out)
    assert [{name: value for name, value in line.items() if name != "answer"} for line in lines] == questions
    assert not out.with_name("answers.jsonl.run").exists()
    for line, media in zip(lines, (("--image", "a.png"), ("--audio", "a.wav"), ()), strict=True):
        option = (media[0], tmp_path / media[1]) if media else ()
        alone = answered(capsys, "generate", model, line.get("question", ""), *option, "--no-stream", *SHORT)
        assert alone.strip() == line["answer"]
    assert "exists already" in refusal(capsys, "generate", model, "--input", tmp_path / "q.jsonl", "--out", out)


def test_a_text_model_answers_a_file(text_model, tmp_path, capsys):
    questions = [{"question": "what is red?"}, {"question": "the circle is the red circle is what?"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    answered(capsys, "generate", text_model, "--input", tmp_path / "q.jsonl", "--out", tmp_path / "a.jsonl", *SHORT)
    for line in lines_of(tmp_path / "a.jsonl"):
        alone = answered(capsys, "generate", text_model, line["question"], "--no-stream", *SHORT)
        assert alone.strip() == line["answer"]


def test_answers_sampled_with_penalties_are_not_kept_without_them(text_model, tmp_path, capsys, monkeypatch):
    """`--sample` brings the penalties of the model's generation, and leaves a given temperature as it is."""
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "what is red?"}))
    argv = ["generate", text_model, "--input", tmp_path / "q.jsonl", "--out", tmp_path / "a.jsonl", *SHORT]
    argv += ["--temperature", 0.5]
    with monkeypatch.context() as patch:
        patch.setattr(batches, "finish", lambda *_: None)  # as if it had been killed at the end
        answered(capsys, *argv, "--sample")
    assert "holds a run with sample True, this one has False" in refusal(capsys, *argv)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "srt"])
def test_a_folder_of_clips_is_transcribed(model, clips, tmp_path, capsys, suffix):
    (clips / "broken.wav").write_bytes(b"no clip")
    out = tmp_path / f"texts.{suffix}"
    said = answered(capsys, "transcribe", model, clips, "--out", out, "--batch-size", 2, *SHORT)
    assert f"1 of {CLIPS + 1} could not be read" in said and "broken.wav" in said
    text = out.read_text(encoding="utf-8")
    if suffix == "srt":
        assert text.startswith("1\n00:00:00,000 --> 00:00:00,250\n") and text.count("-->") == CLIPS + 1
        return
    rows = list(csv.DictReader(io.StringIO(text))) if suffix == "csv" else lines_of(out)
    assert {Path(row["file"]).name for row in rows} == {f"{index}.wav" for index in range(CLIPS)} | {"broken.wav"}
    alone = answered(capsys, "generate", model, "", "--audio", clips / "0.wav", "--no-stream", *SHORT)
    assert rows[0]["text"] == alone.strip()


def test_an_interrupted_transcription_goes_on(model, clips, tmp_path, capsys, monkeypatch):
    from rwkv7_world.evaluation.answering import GreedyAnswers

    answer, asked = GreedyAnswers.answer, []

    def answer_twice(self, batch):
        asked.append(len(batch["input_ids"]))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return answer(self, batch)

    out = tmp_path / "texts.jsonl"
    argv = ["transcribe", str(model), str(clips), "--out", str(out), "--batch-size", "2", *SHORT]
    monkeypatch.setattr(GreedyAnswers, "answer", answer_twice)
    assert main(argv) == 130 and not out.exists()
    assert main(argv) == 0
    assert asked == [2, 2, 2, 1]
    monkeypatch.undo()
    whole = tmp_path / "whole.jsonl"
    answered(capsys, "transcribe", model, clips, "--out", whole, "--batch-size", 2, *SHORT)
    assert lines_of(out) == lines_of(whole)


def test_clips_are_found_by_folder_pattern_and_list(clips, tmp_path):
    names = [str(path.relative_to(clips)) for path in find_clips(str(clips))]
    assert sorted(names) == ["0.wav", "2.wav", "4.wav", "more/1.wav", "more/3.wav"]
    assert len(find_clips(f"{clips}/*.wav")) == 3 and len(find_clips(f"{clips}/**/*.wav")) == CLIPS
    (tmp_path / "list.txt").write_text("clips/0.wav\n\nclips/0.wav\nclips/more/1.wav\n", encoding="utf-8-sig")
    assert find_clips(str(tmp_path / "list.txt")) == [clips / "0.wav", clips / "more/1.wav"]
    assert _clock(3723.0056) == "01:02:03,006"


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_folder_answers_as_quantised_in_memory(text_model, tmp_path, capsys, bits):
    answered(capsys, "quantize", text_model, tmp_path / "small", "--bits", bits)
    ask = ("the red circle", "--no-stream", *SHORT)
    saved = answered(capsys, "generate", tmp_path / "small", *ask)
    assert saved == answered(capsys, "generate", text_model, *ask, "--quantize", f"int{bits}")
    assert "exists already" in refusal(capsys, "quantize", text_model, tmp_path / "small", "--bits", bits)
    assert "cannot be once more" in refusal(capsys, "quantize", tmp_path / "small", tmp_path / "again", "--bits", 8)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_written_folders_have_the_mode_that_the_umask_says(text_model, tmp_path, capsys, mask):
    with umask(mask):
        answered(capsys, "quantize", text_model, tmp_path / "small", "--bits", 8)
    saved = modes(tmp_path / "small")
    assert set(saved.values()) == {0o666 & ~mask}, saved


@pytest.mark.parametrize("method", ["lora", "miss", "state"])
def test_a_merged_folder_is_the_model_with_its_adapter(text_model, tmp_path, capsys, method):
    rank = {} if method == "state" else {"r": 4}
    adapted = attach_adapter(AutoModelForCausalLM.from_pretrained(text_model), {"method": method} | rank)
    randomize_adapter(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    answered(capsys, "merge", text_model, tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    wanted = load_adapter(AutoModelForCausalLM.from_pretrained(text_model), tmp_path / "adapter")
    ids = random_ids(2, 7)
    torch.testing.assert_close(logits_of(merged, ids), logits_of(wanted, ids), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(
        logits_of(merged, ids), logits_of(AutoModelForCausalLM.from_pretrained(text_model), ids), atol=1e-3
    )


def test_one_seed_gives_one_answer_as_json(text_model, capsys):
    argv = ["generate", text_model, "what?", "--temperature", 2, "--seed", 5, "--json", *SHORT]
    first, second = (json.loads(answered(capsys, *argv)) for _ in range(2))
    assert first | {"seconds": 0} == second | {"seconds": 0}
    assert first.keys() == {"question", "answer", "prompt_tokens", "new_tokens", "seconds"}
    argv[argv.index("--seed") + 1] = 6
    assert json.loads(answered(capsys, *argv))["answer"] != first["answer"]


def test_the_question_is_read_from_standard_input(text_model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the red circle\n"))
    piped = answered(capsys, "generate", text_model, "-", "--no-stream", *SHORT)
    assert piped == answered(capsys, "generate", text_model, "the red circle", "--no-stream", *SHORT)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "the question is empty" in refusal(capsys, "generate", text_model, "-")


def test_images_and_clips_are_fetched_with_limits(model, tmp_path, capsys, monkeypatch):
    composites.random_image(1).save(tmp_path / "a.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        ask = ("generate", model, "what?", "--no-stream", *SHORT, "--image")
        assert answered(capsys, *ask, f"{url}/a.png") == answered(capsys, *ask, tmp_path / "a.png")
        assert f"{url}/b.png: cannot be downloaded (HTTP Error 404" in refusal(capsys, *ask, f"{url}/b.png")
        assert f"{url}/: not a picture" in refusal(capsys, *ask, f"{url}/")
        monkeypatch.setattr(inputs, "MAX_DOWNLOAD", 100)
        assert f"{url}/a.png: more than 100 bytes" in refusal(capsys, *ask, f"{url}/a.png")
        server.shutdown()


def test_the_package_is_the_command():
    run = partial(subprocess.run, capture_output=True, text=True, cwd=PACKAGE_PARENT)
    (long, short) = (run([sys.executable, "-m", "rwkv7_world", option]) for option in ("--version", "-V"))
    assert long.stdout == short.stdout and long.stdout.startswith("rwkv7-world ")


def test_evaluation_takes_quantised_weights(model, clips, tmp_path, capsys):
    lines = "".join(json.dumps({"audio": f"{index}.wav", "text": "red"}) + "\n" for index in (0, 2))
    (clips / "m.jsonl").write_text(lines)
    argv = ["evaluate", model, "asr", "--data", clips / "m.jsonl", "--output", tmp_path / "run", *SHORT]
    answered(capsys, *argv, "--quantize", "int8")
    assert json.loads((tmp_path / "run/results.json").read_text())["settings"]["quantize"] == "int8"
    assert "holds a run with quantize 'int8', this one has None" in refusal(capsys, *argv)


def test_composites_merge_too(model, tmp_path, capsys):
    adapted = attach_adapter(AutoModelForMultimodalLM.from_pretrained(model), {"method": "lora", "r": 2})
    adapted.save_pretrained(tmp_path / "adapter")
    answered(capsys, "merge", model, tmp_path / "adapter", tmp_path / "merged")
    answered(capsys, "generate", tmp_path / "merged", "what?", "--no-stream", *SHORT)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_the_command(capsys, shell):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as exit_:
        main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert exit_.value.code == 0 and "transcribe" in script and "--max-new-tokens" in script


def test_completion_names_what_it_lacks(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert 'shtab is not installed; pip install "rwkv7-world[completion]"' in refusal(
        capsys, "--print-completion", "bash"
    )

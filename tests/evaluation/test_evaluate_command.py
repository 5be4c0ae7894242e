# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world evaluate`: the same numbers however a run was interrupted or shared, and one line for bad input."""

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from transformers import AutoModelForMultimodalLM

from helpers import composites
from helpers.training import PACKAGE_PARENT, save_text_model, start_command
from rwkv7_world.adapters import attach_adapter
from rwkv7_world.cli.main import main
from rwkv7_world.evaluation.confidence import bootstrap_interval, score_interval
from rwkv7_world.evaluation.plots import plot_errors_by_length
from rwkv7_world.evaluation.results import results_table, summarize_run
from rwkv7_world.evaluation.runner import Run, score_records
from rwkv7_world.evaluation.tasks import TASKS, Sample


SAMPLES, NEW_TOKENS = 24, 24
OPTIONS = ("--batch-size", "2", "--max-new-tokens", str(NEW_TOKENS), "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return composites.save_tiny_composite(tmp_path_factory.mktemp("model"), "siglip", "wavlm")


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Questions of many lengths, so that batches are padded."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for index in range(SAMPLES):
        composites.random_image(index).save(folder / f"{index}.png")
        text = "what circle " * (1 + index * 7 % 5) + "?"
        lines.append(
            {"image": f"{index}.png", "text": text, "answer": "red", "category": "even odd".split()[index % 2]}
        )
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def whole(model, questions, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["evaluate", str(model), "vqa", "--data", str(questions), "--output", str(output), *OPTIONS]) == 0
    return output


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scores(output: Path) -> dict:
    results = json.loads((output / "results.json").read_text())
    return {name: results[name] for name in ("metrics", "interval", "samples", "unreadable", "settings")}


def refusal(capsys, *argv) -> str:
    capsys.readouterr()
    status = main(["evaluate", *map(str, argv)])
    err = capsys.readouterr().err
    assert (status, err.count("\n")) == (2, 1), err
    return err


def test_samples_are_kept_in_the_order_of_the_data(whole):
    records = lines_of(whole / "samples.jsonl")
    assert [record["id"] for record in records] == [str(index) for index in range(SAMPLES)]
    assert len({record["prediction"] for record in records}) > SAMPLES // 2
    assert len(records[1].pop("media")) == 64
    assert records[1] | {"prediction": ""} == {
        "id": "1",
        "prompt": "<image>" + ("what circle " * 3 + "?"),
        "prediction": "",
        "reference": ["red"],
        "category": "odd",
        "seconds": None,
        "points": 0.0,
        "out_of": 1.0,
    }


def test_results_hold_what_is_needed_to_trust_them(whole):
    results = json.loads((whole / "results.json").read_text())
    assert results["metrics"].keys() == {"accuracy", "accuracy (even)", "accuracy (odd)"}
    assert (results["rule"], results["samples"], results["unit"]) == ("vqa", SAMPLES, "percent")
    assert results["versions"]["torch"] == torch.__version__
    assert len(results["settings"]["questions"]) == 64
    assert (results["task"], results["dataset"]) == ("visual-question-answering", "questions")
    assert str(whole.parent.parent) not in (whole / "results.json").read_text()  # no folder of one's own


def test_a_killed_run_goes_on_and_gives_the_same_numbers(model, questions, whole, tmp_path):
    output = tmp_path / "killed"
    argv = ["evaluate", str(model), "vqa", "--data", str(questions), "--output", str(output), *OPTIONS]
    process = start_command(*argv, stdout=subprocess.DEVNULL)
    part = output / "samples-0.jsonl"
    while not (part.exists() and part.read_bytes().count(b"\n") >= 4):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "results.json").exists()
    *earlier, first, _ = part.read_bytes().splitlines(keepends=True)[:4]
    part.write_bytes(b"".join(earlier) + first[:40])  # the last batch cut off, as by a full disk
    assert main(argv) == 0
    assert lines_of(output / "samples.jsonl") == lines_of(whole / "samples.jsonl")
    assert scores(output) == scores(whole)
    assert 0 < json.loads((output / "results.json").read_text())["samples_answered_before"] < SAMPLES


def test_two_processes_give_the_same_numbers(model, questions, whole, tmp_path):
    output = tmp_path / "shared"
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    argv = ["evaluate", str(model), "vqa", "--data", str(questions), "--output", str(output), *OPTIONS]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*launcher, "-m", "rwkv7_world.cli.main", *argv], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("this run") == 3  # one table, of one process
    assert lines_of(output / "samples.jsonl") == lines_of(whole / "samples.jsonl")
    assert scores(output) == scores(whole)


def test_a_finished_run_is_scored_again_without_the_model(model, questions, whole, capsys, monkeypatch):
    monkeypatch.setattr("rwkv7_world.cli.evaluate.load_adapted", None)
    before = lines_of(whole / "samples.jsonl")
    argv = ["evaluate", str(model), "vqa", "--data", str(questions), "--output", str(whole), *OPTIONS]
    assert main([*argv, "--rule", "strict"]) == 0
    assert json.loads((whole / "results.json").read_text())["rule"] == "strict"
    assert main(argv) == 0
    assert lines_of(whole / "samples.jsonl") == before


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (("--batch-size", "3"), "holds a run with batch_size 2, this one has 3"),
        (("--max-new-tokens", "9"), f"holds a run with max_new_tokens {NEW_TOKENS}, this one has 9"),
        (("--limit", "5"), f"holds a run with samples {SAMPLES}, this one has 5"),
    ],
)
def test_another_run_is_not_resumed(model, questions, whole, capsys, changes, complaint):
    argv = [model, "vqa", "--data", questions, "--output", whole, *OPTIONS, *changes]
    assert complaint in refusal(capsys, *argv)


def test_replaced_images_are_asked_about_again(model, tmp_path):
    composites.random_image(7).save(tmp_path / "new.png")
    for index in range(4):
        composites.random_image(index).save(tmp_path / f"{index}.png")
    lines = [{"image": f"{index}.png", "text": "what?", "answer": "red"} for index in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    argv = ["evaluate", str(model), "vqa", "--data", str(tmp_path / "q.jsonl"), *OPTIONS, "--output"]
    assert main([*argv, str(tmp_path / "run")]) == 0
    before = lines_of(tmp_path / "run/samples.jsonl")
    os.utime(tmp_path / "new.png", ns=2 * ((tmp_path / "2.png").stat().st_mtime_ns,))
    (tmp_path / "new.png").replace(tmp_path / "2.png")
    assert main([*argv, str(tmp_path / "run")]) == 0
    after = lines_of(tmp_path / "run/samples.jsonl")
    assert [index for index in range(4) if after[index] != before[index]] == [2]
    # its batch is asked again as a whole
    assert json.loads((tmp_path / "run/results.json").read_text())["samples_answered_before"] == 2
    assert main([*argv, str(tmp_path / "fresh")]) == 0
    assert after == lines_of(tmp_path / "fresh/samples.jsonl")


def test_edited_categories_count_without_asking_again(model, tmp_path):
    composites.random_image().save(tmp_path / "0.png")
    argv = ["evaluate", str(model), "vqa", "--data", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "run")]
    for category in ("even", "odd"):
        line = {"image": "0.png", "text": "what?", "answer": "red", "category": category}
        (tmp_path / "q.jsonl").write_text(json.dumps(line))
        assert main([*argv, *OPTIONS]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["metrics"].keys() == {"accuracy", "accuracy (odd)"}
    assert results["samples_answered_before"] == 1
    assert lines_of(tmp_path / "run/samples.jsonl")[0]["category"] == "odd"


def test_a_run_belongs_to_contents_of_weights_and_adapter_and_to_the_code(model, questions, tmp_path, capsys):
    own = shutil.copytree(model, tmp_path / "model")
    adapter = tmp_path / "adapter"
    base = AutoModelForMultimodalLM.from_pretrained(own)
    attach_adapter(base, {"method": "lora", "r": 2}).save_pretrained(adapter)
    options = ["--limit", "2", "--adapter", adapter, "--output", tmp_path / "run", *OPTIONS]
    argv = [own, "vqa", "--data", questions, *options]
    assert main(["evaluate", *map(str, argv)]) == 0
    (own / "README.md").write_text("a card written after the run")
    for file in own.iterdir():
        os.utime(file)  # as of a copy
    assert main(["evaluate", *map(str, argv)]) == 0

    for weights, complaint in (
        (own / "model.safetensors", "holds a run with weights "),
        (adapter / "adapter_model.safetensors", "holds a run with adapter_weights "),
    ):
        before = weights.read_bytes(), weights.stat().st_mtime_ns
        weights.write_bytes(before[0][:-1] + bytes([before[0][-1] ^ 1]))
        os.utime(weights, ns=2 * before[1:])
        assert complaint in refusal(capsys, *argv)
        weights.write_bytes(before[0])

    run = tmp_path / "run/run.json"
    settings = json.loads(run.read_text())
    run.write_text(json.dumps(settings | {"code": "rwkv7-world 0123456789ab, torch 2.6.0, transformers 5.23.0"}))
    assert "holds a run with code 'rwkv7-world 0123456789ab" in refusal(capsys, *argv)


def test_a_folder_of_something_else_is_left_alone(model, questions, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "not empty, and no run" in refusal(
        capsys, model, "vqa", "--data", questions, "--output", tmp_path, *OPTIONS
    )


def test_samples_that_cannot_be_read_are_wrong_unless_left_out(model, questions, tmp_path, capsys):
    lines = [{"image": f"{index}.png", "text": "what?", "answer": "red"} for index in range(3)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    composites.random_image().save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    output = tmp_path / "run"
    argv = ["evaluate", str(model), "vqa", "--data", str(tmp_path / "q.jsonl"), "--output", str(output), *OPTIONS]
    assert main(argv) == 0
    assert "2 of 3 samples could not be read and are counted as wrong, the first 1:" in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert (results["samples"], results["unreadable"]) == (3, 2)
    assert results["unreadable_samples"] == ["1", "2"]
    assert "2.png: no such file" in lines_of(output / "samples.jsonl")[2]["error"]
    assert main([*argv, "--skip-unreadable"]) == 0
    assert json.loads((output / "results.json").read_text())["samples"] == 1
    composites.random_image().save(tmp_path / "1.png")
    assert main(argv) == 0
    assert json.loads((output / "results.json").read_text())["unreadable"] == 1


def test_a_run_of_which_nothing_can_be_read_is_refused(model, tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": "gone.png", "text": "what?", "answer": "red"}))
    argv = [model, "vqa", "--data", tmp_path / "q.jsonl", "--output", tmp_path / "run", *OPTIONS]
    complaint = refusal(capsys, *argv)
    assert "not one of 1 samples can be read" in complaint
    assert "gone.png: no such file" in complaint
    composites.random_image().save(tmp_path / "gone.png")
    assert main(["evaluate", *map(str, argv)]) == 0


def test_clips_are_scored_by_words_and_by_length(model, tmp_path, capsys):
    for index in range(4):
        soundfile.write(tmp_path / f"{index}.wav", composites.random_clip(index, 4000 + 4000 * index), 16_000)
    table = "path\tsentence\n" + "".join(f"{index}.wav\tthe red circle\n" for index in range(4))
    (tmp_path / "clips.tsv").write_text(table)
    output = tmp_path / "run"
    assert (
        main(["evaluate", str(model), "asr", "--data", str(tmp_path / "clips.tsv"), "--output", str(output), *OPTIONS])
        == 0
    )
    records = lines_of(output / "samples.jsonl")
    assert [record["seconds"] for record in records] == [0.25, 0.5, 0.75, 1.0]
    errors = sum(record["points"] for record in records)
    results = json.loads((output / "results.json").read_text())
    assert results["value"] == pytest.approx(100 * errors / 12)
    assert results["metrics"].keys() >= {"wer", "wer_macro", "cer", "wer (lower)"}


def test_a_folder_of_clips_with_texts_lists_the_worst_first(model, tmp_path, capsys):
    folder = tmp_path / "clips"
    (folder / "more").mkdir(parents=True)
    for index, text in enumerate(("the red circle is the red circle", "red", "what is red")):
        place = folder / ("more" if index else "") / f"{index}.wav"
        soundfile.write(place, composites.random_clip(index, 8000), 16_000)
        place.with_suffix(".txt").write_text(text + "\n", encoding="utf-8-sig")
    argv = ["evaluate", str(model), "asr", "--data", str(folder), "--output", str(tmp_path / "run"), *OPTIONS]
    assert main(argv) == 0
    shown = [line.split(": ")[0].split()[-1] for line in capsys.readouterr().out.splitlines() if " %  " in line]
    with open(tmp_path / "run/errors.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rates = [float(row["error_rate"]) for row in rows]
    assert rates == sorted(rates, reverse=True) and len(rates) == 3
    assert [row["file"] for row in rows] == shown
    records = {record["id"]: record for record in lines_of(tmp_path / "run/samples.jsonl")}
    assert records.keys() == {"0.wav", "more/1.wav", "more/2.wav"}
    for row in rows:
        record = records[row["id"]]
        assert record["file"] == row["file"] == str(folder / row["id"])
        assert record["error_rate"] == pytest.approx(100 * record["points"] / record["out_of"])
    (folder / "more/1.txt").unlink()
    assert "1.wav: no 1.txt beside it" in refusal(capsys, *argv[1:])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_clip_of_silence_is_scored_and_reported(model, tmp_path, capsys, suffix):
    texts = "the red circle", ""
    for index in range(2):
        soundfile.write(tmp_path / f"{index}.wav", composites.random_clip(index, 8000), 16_000)
    lines = [json.dumps({"audio": f"{index}.wav", "text": text}) for index, text in enumerate(texts)]
    if suffix == "csv":
        lines = ["audio,text", *(f"{index}.wav,{text}" for index, text in enumerate(texts))]
    (tmp_path / f"clips.{suffix}").write_text("\n".join(lines))
    argv = ["evaluate", model, "asr", "--data", tmp_path / f"clips.{suffix}", "--output", tmp_path / "run", *OPTIONS]
    assert main([*map(str, argv)]) == 0
    assert "1 of 2 references are empty" in capsys.readouterr().out
    results = json.loads((tmp_path / "run/results.json").read_text())
    records = lines_of(tmp_path / "run/samples.jsonl")
    assert results["empty_references"] == 1 and records[1]["out_of"] == 0
    assert results["value"] == pytest.approx(100 * sum(record["points"] for record in records) / 3)


def test_bits_per_character_are_those_of_one_forward_pass(tmp_path):
    model = save_text_model(tmp_path / "model")
    text = "the red circle is what the User is\n" * 60  # longer than one chunk
    (tmp_path / "text.txt").write_text(text)
    output = tmp_path / "run"
    argv = [
        "evaluate",
        str(model),
        "bpc",
        "--data",
        str(tmp_path / "text.txt"),
        "--output",
        str(output),
        "--device",
        "cpu",
    ]
    assert main(argv) == 0
    from transformers import AutoModelForCausalLM

    tokenizer = composites.tiny_tokenizer()
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    token_ids = torch.tensor([[start, *tokenizer.encode(text, add_special_tokens=False)]])
    assert token_ids.shape[1] > 1024
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(model)(input_ids=token_ids, labels=token_ids).loss
    bits = loss.item() * (token_ids.shape[1] - 1) / math.log(2) / len(text)
    assert json.loads((output / "results.json").read_text())["value"] == pytest.approx(bits, rel=1e-4)


def test_the_interval_is_that_of_a_mean():
    points = np.random.default_rng(0).random(2000) < 0.3
    low, high = bootstrap_interval(points, np.ones(2000))
    deviation = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert (low, high) == pytest.approx((points.mean() - deviation, points.mean() + deviation), abs=0.004)
    assert bootstrap_interval(points, np.ones(2000)) == (low, high)


@pytest.mark.parametrize(
    ("right", "samples", "low", "high"),
    [(1, 1, 0.2065, 1.0), (0, 1, 0.0, 0.7935), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433)],
)
def test_the_interval_of_few_answers_is_wilsons(right, samples, low, high):
    points = [1.0] * right + [0.0] * (samples - right)
    assert score_interval(points, [1.0] * samples, is_share=True) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_transcripts_is_no_point():
    low, high = score_interval([0.0], [7.0], is_share=True)
    assert (low, high) == pytest.approx((0, 0.7935), abs=1e-4)
    assert score_interval([3.0, 0.0], [0.0, 0.0], is_share=True)[1] > 0
    mixed = [1.0, 0.0, 2.0], [7.0, 5.0, 6.0]
    assert score_interval(*mixed, is_share=True) == bootstrap_interval(*mixed)
    assert score_interval([9.0], [4.0], is_share=False) == (2.25, 2.25)


def test_results_stand_beside_published_ones():
    samples = [Sample(str(index), (), "yes") for index in range(4)]
    answers = [{"id": sample.id, "prediction": "yes" if sample.id != "0" else "no"} for sample in samples]
    records = score_records(TASKS["gqa"], samples, answers, "gqa")
    settings = {"data": "gqa", "split": None, "model": "mine", "adapter": None, "media": None}
    results = summarize_run(TASKS["gqa"], Run(records, 1.0, 0), "gqa", settings, skip_unreadable=False)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(results_table(results, "mine"))
    shown = console.export_text()
    assert "75.00" in shown and "this run" in shown
    assert TASKS["gqa"].published
    for figure in TASKS["gqa"].published:
        assert figure.model in shown and f"{figure.value:.2f}" in shown and figure.source in shown


def test_errors_are_drawn_by_the_length_of_clips(tmp_path):
    pytest.importorskip("matplotlib")
    records = [{"seconds": 1.0 + index, "points": index, "out_of": 4} for index in range(4)]
    path = plot_errors_by_length(records, "wer", tmp_path / "errors.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_errors_by_length(records[:1], "wer", tmp_path / "one.png") is None


def test_the_list_names_every_task(capsys):
    assert main(["evaluate", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "mmmu: college exams about one or several pictures (MMMU)" in listed
    assert "splits val2014, train2014, test-dev2015, test2015" in listed


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("MODEL",), "MODEL, TASK and --data are needed"),
        (("MODEL", "vqa3", "--data", "DATA"), "unknown task 'vqa3'"),
        (("MODEL", "vqa", "--data", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("MODEL", "vqa", "--data", "DATA", "--rule", "kind"), "Unknown rule 'kind'"),
        (("MODEL", "vqa", "--data", "DATA", "--split", "val"), "vqa has no split 'val'"),
        (("MODEL", "vqa", "--data", "DATA", "--prompt", "why?"), "--prompt is for clips"),
        (("TEXT", "vqa", "--data", "DATA"), "the model has no vision encoder, which vqa needs; it can be asked bpc"),
        (("TEXT", "asr", "--data", "DATA"), "the model has no audio encoder, which asr needs; it can be asked bpc"),
        *(
            (
                ("MODEL", task, "--data", "DATA", "--media", "DATA"),
                f"--media is for pictures or clips .* {task} takes all",
            )
            for task in ("mmbench", "mmmu", "bpc", "librispeech-clean")
        ),
        (("./nothing", "vqa", "--data", "DATA"), "./nothing: no such model folder"),
    ],
)
def test_bad_input_is_refused_in_one_line(model, questions, tmp_path, capsys, argv, complaint):
    names = {"MODEL": model, "DATA": questions}
    if "TEXT" in argv:
        names["TEXT"] = save_text_model(tmp_path / "text")
    assert re.search(complaint, refusal(capsys, *(names.get(word, word) for word in argv)))

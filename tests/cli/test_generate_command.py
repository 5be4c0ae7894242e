# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7-world generate`: help, options, refusals that need no weights, and quiet ends of the process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from rwkv7_world.cli import generate
from rwkv7_world.cli.main import build_parser, main


SAMPLE_RATE = 16_000


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # noise, so that it stays large
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.zeros(SAMPLE_RATE, dtype=np.float32), SAMPLE_RATE)
    return path


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A folder with the configuration of a model that has neither a vision nor an audio encoder, and no weights."""
    folder = tmp_path / "text_model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    return folder


@pytest.fixture
def talking_model(tmp_path: Path) -> Path:
    """A folder with a small text model of another family, random weights and seven words, none of which ends it."""
    folder = tmp_path / "talking_model"
    words = ["<unk>", "red", "green", "blue", "one", "two", "three"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Runs `generate` with `argv`, checks that it refuses in exactly one line, and returns that line's message."""
    try:
        status = main(["generate", *map(str, argv)])
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.endswith("\n") and err.count("\n") == 1
    prefix = "rwkv7-world: error: "
    assert err.startswith(prefix)
    return err[len(prefix) :].strip()


@pytest.mark.parametrize("argv", [["--help"], ["generate", "--help"]])
def test_help_ends_with_an_example(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 0
    *_, last_line = capsys.readouterr().out.strip().splitlines()
    assert last_line.startswith("  rwkv7-world ")


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "rwkv7-world: error: the following arguments are required: COMMAND (see rwkv7-world --help)\n"
    )


def test_pictures_and_clips_can_be_given_more_than_once() -> None:
    args = build_parser().parse_args(
        ["generate", "m", "q", "--image", "a.png", "--audio", "b.wav", "--image", "c.png", "--audio", "d.wav"]
    )
    assert args.image == [Path("a.png"), Path("c.png")]
    assert args.audio == [Path("b.wav"), Path("d.wav")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"do_sample": False}),
        (["--temperature", "0"], {"do_sample": False}),
        (["--temperature", "0", "--top-p", "0.5"], {"do_sample": False}),
        (["--temperature", "0.7"], {"do_sample": True, "temperature": 0.7}),
        (["--top-p", "0.5"], {"do_sample": True, "top_p": 0.5}),
    ],
)
def test_sampling_is_greedy_unless_asked_for(options: list[str], expected: dict) -> None:
    assert generate._sampling(build_parser().parse_args(["generate", "m", "q", *options])) == expected


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--max-new-tokens", "0"], "argument --max-new-tokens: '0' is not a whole number of at least 1"),
        (["--max-new-tokens", "many"], "argument --max-new-tokens: 'many' is not a whole number of at least 1"),
        (["--temperature", "-1"], "argument --temperature: '-1' is not a number of at least 0"),
        (["--temperature", "nan"], "argument --temperature: 'nan' is not a number of at least 0"),
        (["--top-p", "1.5"], "argument --top-p: '1.5' is not a number above 0 and at most 1"),
        (["--dtype", "int3"], "argument --dtype: invalid choice: 'int3'"),
        (["--imgae", "x.png"], "unrecognized arguments: --imgae x.png"),
    ],
)
def test_wrong_options_are_refused(options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "model", "question", *options).startswith(complaint)


def test_an_empty_question_is_refused(text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, text_model, " ") == "the question is empty"


def test_an_unknown_backend_is_refused(text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "backend 'warp'" in refusal(capsys, text_model, "Hello?", "--backend", "warp")


def test_an_unknown_backend_in_the_environment_is_refused(
    text_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWKV7_BACKEND", "warp")
    assert "backend 'warp'" in refusal(capsys, text_model, "Hello?")


def test_the_backend_option_leaves_the_environment_as_it_was(
    text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RWKV7_BACKEND", raising=False)
    main(["generate", str(text_model), "Hello?", "--backend", "reference"])
    assert "RWKV7_BACKEND" not in os.environ
    monkeypatch.setenv("RWKV7_BACKEND", "chunked")
    main(["generate", str(text_model), "Hello?", "--backend", "reference"])
    assert os.environ["RWKV7_BACKEND"] == "chunked"


@pytest.mark.parametrize("device", ["toaster", "cuda:999"])
def test_an_unknown_device_is_refused(device: str, text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, text_model, "Hello?", "--device", device)
    assert message.startswith(f"device {device} cannot be used here (")


@pytest.mark.parametrize("model", ["./nowhere", "no/such/folder", "/no/such/folder", "nowhere/"])
def test_a_missing_model_folder_is_named(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, model, "Hello?") == f"{model}: no such model folder"


def test_a_missing_folder_in_an_existing_one_is_not_sought_on_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert refusal(capsys, "models/nowhere", "Hello?") == "models/nowhere: no such model folder"


def test_a_folder_without_configuration_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, tmp_path, "Hello?") == f"{tmp_path}: not a model folder, it holds no config.json"


def test_a_damaged_configuration_is_refused(text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text_model / "config.json").write_text('{"model_type": ')
    assert str(text_model / "config.json") in refusal(capsys, text_model, "Hello?")


def test_an_unknown_model_type_is_refused(text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text_model / "config.json").write_text('{"model_type": "abacus"}')
    assert "abacus" in refusal(capsys, text_model, "Hello?")


@pytest.mark.parametrize("option", ["--image", "--audio"])
def test_a_missing_file_is_named(
    option: str, tmp_path: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing"
    assert refusal(capsys, text_model, "What?", option, path) == f"{path}: no such file"


@pytest.mark.parametrize("option", ["--image", "--audio"])
def test_a_folder_is_no_file(
    option: str, tmp_path: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, text_model, "What?", option, tmp_path) == f"{tmp_path}: not a file"


def test_bytes_that_are_no_picture_are_refused(
    picture: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.write_bytes(b"this is no picture")
    message = refusal(capsys, text_model, "What?", "--image", picture)
    assert message.startswith(f"{picture}: not a picture that can be read (")


def test_a_picture_that_breaks_off_is_refused(
    picture: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    message = refusal(capsys, text_model, "What?", "--image", picture)
    assert message.startswith(f"{picture}: not a picture that can be read (")


@pytest.mark.parametrize("content", [b"", b"this is no clip"])
def test_bytes_that_are_no_clip_are_refused(
    content: bytes, clip: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip.write_bytes(content)
    message = refusal(capsys, text_model, "What?", "--audio", clip)
    assert message.startswith(f"{clip}: not a clip that can be read (")


def test_a_clip_without_samples_is_refused(clip: Path, text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(clip, np.zeros(0, dtype=np.float32), SAMPLE_RATE)
    assert refusal(capsys, text_model, "What?", "--audio", clip) == f"{clip}: the clip is empty"


def test_a_picture_for_a_model_without_eyes_is_refused(
    picture: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, text_model, "What?", "--image", picture)
    assert message == f"{text_model}: the model has no vision encoder, but was given {picture}"


def test_a_clip_for_a_model_without_ears_is_refused(
    clip: Path, text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, text_model, "What?", "--audio", clip)
    assert message == f"{text_model}: the model has no audio encoder, but was given {clip}"


def test_the_answer_is_the_same_whether_streamed_or_not(
    talking_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", str(talking_model), "red green", "--max-new-tokens", "5", "--dtype", "float32"]
    assert main(argv) == 0
    streamed, err = capfd.readouterr()
    assert main([*argv, "--no-stream"]) == 0
    assert capfd.readouterr().out == streamed
    assert 1 <= len(streamed.split()) <= 5  # the unknown word is special and not shown
    assert err == ""


def test_only_our_models_are_quantised(talking_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, talking_model, "red", "--quantize", "int8")
    assert "LlamaForCausalLM has no layers of RWKV-7" in message


def test_missing_weights_are_refused(talking_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(talking_model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, talking_model / "model.safetensors", metadata={"format": "pt"})
    message = refusal(capsys, talking_model, "red")
    assert message == f"{talking_model}: weights are missing, 1 in all: model.norm.weight"


def test_files_are_checked_before_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "missing.png"
    assert refusal(capsys, "./nowhere", "What?", "--image", path) == f"{path}: no such file"


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path), "Hello?", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.splitlines()[-1].startswith("rwkv7-world: error: ")


def test_an_unforeseen_error_is_one_line_too(
    text_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_) -> None:
        raise KeyError("\n\nfirst line\nsecond line")

    monkeypatch.setattr(generate, "load_config", fail)
    assert refusal(capsys, text_model, "Hello?").startswith("KeyError: ")


def test_interrupting_returns_130(
    text_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "load_config", interrupt)
    assert main(["generate", str(text_model), "Hello?"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rwkv7_world.cli.main", "generate", "--help"]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Every benchmark is read from its official files, asked as the originals ask it, and scored by its rule."""

import base64
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from helpers.composites import SAMPLING_RATE, random_clip, random_image
from rwkv7_world.evaluation.tasks import TASKS, DataOptions, Sample, find_task


SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    random_image(seed).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content) -> Path:
    """JSON, lines of JSON from a list given in a tuple, text or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, tuple):
        path.write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def clip(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, random_clip(), SAMPLING_RATE)
    return path


def people(answer: str) -> list[dict]:
    return [{"answer": answer, "answer_id": number} for number in range(1, 11)]


def read(name: str, path: Path, **options) -> list[Sample]:
    samples = TASKS[name].samples(DataOptions(path, **options))
    for sample in samples:
        for medium in sample.media:
            assert isinstance(medium, bytes) or Path(medium).is_file(), medium
    return samples


def points(name: str, sample: Sample, prediction: str, rule: str | None = None) -> float:
    return float(TASKS[name].score(prediction, sample, rule or TASKS[name].rule).points)


def records(name: str, samples: list[Sample], predictions: list[str]) -> list[dict]:
    made = []
    for sample, prediction in zip(samples, predictions, strict=True):
        score = TASKS[name].score(prediction, sample, TASKS[name].rule)
        shares = {"points": float(score.points), "out_of": float(score.out_of)}
        made.append(
            {"id": sample.id, "prediction": prediction, "reference": sample.reference, **sample.details, **shares}
        )
    return made


def test_librispeech_folder(tmp_path):
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "1089" / "134686"
    write(chapter / "1089-134686.trans.txt", "1089-134686-0000 HE HOPED\n1089-134686-0001 STUFF IT\n")
    for number in range(2):
        clip(chapter / f"1089-134686-000{number}.flac")
    samples = read("librispeech-clean", tmp_path)
    assert [(sample.id, sample.prompt, sample.reference) for sample in samples] == [
        ("1089-134686-0000", "<audio>", "HE HOPED"),
        ("1089-134686-0001", "<audio>", "STUFF IT"),
    ]
    scores = TASKS["librispeech-clean"].summarize(
        records("librispeech-clean", samples, ["he hoped", "stuff"]), "whisper_english"
    )
    assert scores["wer"] == pytest.approx(1 / 4)
    assert scores["wer (lower)"] == scores["wer"]


@pytest.mark.parametrize("saved_as", ["save_to_disk", "parquet"])
def test_librispeech_as_a_stored_set(tmp_path, saved_as):
    folder = tmp_path / "stored"
    path = clip(folder / "clip.wav")
    rows = {"id": ["a"], "audio": [str(path)], "text": ["HE HOPED"]}
    stored = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    if saved_as == "parquet":
        stored.to_parquet(folder / "test-00000.parquet")
    else:
        stored.save_to_disk(folder)
    (sample,) = read("librispeech-other", folder)
    assert (sample.id, sample.reference) == ("a", "HE HOPED")


def test_aishell_folder_leaves_out_clips_without_transcript(tmp_path):
    root = tmp_path / "data_aishell"
    write(root / "transcript" / "aishell_transcript_v0.8.txt", "BAC009S0764W0121 甚至 出现 交易\n")
    for name in ("BAC009S0764W0121", "BAC009S0764W0122"):
        clip(root / "wav" / "test" / "S0764" / f"{name}.wav")
    (sample,) = read("aishell1", tmp_path)
    assert sample.reference == "甚至出现交易"
    assert TASKS["aishell1"].score("甚至出现交换。", sample, "chinese").points == 1
    assert TASKS["aishell1"].score("甚至出现交换。", sample, "chinese").out_of == 6


def test_common_voice_folder_keeps_lone_quotes(tmp_path):
    clip(tmp_path / "clips" / "common_voice_en_1.mp3.wav")
    write(tmp_path / "test.tsv", 'client_id\tpath\tsentence\nx\tcommon_voice_en_1.mp3.wav\tsay "ah\n')
    (sample,) = read("common-voice", tmp_path)
    assert sample.reference == 'say "ah'


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_manifest_with_a_prompt(tmp_path, suffix):
    clip(tmp_path / "a.wav")
    separator = "\t" if suffix == "tsv" else ","
    lines = ({"audio": "a.wav", "text": "one two"},)
    table = f"audio{separator}text\na.wav{separator}one two\n"
    path = write(tmp_path / f"clips.{suffix}", lines if suffix == "jsonl" else table)
    (sample,) = read("asr", path, prompt="what is said?")
    assert (sample.prompt, sample.reference) == ("<audio>what is said?", "one two")


def vqav2_folder(root: Path) -> Path:
    questions = [{"image_id": 42, "question": "What is it?", "question_id": 42000}]
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    write(root / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    more = [*questions, {"image_id": 43, "question": "Why?", "question_id": 43000}]
    write(root / "v2_OpenEnded_mscoco_test2015_questions.json", {"questions": more})
    write(
        root / "v2_mscoco_val2014_annotations.json",
        {"annotations": [{"question_id": 42000, "answers": people("2")}]},
    )
    write(root / "val2014" / "COCO_val2014_000000000042.jpg", png())
    write(root / "test2015" / "COCO_test2015_000000000042.jpg", png())
    return root


def test_vqav2(tmp_path):
    (sample,) = read("vqav2", vqav2_folder(tmp_path))
    assert sample.prompt == f"<image>What is it?\n{SHORT}"
    assert points("vqav2", sample, " Two.") == 1
    assert points("vqav2", sample, "<think>two dogs</think><answer>2</answer>") == 1


def test_vqav2_answers_for_evalai_name_every_question_of_the_test_set(tmp_path):
    options = DataOptions(vqav2_folder(tmp_path), split="test-dev2015")
    (sample,) = TASKS["vqav2"].read(options)
    assert sample.reference is None
    path = TASKS["vqav2"].submission([{"id": sample.id, "prediction": "The Dog."}], options, tmp_path)
    assert json.loads(path.read_text()) == [
        {"question_id": 42000, "answer": "dog"},
        {"question_id": 43000, "answer": ""},
    ]


def test_textvqa_with_and_without_ocr_prompts(tmp_path):
    entry = {"question": "What Brand?", "image_id": "0054c91", "question_id": 3, "answers": ["nokia"] * 10}
    write(tmp_path / "TextVQA_0.5.1_val.json", {"data": [entry]})
    write(tmp_path / "train_images" / "0054c91.jpg", png())
    (sample,) = read("textvqa", tmp_path)
    assert sample.prompt == f"<image>What Brand?\n{SHORT}"
    prompt = f"what brand?\nReference OCR token: NOKIA\n{SHORT}"
    line = {"question_id": "0054c91", "image": "0054c91.jpg", "text": prompt, "category": "default"}
    write(tmp_path / "llava_textvqa_val_v051_ocr.jsonl", (line,))
    (sample,) = read("textvqa", tmp_path)
    assert sample.prompt == f"<image>{prompt}"
    assert points("textvqa", sample, "Nokia") == 1


def test_gqa(tmp_path):
    question = {"imageId": "n1", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}}
    write(tmp_path / "testdev_balanced_questions.json", {"201": question, "202": question | {"answer": "no"}})
    write(tmp_path / "images" / "n1.jpg", png())
    samples = read("gqa", tmp_path)
    assert samples[0].prompt == f"<image>Is it red?\n{SHORT}"
    scores = TASKS["gqa"].summarize(records("gqa", samples, ["Yes.", "yes"]), "gqa")
    assert scores == {"accuracy": 0.5, "accuracy (verify)": 0.5}


def test_scienceqa_with_and_without_pictures(tmp_path):
    problem = {"choices": ["iron", "wood"], "answer": 1}
    write(tmp_path / "problems.json", {"4": problem, "5": problem})
    turns = [{"from": "human", "value": "<image>\nWhich burns?\nOptions: (A) iron (B) wood"}]
    with_picture = {"id": "4", "image": "4/image.png", "conversations": turns}
    write(tmp_path / "llava_test_CQM-A.json", [with_picture, {"id": "5", "conversations": turns}])
    write(tmp_path / "images" / "test" / "4" / "image.png", png())
    samples = read("scienceqa", tmp_path)
    assert [sample.prompt for sample in samples] == [
        f"{mark}Which burns?\nOptions: (A) iron (B) wood\n{LETTER}" for mark in ("<image>", "")
    ]
    scores = TASKS["scienceqa"].summarize(records("scienceqa", samples, ["B", "wood"]), "scienceqa")
    assert scores == {"image_accuracy": 1.0, "accuracy": 0.5}


def test_pope_by_category(tmp_path):
    for category, label in (("random", "yes"), ("popular", "no"), ("adversarial", "no")):
        line = {
            "question_id": 1,
            "image": "COCO_val2014_1.jpg",
            "text": "Is there a dog in the image?",
            "label": label,
        }
        write(tmp_path / f"coco_pope_{category}.json", (line, line | {"question_id": 2}))
    write(tmp_path / "val2014" / "COCO_val2014_1.jpg", png())
    samples = read("pope", tmp_path)
    scores = TASKS["pope"].summarize(records("pope", samples, ["yes", "No, not", "no", "yes", "no", "no"]), "pope")
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["recall (random)"] == 0.5
    assert scores["accuracy (adversarial)"] == 1
    assert points("pope", samples[0], TASKS["pope"].failed(samples[0])) == 0


def test_vizwiz_and_its_file_for_evalai(tmp_path):
    entry = {"image": "VizWiz_val_0.jpg", "question": "What?", "answers": people("can"), "answer_type": "other"}
    write(tmp_path / "Annotations" / "val.json", [entry])
    write(tmp_path / "val" / "VizWiz_val_0.jpg", png())
    (sample,) = read("vizwiz", tmp_path)
    unanswerable = "When the provided information is insufficient, respond with 'Unanswerable'."
    assert sample.prompt == f"<image>What?\n{unanswerable}\n{SHORT}"
    path = TASKS["vizwiz"].submission([{"id": sample.id, "prediction": "A can."}], DataOptions(tmp_path), tmp_path)
    assert json.loads(path.read_text()) == [{"image": "VizWiz_val_0.jpg", "answer": "can"}]


def test_mmbench_asks_every_order_and_shares_pictures(tmp_path):
    header = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    picture = base64.b64encode(png()).decode()
    rows = f"7\tWhich?\tA fact.\tcat\tdog\t\t\tB\tanimals\t{picture}\n1000007\tWhich?\t\tdog\tcat\t\t\tA\tanimals\t7\n"
    samples = read("mmbench", write(tmp_path / "dev.tsv", header + rows))
    select = "Please select the correct answer from the options above."
    assert samples[0].prompt == f"<image>Hint: A fact.\nQuestion: Which?\nOptions:\nA. cat\nB. dog\n{select}"
    assert samples[1].media == samples[0].media == [png()]
    scores = TASKS["mmbench"].summarize(records("mmbench", samples, ["B", "B. cat"]), "mmbench")
    assert (scores["accuracy"], scores["circular_accuracy"]) == (0.5, 0.0)


def test_mmbench_in_chinese_asks_for_the_letter(tmp_path):
    picture = base64.b64encode(png()).decode()
    path = write(tmp_path / "cn.tsv", f"index\tquestion\tA\tB\tanswer\timage\n1\t哪个?\t猫\t狗\tA\t{picture}\n")
    (sample,) = read("mmbench", path)
    assert sample.prompt.endswith("\n请直接回答选项字母。")


def test_mmmu_shows_several_pictures_where_they_are_mentioned(tmp_path):
    rows = {
        "id": ["validation_Art_1", "validation_Art_2"],
        "question": ["<image 1> beside <image 2>?", "How many in <image 1>?"],
        "options": ["['<image 2>', 'none']", "[]"],
        "answer": ["A", "['3', '3.0']"],
        "question_type": ["multiple-choice", "open"],
        "image_1": [{"bytes": png(1), "path": None}] * 2,
        "image_2": [{"bytes": png(2), "path": None}, None],
    }
    features = datasets.Dataset.from_dict(rows)
    for column in ("image_1", "image_2"):
        features = features.cast_column(column, datasets.Image(decode=False))
    (tmp_path / "Art").mkdir()
    features.to_parquet(tmp_path / "Art" / "validation-00000-of-00001.parquet")
    samples = read("mmmu", tmp_path)
    assert samples[0].media == [png(1), png(2), png(2)]
    assert samples[0].prompt.startswith("Question: <image> beside <image>?\nOptions:\nA. <image>\nB. none\n")
    assert points("mmmu", samples[0], "(A)") == 1
    assert points("mmmu", samples[1], "3.0") == 1
    assert points("mmmu", samples[1], "There are 4, so the answer is 3.") == 1
    assert points("mmmu", samples[1], "4") == 0
    assert points("mmmu", samples[1], "so it is 3", rule="strict") == 0
    assert samples[0].details["category"] == "Art"


@pytest.mark.parametrize(
    "record",
    [
        {"image": "a.png", "text": "what?", "answer": "red"},
        {"image": "a.png", "text": "what?", "answers": ["red", "rose"]},
        {"image": "a.png", "conversations": [{"value": "<image>\nwhat?"}, {"value": "red"}]},
    ],
)
def test_pictures_of_your_own(tmp_path, record):
    write(tmp_path / "a.png", png())
    (sample,) = read("vqa", write(tmp_path / "mine.jsonl", (record,)))
    assert sample.prompt == "<image>what?"
    assert points("vqa", sample, "Red.") == 1
    assert points("vqa", sample, "rose") == float("answers" in record)


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl"])
def test_texts_for_bits_per_character(tmp_path, name):
    path = write(tmp_path / name, "é" if name.endswith("txt") else ({"text": "é"},))
    (sample,) = read("bpc", path)
    scores = TASKS["bpc"].summarize(records("bpc", [sample], [repr(float(np.log(4)))]), "none")
    assert scores == pytest.approx({"bits_per_character": 2.0, "bits_per_byte": 1.0})


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("bpc", "vqa", "asr", "mmbench")])
def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path, name):
    with pytest.raises((FileNotFoundError, ValueError), match=f"{name} expects .*") as refused:
        TASKS[name].read(DataOptions(tmp_path))
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", TASKS)
def test_a_path_that_does_not_exist_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        TASKS[name].read(DataOptions(tmp_path / "nowhere"))


@pytest.fixture
def private(tmp_path) -> Path:
    """A picture of the user's that is no part of any data."""
    return write(tmp_path / "home" / "private.png", png())


def naming(task: str, folder: Path, name: str) -> Path:
    """Data of a task whose only sample has a medium of that name."""
    if task == "pope":
        line = {"question_id": 1, "image": name, "text": "Is it red?", "label": "yes"}
        for category in ("random", "popular", "adversarial"):
            write(folder / f"coco_pope_{category}.json", (line,))
        (folder / "val2014").mkdir(exist_ok=True)
    elif task == "vizwiz":
        (folder / "val").mkdir(parents=True, exist_ok=True)
        write(folder / "val.json", [{"image": name, "question": "?"}])
    elif task == "scienceqa":
        turns = [{"from": "human", "value": "?"}]
        write(folder / "problems.json", {"1": {"choices": ["a", "b"], "answer": 0}})
        write(folder / "llava_test_CQM-A.json", [{"id": "1", "image": name, "conversations": turns}])
        (folder / "images" / "test").mkdir(parents=True, exist_ok=True)
    elif task == "gqa":
        question = {"imageId": name.removesuffix(".jpg"), "question": "?", "answer": "a"}
        write(folder / "testdev_balanced_questions.json", {"1": question})
        (folder / "images").mkdir(exist_ok=True)
    elif task == "common-voice":
        write(folder / "test.tsv", f"path\tsentence\n{name}\tred\n")
    elif task == "librispeech-clean":
        write(folder / "1.trans.txt", f"{name.removesuffix('.flac')} RED\n")
    elif task == "mmmu":
        row = {"id": "test_Art_1", "question": "<image 1>?", "options": "[]", "answer": "a", "question_type": "open"}
        datasets.Dataset.from_list([row | {"image_1": {"bytes": None, "path": name}}]).save_to_disk(str(folder))
    elif task == "asr":
        return write(folder / "clips.jsonl", ({"audio": name, "text": "red"},))
    else:
        return write(folder / "questions.jsonl", ({"image": name, "text": "?", "answer": "red"},))
    return folder


PUBLISHED = ["pope", "vizwiz", "scienceqa", "gqa", "common-voice", "librispeech-clean", "mmmu"]
SUFFIXES = {"gqa": "jpg", "librispeech-clean": "flac"}  # that the task puts behind a name


@pytest.mark.parametrize("written", ["absolute", "upwards"])
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_data_names_no_file_of_this_machine(private, tmp_path, monkeypatch, task, written):
    private = private.rename(private.with_suffix("." + SUFFIXES.get(task, "png")))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    depth = {"scienceqa": 3, "pope": 2, "vizwiz": 2, "gqa": 2}.get(task, 1)
    name = str(private) if written == "absolute" else "../" * depth + f"home/{private.name}"
    data = naming(task, tmp_path / "data", name)
    with pytest.raises(ValueError, match=rf"names .*{private.name}, a file of this machine that did not come with"):
        TASKS[task].samples(DataOptions(data))


@pytest.mark.parametrize("task", ["pope", "vizwiz", "scienceqa", "gqa", "common-voice"])
def test_the_media_folder_given_is_where_media_of_published_data_lie(private, tmp_path, task):
    private = private.rename(private.with_suffix("." + SUFFIXES.get(task, "png")))
    (tmp_path / "data").mkdir()
    data = naming(task, tmp_path / "data", str(private))
    sample = TASKS[task].samples(DataOptions(data, media_folder=private.parent))[0]
    assert sample.media == [str(private)]


def test_folders_of_published_data_may_be_links_but_names_do_not_climb_out_of_them(private, tmp_path):
    data = tmp_path / "data"
    (data / "val2014").parent.mkdir()
    (data / "val2014").symlink_to(private.parent)
    naming("pope", data, "private.png")
    assert Path(TASKS["pope"].samples(DataOptions(data))[0].media[0]).samefile(private)
    write(tmp_path / "beside.png", png())
    naming("pope", data, "../beside.png")
    with pytest.raises(ValueError, match="beside.png, a file of this machine"):
        TASKS["pope"].samples(DataOptions(data))


@pytest.mark.parametrize("task", ["asr", "vqa"])
def test_data_of_ones_own_leads_anywhere_unless_it_lies_in_the_cache_of_the_hub(private, tmp_path, monkeypatch, task):
    for name in (str(private), "../home/private.png"):
        (sample,) = TASKS[task].samples(DataOptions(naming(task, tmp_path / "data", name)))
        assert Path(sample.media[0]).samefile(private)
        data = naming(task, tmp_path / "cache", name)
        with monkeypatch.context() as patched:
            patched.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
            with pytest.raises(ValueError, match="did not come with the data; --media"):
                TASKS[task].samples(DataOptions(data))


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown task 'vqa3', expected one of librispeech-clean"):
        find_task("vqa3")
    with pytest.raises(ValueError, match="gqa has no split 'train', it has testdev_balanced"):
        TASKS["gqa"].read(DataOptions(tmp_path, split="train"))


def test_a_broken_line_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"mine.jsonl:1: no question or no answer"):
        read("vqa", write(tmp_path / "mine.jsonl", ({"image": "a.png", "text": "what?"},)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_no_part_of_texts(tmp_path, encoding):
    (tmp_path / "text.txt").write_text("é", encoding=encoding)
    assert read("bpc", tmp_path / "text.txt")[0].reference == "é"
    folder = tmp_path / "test-clean/1/2"
    folder.mkdir(parents=True)
    (folder / "1-2-0.flac").touch()
    (folder / "1-2.trans.txt").write_text("1-2-0 HELLO\n", encoding=encoding)
    assert [sample.id for sample in read("librispeech-clean", tmp_path)] == ["1-2-0"]


def test_a_text_of_another_encoding_is_named(tmp_path):
    (tmp_path / "text.txt").write_text("é", encoding="latin-1")
    with pytest.raises(ValueError, match=r"text.txt: neither UTF-8 nor UTF-16"):
        read("bpc", tmp_path / "text.txt")

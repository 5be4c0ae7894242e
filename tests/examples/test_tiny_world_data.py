"""The data of Tiny World: made from seeds alone, held out as claimed, and not to be answered without looking."""

import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("espeakng_loader")
pytest.importorskip("soxr")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "tiny_world"))

import make_data  # noqa: E402
import scenes  # noqa: E402
import speech  # noqa: E402


@pytest.fixture(scope="module")
def clips() -> dict[bool, list[speech.Clip]]:
    """held_out -> clips."""
    return {held_out: [speech.make_clip(seed, held_out) for seed in range(200)] for held_out in (False, True)}


@pytest.fixture(scope="module")
def layouts() -> dict[bool, list[tuple[list[scenes.Item], scenes.Question]]]:
    """held_out -> (items, the question of the family the layout was made for)."""
    made = {}
    for held_out in (False, True):
        made[held_out] = []
        for seed in range(2000):
            rng = np.random.default_rng([seed, held_out])
            family = scenes.FAMILIES[seed % len(scenes.FAMILIES)]
            items = scenes.make_items(rng, held_out, family)
            made[held_out].append((items, scenes.ask(items, family, rng)[0]))
    return made


@pytest.mark.parametrize("voice", ["en-us+f2", "en-us+m1"])  # f2 draws on espeak's random numbers, m1 on its counters
def test_speech_does_not_depend_on_what_was_spoken_before(voice):
    first = speech.speak("turn on the light", voice)
    speech.speak("seven zero three", "en+m4", rate=220)
    np.testing.assert_array_equal(first, speech.speak("turn on the light", voice))


def test_clip_depends_on_seed_and_split_alone(clips):
    for seed in (0, 5, 60):
        again = speech.make_clip(seed)
        assert again[1:] == clips[False][seed][1:]
        np.testing.assert_array_equal(again.samples, clips[False][seed].samples)
    first, other = speech.make_clip(0), speech.make_clip(1)
    assert first.samples.tobytes() != other.samples.tobytes()
    assert first.samples.tobytes() != clips[True][0].samples.tobytes()


def test_held_out_voices_have_no_variant_of_a_training_voice(clips):
    def variant(voice: str) -> str:
        return voice.partition("+")[2]

    assert not {variant(v) for v in speech.TRAIN_VOICES} & {variant(v) for v in speech.HELD_OUT_VOICES}
    assert {clip.voice for clip in clips[True]} == set(speech.HELD_OUT_VOICES)
    assert {clip.voice for clip in clips[False]} == set(speech.TRAIN_VOICES)


def test_clips_are_short_audible_and_in_vocabulary(clips):
    vocabulary = set(speech.words())
    assert 60 <= len(vocabulary) <= 80
    for clip in clips[False] + clips[True]:
        assert clip.samples.dtype == np.int16 and clip.samples.ndim == 1
        assert 0.2 <= len(clip.samples) / speech.SAMPLE_RATE <= speech.MAX_SECONDS
        assert np.sqrt(np.mean(clip.samples.astype(np.float64) ** 2)) > 100
        spoken = clip.text.split(" ")
        assert 1 <= len(spoken) <= 6 and vocabulary.issuperset(spoken)


def test_every_word_of_the_grammar_is_spoken():
    rng = np.random.default_rng(0)
    counts = Counter(word for _ in range(12_000) for word in speech.make_phrase(rng).split())
    assert set(counts) == set(speech.words())
    assert min(counts.values()) >= 40, counts.most_common()[-5:]


def test_voices_sound_different():
    """The long-term spectra of any two voices differ by more than one voice's does between two speeds and pitches."""

    def spectrum(voice: str, **manner: int) -> np.ndarray:
        samples = speech.speak("open the left door seven zero three", voice, **manner)
        frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)  # (frames, 400)
        power = (np.abs(np.fft.rfft(frames, 512)) ** 2).mean(0)[:256].reshape(32, 8).sum(1)  # (32 bands,)
        decibels = 10 * np.log10(power + 1e-9)
        return decibels - decibels.mean()

    voices = speech.TRAIN_VOICES + speech.HELD_OUT_VOICES
    spectra = [spectrum(voice) for voice in voices]
    apart = [np.std(a - b) for i, a in enumerate(spectra) for b in spectra[:i]]
    within = [np.std(a - spectrum(voice, pitch=45, rate=190)) for voice, a in zip(voices, spectra, strict=True)]
    assert min(apart) > 0.5
    assert np.median(apart) > 4 * np.median(within)


@pytest.mark.parametrize("number, text", [(0, "zero"), (13, "thirteen"), (40, "forty"), (42, "forty two")])
def test_numbers_are_spelled(number, text):
    assert speech.spell_number(number) == text


@pytest.mark.parametrize("voice", ["en-us+nobody", "xx+m1"])
def test_unknown_voice_is_refused(voice):
    with pytest.raises(ValueError, match="espeak-ng has no"):
        speech.speak("stop", voice)


def test_scene_depends_on_seed_and_split_alone():
    picture, *texts = scenes.make_scene(7)
    again, *same_texts = scenes.make_scene(7)
    assert picture.size == (64, 64) and picture.mode == "RGB"
    assert picture.tobytes() == again.tobytes() and texts == same_texts
    assert picture.tobytes() != scenes.make_scene(8)[0].tobytes()
    assert picture.tobytes() != scenes.make_scene(7, held_out=True)[0].tobytes()


def test_held_out_scenes_are_described_by_no_training_scene(layouts):
    described = {held_out: {scenes.describe(items) for items, _ in layouts[held_out]} for held_out in layouts}
    assert not described[False] & described[True]
    # The bucket is told from the description alone, so no number of training scenes can change this.
    for items, _ in layouts[True]:
        assert scenes.is_held_out(items[::-1])


def answers_allowed_by(items: list[scenes.Item], question: str) -> set[str]:
    """Every answer that `items` could be said to give, worked out anew from the words of the question."""
    asked = question.rstrip("?").split()
    if "written" in asked:
        return {i.name for i in items}
    if "many" in asked:
        return {scenes.COUNTS[len(items) - 1]}
    if asked[:2] == ["what", "color"]:
        return {i.color for i in items if i.name == asked[-1]}
    if asked[-1] == "thing":
        return {i.name for i in items if i.color == asked[-2]}
    if asked[:2] == ["is", "there"]:
        return {"yes" if any(i.name == asked[-1] for i in items) else "no"}
    distance = {"left": lambda i: i.x, "right": lambda i: -i.x, "top": lambda i: i.y, "bottom": lambda i: -i.y}
    edge = min(distance[asked[-1]](i) for i in items)
    return {i.name for i in items if distance[asked[-1]](i) < edge + scenes.CLEAR_MARGIN}


def test_every_question_has_one_answer(layouts):
    for items, _ in layouts[False] + layouts[True]:
        for asked in sum((scenes.ask(items, family, np.random.default_rng(0)) for family in scenes.FAMILIES), []):
            assert answers_allowed_by(items, asked.question) == {asked.answer}, (items, asked)


def test_caption_tells_each_quarter_in_reading_order():
    ring, star = scenes.Item("ring", "red", 15, 47, 20), scenes.Item("star", "blue", 48, 17, 22)
    assert scenes.caption([ring, star]) == "nothing, blue star, red ring, nothing"
    assert scenes.caption([scenes.Item("cat", "white", 32, 31, 20)]) == "white cat"


def test_caption_holds_every_thing_once(layouts):
    for items, _ in layouts[False]:
        parts = [part for part in scenes.caption(items).split(", ") if part != scenes.NOTHING]
        assert sorted(parts) == sorted(f"{item.color} {item.name}" for item in items)


def test_shapes_are_whole_and_apart(layouts):
    for items, question in layouts[False]:
        if question.family == "word":
            continue
        for n, item in enumerate(items):
            assert item.size >= 12
            assert item.size / 2 <= min(item.x, item.y) and max(item.x, item.y) <= scenes.SIDE - item.size / 2
            for other in items[:n]:
                assert max(abs(item.x - other.x), abs(item.y - other.y)) > (item.size + other.size) / 2


def test_things_are_seen_in_their_color():
    """The pixels within a shape, and some of every word, are close to its color despite the noise."""
    for seed in range(60):
        items = scenes.make_items(np.random.default_rng(seed), False, scenes.FAMILIES[seed % len(scenes.FAMILIES)])
        pixels = np.asarray(scenes.draw(items, np.random.default_rng(seed)), dtype=float)
        for item in items:
            near = pixels[max(item.y - 12, 0) : item.y + 12, max(item.x - 12, 0) : item.x + 12].reshape(-1, 3)
            assert (np.abs(near - scenes.COLORS[item.color]).max(1) < 40).sum() >= 20, (seed, item)


@pytest.mark.parametrize("held_out", [False, True])
def test_guessing_from_the_question_alone_is_weak(layouts, held_out):
    """The most frequent answer to each question, known in hindsight, is right in less than 60 % of any family."""
    tally = defaultdict(Counter)
    for _, question in layouts[held_out]:
        tally[question.family, question.question][question.answer] += 1
    for family in scenes.FAMILIES:
        answers = [counts for (of, _), counts in tally.items() if of == family]
        guessed = sum(max(counts.values()) for counts in answers) / sum(sum(counts.values()) for counts in answers)
        assert guessed < 0.6, family


def test_vocabulary_holds_every_word(clips, layouts):
    vocabulary = make_data.vocabulary_words()
    assert len(vocabulary) == len(set(vocabulary)) and "?" in vocabulary
    texts = [clip.text for held_out in clips for clip in clips[held_out]]
    for held_out in layouts:
        texts += [f"{q.question.replace('?', ' ?')} {q.answer}" for _, q in layouts[held_out]]
        texts += [scenes.caption(items).replace(",", " ,") for items, _ in layouts[held_out]]
    texts.append(scenes.CAPTION_QUESTION.replace("?", " ?"))
    assert set(" ".join(texts).split()) <= set(vocabulary)
    assert {word for word in scenes.words() if word not in " ".join(texts).split()} == set()


def test_command_writes_the_four_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    counts = ["--train-clips", "6", "--test-clips", "4", "--train-scenes", "8", "--test-scenes", "6"]
    make_data.main([str(tmp_path / "data"), *counts, "--seed", "3", "--processes", "1"])

    made = {path.name: datasets.load_from_disk(path) for path in (tmp_path / "data").iterdir() if path.is_dir()}
    assert {name: len(rows) for name, rows in made.items()} == {
        "speech_train": 6,
        "speech_test": 4,
        "scenes_train": 8,
        "scenes_test": 6,
    }
    # Rows made in another process are those made here.
    clip = speech.make_clip(3 * make_data.SEEDS_A_RUN + 5)
    assert made["speech_train"][5] == {
        "audio": clip.samples.tobytes(),
        "text": clip.text,
        "voice": clip.voice,
        "difficulty": len(clip.text.split()),
    }
    assert Counter(made["scenes_test"]["family"]) == Counter(scenes.FAMILIES)
    (tmp_path / "picture.png").write_bytes(made["scenes_test"][0]["image"])
    picture, questions, caption = scenes.make_scene(3 * make_data.SEEDS_A_RUN, True, scenes.FAMILIES[0])
    assert made["scenes_test"][0]["answers"] == [question.answer for question in questions]
    assert made["scenes_test"][0]["caption"] == caption
    _, questions, caption = scenes.make_scene(3 * make_data.SEEDS_A_RUN, False, scenes.FAMILIES[0])
    assert made["scenes_train"][0]["questions"] == [question.question for question in questions]
    assert made["scenes_train"][0]["difficulty"] == 4 - caption.count(scenes.NOTHING)
    assert Image.open(tmp_path / "picture.png").tobytes() == picture.tobytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "required: OUT"),
        (["{folder}/new", "--train-clips", "many"], "expected a whole number from 1 to 10000000, got 'many'"),
        (["{folder}"], "is not empty"),
        (["{folder}/file"], "is a file"),
    ],
)
def test_command_refuses_bad_input_in_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        make_data.main([argument.format(folder=tmp_path) for argument in arguments])
    complaint = capsys.readouterr().err
    assert stop.value.code == 2 and message in complaint and complaint.count("\n") == 1

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics against jiwer, hand-worked cases, and what the official scripts gave for the same answers."""

import doctest
import multiprocessing

import evaluate
import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv7_world.evaluation.error_rates import character_error_rate, word_error_rate
from rwkv7_world.evaluation.exact_answers import matches
from rwkv7_world.evaluation.metric import METRICS, METRICS_FOLDER, load_metric
from rwkv7_world.evaluation.multiple_choice import chosen_option
from rwkv7_world.evaluation.open_answers import holds_answer
from rwkv7_world.evaluation.text_normalizers import get_normalizer
from rwkv7_world.evaluation.vqa_answers import evalai_answer, vqa_score


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


# An answer, those of people and how many gave each, and what VQA's vqaEval.py (c4e6a0e) printed for it
OFFICIAL_VQA_SCORES = [
    ("yes", {"yes": 10}, 1.0),
    ("Yes", {"yes": 10}, 1.0),
    ("Yes.", {"yes": 9, "no": 1}, 1.0),
    ("no", {"yes": 8, "no": 2}, 0.6),
    ("no", {"yes": 7, "no": 3}, 0.9),
    ("no", {"yes": 9, "no": 1}, 0.3),
    ("maybe", {"yes": 5, "no": 5}, 0.0),
    ("a dog", {"dog": 6, "puppy": 4}, 1.0),
    ("the dog", {"the dog": 10}, 0.0),
    ("an apple and the pear", {"apple and pear": 4, "fruit": 6}, 1.0),
    ("two", {"2": 10}, 1.0),
    ("Two", {"two": 5, "2": 5}, 1.0),
    ("none", {"0": 3, "none": 7}, 0.9),
    ("ten dollars", {"10 dollars": 4, "$10": 6}, 1.0),
    ("dont walk", {"don't walk": 6, "stop": 4}, 1.0),
    ("don't walk", {"dont walk": 6, "don't walk": 4}, 1.0),
    ("it's red", {"its red": 5, "it's red": 5}, 1.0),
    ("cant tell", {"can't tell": 10}, 1.0),
    ("red, white", {"red white": 4, "red, white": 3, "red and white": 3}, 1.0),
    ("red,white", {"red,white": 5, "red white": 5}, 1.0),
    ("red/white", {"red/white": 6, "red white": 4}, 1.0),
    ("1,000", {"1000": 6, "1,000": 4}, 1.0),
    ("$1,000!", {"$1000": 10}, 1.0),
    ("3.5", {"3.5": 8, "3.50": 2}, 1.0),
    ("end. of line", {"end of line": 10}, 1.0),
    ("7.", {"7": 10}, 1.0),
    ("u.s.a.", {"usa": 6, "u.s.a.": 4}, 1.0),
    ("t-shirt", {"t shirt": 5, "t-shirt": 5}, 1.0),
    ("(left)", {"left": 10}, 1.0),
    ("what?", {"what": 9, "who": 1}, 1.0),
    ("black & white", {"black & white": 4, "black and white": 6}, 1.0),
    ("stop\nsign", {"stop sign": 10}, 1.0),
    ("  cat  ", {"cat": 3, "cats": 7}, 0.9),
    ("one-way", {"one way": 5, "1 way": 5}, 1.0),
    ("Mickey Mouse", {"mickey mouse": 8, "mickey": 2}, 1.0),
    ("9:30", {"9:30": 6, "930": 4}, 1.0),
]


def people(answers: dict[str, int]) -> list[str]:
    return [answer for answer, count in answers.items() for _ in range(count)]


@pytest.mark.parametrize(("prediction", "answers", "score"), OFFICIAL_VQA_SCORES)
def test_vqa_scores_are_those_of_the_official_script(prediction, answers, score):
    assert vqa_score(prediction, people(answers)) == pytest.approx(score)


def test_the_metric_is_the_mean_of_the_scores():
    predictions = [prediction for prediction, _, _ in OFFICIAL_VQA_SCORES]
    references = [people(answers) for _, answers, _ in OFFICIAL_VQA_SCORES]
    mean = sum(score for _, _, score in OFFICIAL_VQA_SCORES) / len(OFFICIAL_VQA_SCORES)
    scores = load_metric("vqa_accuracy").compute(predictions=predictions, references=references)
    assert scores == {"vqa_accuracy": pytest.approx(mean)}


@pytest.mark.parametrize(
    ("answer", "processed"),
    [
        ("The dog's, bowl?", "dog 's bowl"),
        ("Two-way", "2 way"),
        ("dont\twalk", "don't walk"),
        ("1,000", "1000"),
        ("Coca-Cola.", "coca cola"),
    ],
)
def test_answers_for_evalai_are_processed_as_m4c_does(answer, processed):
    assert evalai_answer(answer) == processed


def test_textvqa_treats_people_as_it_treats_the_model():
    answers = ["the two dogs"] * 2 + ["cats"] * 8
    assert vqa_score("2 dogs", answers, "textvqa") == pytest.approx((2 / 3 * 8 + 1 / 3 * 2) / 10)
    assert vqa_score("2 dogs", answers) == 0


# --- Transcripts


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.text("ab ", max_size=12), st.text("ab ", min_size=1, max_size=12)), min_size=1, max_size=6
    )
)
def test_error_rates_are_those_of_jiwer(pairs):
    predictions, references = [heard for heard, _ in pairs], [f"{said.strip()} a" for _, said in pairs]
    words, characters = word_error_rate(predictions, references), character_error_rate(predictions, references)
    assert words["wer"] == pytest.approx(jiwer.wer(references, predictions))
    assert words["wer_macro"] == pytest.approx(sum(map(jiwer.wer, references, predictions)) / len(references))
    stripped = [text.strip() for text in references], [text.strip() for text in predictions]
    assert characters["cer"] == pytest.approx(jiwer.cer(*stripped))


def test_error_rates_by_hand():
    scores = word_error_rate(["the cat sat mat", "a b", "noise"], ["the cat sat on the mat", "a", ""])
    assert scores == {
        "wer": (2 + 1 + 1) / 7,  # two deleted, one inserted, and one where nothing was said
        "wer_macro": pytest.approx((2 / 6 + 1 + 1) / 3),
        "substitutions": 0,
        "deletions": 2,
        "insertions": 2,
        "reference_words": 7,
        "empty_references": 1,
    }


@pytest.mark.parametrize(
    ("predictions", "references", "normalizer"),
    [
        (["a b", "x"], ["", "x"], "none"),
        ([""], [""], "none"),
        (["a b", ""], ["", " "], "none"),
        (["um"], ["..."], "chinese"),
        (["um, er"], ["[silence]"], "whisper_basic"),
    ],
)
def test_empty_references_are_scored_as_jiwer_scores_them(predictions, references, normalizer):
    texts = [[get_normalizer(normalizer)(text).strip() for text in side] for side in (references, predictions)]
    words, characters = (rate(predictions, references, normalizer) for rate in (word_error_rate, character_error_rate))
    assert (words["wer"], characters["cer"]) == (jiwer.wer(*texts), jiwer.cer(*texts))
    assert words["wer_macro"] == pytest.approx(sum(map(jiwer.wer, *texts)) / len(references))
    assert words["empty_references"] == texts[0].count("")


@pytest.mark.parametrize("space", ["\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2028", "  "])
@pytest.mark.parametrize("normalizer", ["lower", "whisper_basic", "whisper_english"])
def test_any_white_space_parts_words_under_our_normalizers(normalizer, space):
    assert word_error_rate([f"red{space}circle"], ["Red circle"], normalizer)["wer"] == 0
    assert word_error_rate(["red circle"], [f"{space}red{space}circle"], normalizer)["wer"] == 0


def test_without_a_normalizer_only_spaces_part_words_as_in_jiwer():
    assert word_error_rate(["a\tb"], ["a b"])["wer"] == jiwer.wer("a b", "a\tb") == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", " Don't! ", " Don't! "),
        ("lower", "Don't!", "don't!"),
        ("whisper_basic", "Ça va? [noise] OK!", "ça va ok"),
        ("whisper_english", "Mr. Smith's colour isn't twenty-one", "mister smith is color is not 21"),
        ("chinese", "今天，天气 很好。ＡＢc", "今天天气很好abc"),
    ],
)
def test_normalizers_do_what_they_declare(name, text, expected):
    assert get_normalizer(name)(text).strip() == expected.strip()


def test_chinese_is_scored_by_its_characters():
    scores = load_metric("cer").compute(
        predictions=["今天天气好"], references=["今天 天气 很好。"], normalizer="chinese"
    )
    assert scores["cer"] == pytest.approx(1 / 6)


# --- Options


OPTIONS = ["red", "dark blue", "no color at all", "green"]


@pytest.mark.parametrize(
    ("rule", "answer", "letter"),
    [
        ("strict", "B", "B"),
        ("strict", " (b). ", "B"),
        ("strict", "B because", None),
        ("strict", "E", None),
        ("scienceqa", "B", "B"),
        ("scienceqa", "B. dark blue", "B"),
        ("scienceqa", "B.", None),
        ("scienceqa", "b", None),
        ("scienceqa", "I think. The answer is C.", "C"),
        ("scienceqa", "The answer is B. The answer is C.", None),
        ("scienceqa", "The answer is Z.", None),
        ("mmmu", "(B)", "B"),
        ("mmmu", "The answer is B", "B"),
        ("mmmu", "A is wrong, so B", "B"),
        ("mmmu", "(A) or (C) but rather (C)", "C"),
        ("mmmu", "the thing is clearly dark blue here", "B"),
        ("mmmu", "dark blue", None),
        ("mmbench", "B", "B"),
        ("mmbench", "Answer: B.", "B"),
        ("mmbench", "dark blue", "B"),
        ("mmbench", "A or B", None),
        ("mmbench", "B is what I would say if you asked me now", None),
    ],
)
def test_the_option_that_an_answer_names(rule, answer, letter):
    assert chosen_option(answer, OPTIONS, rule) == letter


def test_answers_that_name_no_option_are_wrong_and_counted():
    scores = load_metric("multiple_choice").compute(
        predictions=["A", "B", "dunno", "C"], references=["A", "C", "D", "C"], options=[OPTIONS] * 4
    )
    assert scores == {"accuracy": 0.5, "unparsed": 0.25}


# What MMMU's own parse_open_response and eval_open say of them
@pytest.mark.parametrize(
    ("answer", "references", "right"),
    [
        ("3", ["3"], True),
        ("3.0", ["3"], True),
        ("3.004", ["3"], True),
        ("3.006", ["3"], False),
        ("1,234.5", ["1234.50"], True),
        ("1,000,000", ["1000000"], True),
        ("2e3", ["2000"], True),
        ("The answer is 3.", ["3"], True),
        ("13", ["3"], False),
        ("It has 5, so the result is 3", ["5"], False),
        ("x + y = 12", ["12"], True),
        ("x = 12\nThat settles it", ["12"], True),  # no line concludes, so the whole is looked through
        ("x = 12\nso we have y = 3", ["12"], False),
        ("x = 12\nso we have y = 3", ["3"], True),
        ("-5", ["5"], False),
        ("5%", ["5"], True),
        ("1/3", ["0.33"], False),
        ("A Red fox", ["red"], True),
        ("scared", ["red"], True),
        ("blue", ["red", "rose"], False),
        ("It could be a rose", ["red", "rose"], True),
        ("a", ["A"], True),
        ("alpha", ["a"], False),
        ("option b is it", ["b"], False),
        ("", ["3"], False),
        ("The answer is :", ["answer"], True),
    ],
)
def test_open_answers_are_found_as_mmmu_finds_them(answer, references, right):
    assert holds_answer(answer, references) is right


@pytest.mark.parametrize(
    ("answer", "reference", "rule", "same"),
    [
        ("Red.", "red", "gqa", True),
        ("the red", "red", "gqa", False),
        ("The red!", "red", "vqa", True),
        (" red ", "red", "strict", True),
        ("Red", "red", "strict", False),
    ],
)
def test_exact_matches(answer, reference, rule, same):
    assert matches(answer, reference, rule) is same


# --- Yes and no


def test_pope_on_the_odd_answers_of_models():
    answers = [
        "Yes.",
        "No, there is not.",
        "There is no dog. Yes.",
        "yes, not sure",
        "Nope",
        "I see a knot",
        "no",
        "Not",
    ]
    references = ["yes", "no", "no", "yes", "yes", "yes", "yes", "no"]
    # said: yes no no no yes yes no yes (the words No, no and not deny, in the first sentence; Nope and Not do not)
    assert load_metric("pope").compute(predictions=answers, references=references) == {
        "accuracy": 5 / 8,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": pytest.approx(2 / 3),
        "yes_rate": 0.5,
    }


def test_bits_are_independent_of_the_tokenizer():
    scores = load_metric("bits_per_character").compute(predictions=[0.6931471805599453 * 12], references=["né né"])
    assert scores == {"bits_per_character": pytest.approx(12 / 5), "bits_per_byte": pytest.approx(12 / 7)}


# --- As modules of `evaluate`


@pytest.mark.parametrize("name", METRICS)
def test_the_example_on_the_card_is_true(name):
    card = METRICS_FOLDER / name / "README.md"
    assert doctest.testfile(str(card), module_relative=False, optionflags=FLAGS).attempted == 2


FLAGS = doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", METRICS)
def test_metrics_load_by_path_and_say_what_they_take(name):
    metric = evaluate.load(str(METRICS_FOLDER / name))
    assert metric.description and metric.citation and "predictions" in metric.features


def test_batches_add_up():
    metric = load_metric("wer")
    metric.add_batch(predictions=["a b"], references=["a c"])
    metric.add_batch(predictions=["a"], references=["a"])
    metric.add(prediction="d", reference="e")
    assert metric.compute(normalizer="lower")["wer"] == 2 / 4


def _score_part(process: int, results) -> None:
    metric = load_metric("wer", num_process=2, process_id=process, experiment_id="parts")
    metric.add_batch(predictions=["a b", "c"][process : process + 1], references=["a x", "c"][process : process + 1])
    results.put(metric.compute())


def test_processes_score_together():
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_score_part, args=(process, results)) for process in range(2)]
    for process in processes:
        process.start()
    scores = [results.get(timeout=60) for _ in processes]
    assert [score["wer"] for score in scores if score] == [pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: load_metric("bleu"), "Unknown metric 'bleu', expected one of bits_per_character, cer,"),
        (lambda: word_error_rate(["a"], []), "1 predictions for 0 references."),
        (lambda: word_error_rate([], []), "There is not one utterance to score."),
        (lambda: word_error_rate(["a"], ["a"], "nfc"), "Unknown normalizer 'nfc', expected one of none, lower,"),
        (lambda: vqa_score("a", []), "A question has no reference answers."),
        (lambda: vqa_score("a", ["a"], "gqa"), "Unknown rule 'gqa', expected vqa or textvqa."),
        (lambda: chosen_option("a", ["x"], "dice"), "Unknown rule 'dice', expected one of strict, scienceqa,"),
        (lambda: matches("a", "a", "near"), "Unknown rule 'near', expected one of strict, gqa, vqa."),
    ],
)
def test_bad_input_is_refused_in_one_line(compute, message):
    with pytest.raises(ValueError) as caught:
        compute()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)

# Copyright 2026 The rwkv7-world authors. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The World tokenizer against BlinkDL's own, its special strings, its files, and its refusals."""

import copy
import inspect
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import rwkv
from hypothesis import given, settings
from hypothesis import strategies as st
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from transformers import AutoTokenizer

from rwkv7_world.processing.tokenization_rwkv_world import MAX_TOKEN_BYTES, RWKVWorldTokenizer
from rwkv7_world.processing.world_vocabulary import (
    END_OF_TEXT,
    MULTIMODAL_TOKENS,
    SPECIAL_TOKENS,
    WORLD_VOCABULARY_FILE,
    load_vocabulary,
    save_vocabulary,
)


REFERENCE_FILE = Path(rwkv.__file__).with_name("rwkv_vocab_v20230424.txt")
REFERENCE = TRIE_TOKENIZER(str(REFERENCE_FILE))
TOKENIZER = RWKVWorldTokenizer()
SMALL = RWKVWorldTokenizer.from_tokens([b"ab", b"abcd", b"\xe4\xbd", b"<|", b"  ", b"    "])

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant:{% generation %} {{ message['content'] }}\n\n{% endgeneration %}"
    "{% else %}User: {{ message['content'] }}\n\n{% endif %}{% endfor %}"
)

MIXED_TEXTS = [
    "",
    "Hello, world! It's 3.14 \u2014 \u201cquoted\u201d.\r\n\tdef f(x):\n        return x**2  # comment\n\n\n",
    "你好，世界。这是一个测试。日本語テスト 한국어 테스트 עברית العربية हिन्दी ไทย",
    "𠮷野家 🦤 👩‍👩‍👧‍👦 ᚠᛇ \u0301e\u0301 \ufeff\u200b\u2028\x00\x7f\x85",
    "User: hi\n\nAssistant: \x16\x17 <|im_start|> </s> Ġhello Ċ",
    "QWxhZGRpbjpvcGVuIHNlc2FtZQ==" * 200,
]
LONG_RUNS = [
    text
    for unit in (" ", "\n", "a", "=", "-", "0", "你", "🦤", "ab ", "\x00")
    for text in (unit * 10_001, "x:" + unit * 777 + "y")
]

vocabulary_pieces = st.sampled_from([t.decode("utf-8", "replace") for t in list(load_vocabulary(REFERENCE_FILE))[::7]])
# Hypothesis also tries string constants of the module under test, and the reference knows no special strings.
texts = st.one_of(st.text(), st.lists(st.one_of(vocabulary_pieces, st.text(max_size=3))).map("".join)).filter(
    lambda text: not any(token.content in text for token in SPECIAL_TOKENS)
)


def ids_of(tokenizer, text, **kwargs):
    return tokenizer(text, **kwargs).input_ids


def longest_match(vocabulary: dict[bytes, int], data: bytes) -> list[int]:
    """The definition, by brute force."""
    ids, start = [], 0
    while start < len(data):
        end = max(end for end in range(start + 1, len(data) + 1) if data[start:end] in vocabulary)
        ids.append(vocabulary[data[start:end]])
        start = end
    return ids


class TestSameAsReference:
    @settings(max_examples=500, deadline=None)
    @given(texts)
    def test_ids_and_round_trip_on_any_text(self, text):
        ids = ids_of(TOKENIZER, text)
        assert ids == REFERENCE.encode(text)
        assert TOKENIZER.decode(ids) == text

    @pytest.mark.parametrize("text", MIXED_TEXTS + LONG_RUNS, ids=lambda text: repr(text[:12]))
    def test_ids_and_round_trip_on_chosen_texts(self, text):
        ids = ids_of(TOKENIZER, text)
        assert ids == REFERENCE.encode(text)
        assert TOKENIZER.decode(ids) == text

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=80))
    def test_any_bytes_round_trip(self, data):
        ids = TOKENIZER.encode_bytes(data)
        assert ids == REFERENCE.encodeBytes(data)
        assert TOKENIZER.decode_bytes(ids) == data

    def test_each_single_byte_is_its_value_plus_one(self):
        assert [TOKENIZER.encode_bytes(bytes([byte])) for byte in range(256)] == [[byte + 1] for byte in range(256)]

    def test_every_token_decodes_to_its_bytes_and_is_its_own_encoding(self):
        for token_id, token in REFERENCE.idx2token.items():
            assert TOKENIZER.decode_bytes([token_id]) == token
            assert TOKENIZER.encode_bytes(token) == [token_id]

    def test_vocabulary_is_the_reference_file(self):
        assert TOKENIZER.get_byte_vocab() == REFERENCE.token2idx
        assert len(TOKENIZER) == 65536


class TestSpecialStrings:
    @pytest.mark.parametrize("token", SPECIAL_TOKENS, ids=lambda token: token.name)
    def test_ids_in_the_world_vocabulary(self, token):
        assert TOKENIZER.convert_tokens_to_ids(token.content) == token.world_id

    @pytest.mark.parametrize("token", MULTIMODAL_TOKENS, ids=lambda token: token.name)
    def test_named_attributes(self, token):
        for tokenizer, token_id in ((TOKENIZER, token.world_id), (SMALL, token.world_id - 65530 + 263)):
            assert getattr(tokenizer, token.name) == token.content
            assert getattr(tokenizer, token.name + "_id") == token_id

    def test_token_zero_is_padding_start_and_end_and_nothing_is_unknown(self):
        assert TOKENIZER.pad_token_id == TOKENIZER.bos_token_id == TOKENIZER.eos_token_id == 0
        assert TOKENIZER.unk_token_id is None
        assert TOKENIZER.convert_tokens_to_ids("<|no such token|>") is None

    @pytest.mark.parametrize("before", [" ", ".", ">", '"', "<", "\n", "User: ", "你"])
    @pytest.mark.parametrize("token", SPECIAL_TOKENS, ids=lambda token: token.name)
    def test_neighbours_never_swallow_a_special_string(self, before, token):
        text = before + token.content + before
        assert ids_of(TOKENIZER, text) == REFERENCE.encode(before) + [token.world_id] + REFERENCE.encode(before)
        assert TOKENIZER.decode(ids_of(TOKENIZER, text)) == text
        assert TOKENIZER.decode(ids_of(TOKENIZER, text), skip_special_tokens=True) == before * 2

    @pytest.mark.parametrize("token", SPECIAL_TOKENS, ids=lambda token: token.name)
    def test_untrusted_text_cannot_write_a_special_string(self, token):
        text = f"see {token.content}{token.content}"
        split = ids_of(TOKENIZER, text, split_special_tokens=True)
        assert split == REFERENCE.encode(text)
        assert TOKENIZER.decode(split) == text
        assert TOKENIZER.encode_bytes(text.encode()) == split
        assert token.world_id in ids_of(TOKENIZER, text), "the switch must not outlive its call"

    def test_untrusted_text_when_the_vocabulary_holds_every_pair_of_the_string(self):
        content = END_OF_TEXT.content.encode()
        pairs = dict.fromkeys(content[i : i + 2] for i in range(len(content) - 1))
        ids = ids_of(RWKVWorldTokenizer.from_tokens(pairs), END_OF_TEXT.content, split_special_tokens=True)
        assert END_OF_TEXT.world_id not in ids

    def test_untrusted_chat_message(self):
        chat = [{"role": "user", "content": "a <|image_pad|> b"}]
        options = {"chat_template": CHAT_TEMPLATE + "<|image_pad|>", "tokenize": True, "return_dict": False}
        ids = TOKENIZER.apply_chat_template(chat, sanitize_control_tokens=True, **options)
        assert ids.count(TOKENIZER.image_token_id) == 1
        assert TOKENIZER.apply_chat_template(chat, **options).count(TOKENIZER.image_token_id) == 2

    def test_bos_is_added_only_on_request(self):
        with_bos = RWKVWorldTokenizer.from_tokens([b"ab"], add_bos_token=True)
        assert ids_of(with_bos, "ab") == [0, 257]
        assert ids_of(with_bos, "ab", add_special_tokens=False) == [257]
        assert ids_of(SMALL, "ab") == [257]


class TestStockConveniences:
    @settings(max_examples=200, deadline=None)
    @given(texts)
    def test_offsets_are_the_characters_a_token_touches(self, text):
        character_of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
        encoded = TOKENIZER(text, return_offsets_mapping=True)
        position = 0
        for token_id, offsets in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
            length = len(REFERENCE.idx2token[token_id])
            expected = (character_of_byte[position], character_of_byte[position + length - 1] + 1)
            assert tuple(offsets) == expected
            position += length

    def test_batch_is_padded_on_the_left_with_token_zero(self):
        batch = TOKENIZER(["User", "User: 🦤"], padding=True, return_tensors="pt")
        longer = REFERENCE.encode("User: 🦤")
        assert batch.input_ids.tolist() == [[0] * (len(longer) - 1) + REFERENCE.encode("User"), longer]
        assert batch.attention_mask.tolist() == [[0] * (len(longer) - 1) + [1], [1] * len(longer)]
        assert set(batch) == {"input_ids", "attention_mask"}
        assert TOKENIZER.batch_decode(batch.input_ids, skip_special_tokens=True) == ["User", "User: 🦤"]

    def test_assistant_mask_covers_what_the_assistant_says(self):
        chat = [
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "𠮷野家 🦤!"},
            {"role": "user", "content": "bye"},
        ]
        encoded = TOKENIZER.apply_chat_template(
            chat, chat_template=CHAT_TEMPLATE, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        said = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
        assert TOKENIZER.decode(said) == " 𠮷野家 🦤!\n\n"

    @pytest.mark.parametrize("side, kept", [("left", slice(-3, None)), ("right", slice(3))])
    def test_truncation_keeps_the_other_side(self, side, kept):
        ids = REFERENCE.encode("one two three four five six")
        tokenizer = copy.deepcopy(TOKENIZER)
        tokenizer.truncation_side = side
        assert ids_of(tokenizer, "one two three four five six", truncation=True, max_length=3) == ids[kept]

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_goes_where_it_is_told(self, side):
        batch = TOKENIZER(["one", "one two three"], padding=True, padding_side=side)
        padding = [0] * (len(batch.input_ids[1]) - 1)
        word = REFERENCE.encode("one")
        assert batch.input_ids[0] == (padding + word if side == "left" else word + padding)

    def test_an_added_token_is_one_token_and_is_saved(self, tmp_path):
        tokenizer = copy.deepcopy(TOKENIZER)
        assert tokenizer.add_tokens(["<tool>"]) == 1
        tokenizer.save_pretrained(tmp_path)
        for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
            assert ids_of(each, "a<tool>b") == [*REFERENCE.encode("a"), 65536, *REFERENCE.encode("b")]

    def test_spaces_before_punctuation_survive_decoding(self):
        assert TOKENIZER.decode(ids_of(TOKENIZER, "a . b , c 's")) == "a . b , c 's"

    @pytest.mark.parametrize("bad", [65536, -1, -100, 10**12])
    def test_an_id_out_of_range_is_refused(self, bad):
        message = rf"token id {bad} is out of range, expected 0 <= id < 65536"
        for decode in (TOKENIZER.decode, TOKENIZER.decode_bytes):
            with pytest.raises(ValueError, match=message):
                decode([1, bad])
        with pytest.raises(ValueError, match=message):
            TOKENIZER.decode([[1], [bad]])


def behaviour(tokenizer) -> dict:
    """What two equal tokenizers share, as plain data."""
    texts = [*MIXED_TEXTS, " <|image_pad|>x<|rwkv_tokenizer_end_of_text|>"]
    return {
        "ids": [tokenizer(text).input_ids for text in texts],
        "split": [tokenizer(text, split_special_tokens=True).input_ids for text in texts],
        "decoded": [tokenizer.decode(tokenizer(text).input_ids) for text in texts],
        "padded": tokenizer(["a", "a b c"], padding=True).input_ids,
        "special": tokenizer.special_tokens_map,
        "special_ids": sorted(tokenizer.all_special_ids),
        "image_token_id": tokenizer.image_token_id,
        "audio_token": tokenizer.audio_token,
        "length": len(tokenizer),
        "max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "inputs": tokenizer.model_input_names,
        "clean_up": tokenizer.clean_up_tokenization_spaces,
        "unknown": tokenizer.unk_token,
        "template": tokenizer.chat_template,
    }


FRESH_PROCESS = r"""
import json, sys
{behaviour}
MIXED_TEXTS = json.loads(sys.argv[2])
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert not any(name.startswith("rwkv") for name in sys.modules), "our package must not be needed"
print("\n" + json.dumps(behaviour(tokenizer)))
"""


def load_in_fresh_process(folder) -> dict:
    script = FRESH_PROCESS.format(behaviour=inspect.getsource(behaviour))
    command = [sys.executable, "-I", "-c", script, str(folder), json.dumps(MIXED_TEXTS)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


class TestSavedFiles:
    @pytest.mark.parametrize("add_bos_token", [False, True])
    def test_auto_tokenizer_without_our_package_behaves_the_same(self, tmp_path, add_bos_token):
        tokenizer = RWKVWorldTokenizer(add_bos_token=add_bos_token, padding_side="right", chat_template=CHAT_TEMPLATE)
        tokenizer("a", padding="max_length", truncation=True, max_length=5)  # must leave no trace in the files
        tokenizer.save_pretrained(tmp_path)
        assert load_in_fresh_process(tmp_path) == behaviour(tokenizer)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "auto_map" not in config

    def test_auto_tokenizer_beside_a_model_with_remote_code(self, tmp_path):
        SMALL.save_pretrained(tmp_path)
        auto_map = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "rwkv7", "auto_map": auto_map}))
        assert load_in_fresh_process(tmp_path) == behaviour(SMALL)

    @pytest.mark.parametrize("add_bos_token", [False, True])
    def test_from_pretrained_gives_the_same_class_and_behaviour(self, tmp_path, add_bos_token):
        original = RWKVWorldTokenizer.from_tokens([b"ab", b"  "], add_bos_token=add_bos_token, padding_side="right")
        original.chat_template = CHAT_TEMPLATE
        original.save_pretrained(tmp_path / "first")
        loaded = RWKVWorldTokenizer.from_pretrained(tmp_path / "first")
        assert type(loaded) is RWKVWorldTokenizer
        assert behaviour(loaded) == behaviour(original)
        assert loaded.add_bos_token is add_bos_token
        assert loaded.get_byte_vocab() == original.get_byte_vocab()
        assert loaded.encode_bytes(b"\xff ab") == original.encode_bytes(b"\xff ab")
        loaded.save_pretrained(tmp_path / "second")
        for file in (tmp_path / "first").iterdir():
            assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes()

    def test_loading_can_override_what_was_saved(self, tmp_path):
        SMALL.save_pretrained(tmp_path)
        loaded = RWKVWorldTokenizer.from_pretrained(tmp_path, add_bos_token=True, padding_side="right")
        assert ids_of(loaded, "ab") == [0, 257]
        assert loaded.padding_side == "right"

    def test_reference_package_reads_the_vocabulary_saved_beside_it(self, tmp_path):
        TOKENIZER.save_pretrained(tmp_path)
        saved = tmp_path / "rwkv_vocab_v20230424.txt"
        assert saved.read_bytes() == REFERENCE_FILE.read_bytes().replace(b"\r\n", b"\n")
        assert TRIE_TOKENIZER(str(saved)).token2idx == REFERENCE.token2idx

    def test_folder_with_only_the_vocabulary_file(self, tmp_path):
        SMALL.save_vocabulary(str(tmp_path))
        assert behaviour(RWKVWorldTokenizer.from_pretrained(tmp_path)) == behaviour(SMALL)

    def test_folder_with_neither_file_is_refused(self, tmp_path):
        (tmp_path / "tokenizer_config.json").write_text("{}")
        with pytest.raises(FileNotFoundError, match="found no tokenizer.json or rwkv_vocab_v20230424.txt"):
            RWKVWorldTokenizer.from_pretrained(tmp_path)

    def test_tokenizer_file_of_another_family_is_refused(self, tmp_path):
        file = tmp_path / "tokenizer.json"
        SMALL.backend_tokenizer.save(str(file))
        file.write_text(file.read_text().replace(END_OF_TEXT.content, "<|endoftext|>"))
        with pytest.raises(ValueError, match="tokenizer.json: token 0 is not"):
            RWKVWorldTokenizer.from_pretrained(tmp_path)

    @pytest.mark.parametrize("twin", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
    def test_copies_behave_the_same(self, twin):
        copied = twin(SMALL)
        assert type(copied) is RWKVWorldTokenizer
        assert behaviour(copied) == behaviour(SMALL)
        assert copied.decode_bytes(copied.encode_bytes(b"\xffab")) == b"\xffab"


class TestSmallVocabulary:
    def test_layout_is_bytes_then_tokens_then_special_strings(self):
        assert SMALL.encode_bytes(b"ab") == [257]
        assert ids_of(SMALL, "abcd<|image_pad|>") == [258, 265]
        assert SMALL.convert_tokens_to_ids("<|vision_start|>") == 263
        assert len(SMALL) == 1 + 256 + 6 + 6

    def test_single_bytes_keep_their_ids_wherever_they_are_given(self):
        tokenizer = RWKVWorldTokenizer.from_tokens([b"zz", b"a", b"b", b"yy"])
        assert tokenizer.encode_bytes(b"a") == [ord("a") + 1]
        assert tokenizer.encode_bytes(b"zzyy") == [257, 258]

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(st.lists(st.sampled_from("ab\\]^[-.你"), min_size=1, max_size=5).map("".join), max_size=20),
        st.lists(st.sampled_from("ab\\]^[-.你 "), max_size=40).map("".join),
    )
    def test_any_vocabulary_is_longest_match(self, words, text):
        tokens = dict.fromkeys(word.encode()[:n] for word in words for n in (2, 9) if len(word.encode()) > 1)
        tokenizer = RWKVWorldTokenizer.from_tokens(tokens)
        assert ids_of(tokenizer, text) == longest_match(tokenizer.get_byte_vocab(), text.encode())
        assert tokenizer.decode(ids_of(tokenizer, text)) == text

    def test_longest_allowed_token(self):
        longest = b"x" * MAX_TOKEN_BYTES
        tokenizer = RWKVWorldTokenizer.from_tokens([longest[:n] for n in range(2, MAX_TOKEN_BYTES + 1)])
        assert tokenizer.encode_bytes(longest + b"x") == [256 + MAX_TOKEN_BYTES - 1, ord("x") + 1]
        with pytest.raises(ValueError, match="token 257 has 257 bytes, at most 256"):
            RWKVWorldTokenizer.from_tokens([longest + b"x"])

    def test_vocabulary_that_lists_the_special_strings_in_place(self):
        listed = SMALL.get_byte_vocab() | {t.content.encode(): t.world_id - 65530 + 263 for t in MULTIMODAL_TOKENS}
        assert behaviour(RWKVWorldTokenizer(vocab=listed)) == behaviour(SMALL)
        listed[b"<|audio_pad|>"] = 999
        with pytest.raises(ValueError, match="special string b'<|audio_pad|>' has id 999, expected 268"):
            RWKVWorldTokenizer(vocab=listed)

    @pytest.mark.parametrize(
        ("tokens", "message"),
        [([b"ab", b"ab"], "token b'ab' was given twice"), (["ab"], "non-empty bytes"), ([b""], "non-empty bytes")],
    )
    def test_bad_tokens_are_refused(self, tokens, message):
        with pytest.raises(ValueError, match=message):
            RWKVWorldTokenizer.from_tokens(tokens)

    def test_gaps_and_missing_bytes_are_refused(self):
        vocabulary = SMALL.get_byte_vocab()
        with pytest.raises(
            ValueError, match=r"vocab: ids must be 1\.\.263 once each, the first that breaks this is 263"
        ):
            RWKVWorldTokenizer(vocab=vocabulary | {b"zz": 300})
        del vocabulary[b"A"]
        with pytest.raises(ValueError, match="vocab: 1 single bytes are no tokens, the first is 0x41"):
            RWKVWorldTokenizer(vocab=vocabulary)


class TestVocabularyFile:
    def test_shipped_file_is_the_reference_file(self):
        assert WORLD_VOCABULARY_FILE.read_text(encoding="utf-8") == REFERENCE_FILE.read_text(encoding="utf-8")

    def test_saved_file_reads_back(self, tmp_path):
        vocabulary = {bytes([byte]): byte + 1 for byte in range(256)} | {"'\"\\你\u2028".encode(): 257, b"\xffa": 258}
        save_vocabulary(vocabulary, tmp_path / "v.txt")
        assert load_vocabulary(tmp_path / "v.txt") == vocabulary

    def test_tokenizer_from_a_file(self, tmp_path):
        save_vocabulary(SMALL.get_byte_vocab(), tmp_path / "v.txt")
        assert behaviour(RWKVWorldTokenizer(vocab_file=tmp_path / "v.txt")) == behaviour(SMALL)

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("1 __import__('os').system('x') 3", "expected a quoted str or bytes literal"),
            ("1 ''.__class__ 0", "expected a quoted str or bytes literal"),
            ("1 f'{1}' 1", "expected a quoted str or bytes literal"),
            ("1 ('a') 1", "expected a quoted str or bytes literal"),
            ("1 97 1", "expected a quoted str or bytes literal"),
            ("1 ['a'] 1", "expected a quoted str or bytes literal"),
            ("1 'a', 1", "expected a quoted str or bytes literal"),
            ("1 'a 1", "expected a quoted str or bytes literal"),
            (r"1 '\d' 2", "expected a quoted str or bytes literal"),
            (r"1 '\ud800' 3", "expected a quoted str or bytes literal"),
            ("1 'ab' 1", r"is 2 bytes long, the line says 1"),
            ("1 '' 0", "is 0 bytes long"),
            ("1 '你' 1", "is 3 bytes long, the line says 1"),
            ("x 'a' 1", "expected ID LITERAL LENGTH"),
            ("-1 'a' 1", "expected ID LITERAL LENGTH"),
            ("1 'a'", "expected ID LITERAL LENGTH"),
            ("1 1", "expected ID LITERAL LENGTH"),
            ("", "expected ID LITERAL LENGTH"),
            ("9999999999 'a' 1", "expected ID LITERAL LENGTH"),
            ("0 'a' 1", "id 0 is reserved"),
            ("2 'b' 1", "token b'b' already has id 7"),
            ("7 'c' 1", "id 7 is already taken"),
            ("1 'a" + "b" * 10_000 + " 1", "expected a quoted str or bytes literal"),
        ],
    )
    def test_a_bad_line_is_refused_in_one_line(self, tmp_path, line, reason):
        file = tmp_path / "v.txt"
        file.write_text(f"7 'b' 1\n{line}\n8 'c' 1\n", encoding="utf-8")
        with pytest.raises(ValueError, match=reason) as caught:
            load_vocabulary(file)
        message = str(caught.value)
        assert message.startswith(f"{file}, line 2: ")
        assert "\n" not in message and len(message) < len(str(file)) + 200

    def test_a_line_that_is_code_does_not_run(self, tmp_path):
        witness = tmp_path / "witness"
        code = f"open({str(witness)!r},'w')"
        (tmp_path / "v.txt").write_text(f"1 {code} {len(code)}\n")
        with pytest.raises(ValueError, match="line 1: expected a quoted"):
            load_vocabulary(tmp_path / "v.txt")
        assert not witness.exists()

    def test_files_that_hold_no_vocabulary_are_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere.txt"):
            RWKVWorldTokenizer(vocab_file=tmp_path / "nowhere.txt")
        (tmp_path / "empty.txt").write_text("")
        with pytest.raises(ValueError, match="empty.txt: no tokens"):
            load_vocabulary(tmp_path / "empty.txt")
        (tmp_path / "binary.txt").write_bytes(b"1 '\xff' 1\n")
        with pytest.raises(ValueError, match="binary.txt: not UTF-8 text"):
            load_vocabulary(tmp_path / "binary.txt")


class TestLearnedVocabulary:
    CORPUS = [
        "the red circle is left of the blue circle",
        "\u4f60\u597d\uff0c\u4e16\u754c",
        "the square\n\nthe star",
    ] * 20

    def test_a_vocabulary_is_learned_from_texts_and_used_by_longest_match(self, tmp_path):
        for iterator in (iter(self.CORPUS), [self.CORPUS[:30], self.CORPUS[30:]]):
            learned = TOKENIZER.train_new_from_iterator(iterator, 300, new_special_tokens=["<call>"])
            assert type(learned) is RWKVWorldTokenizer
            assert len(learned) == 300
            vocabulary = learned.get_byte_vocab()
            assert {bytes([byte]): byte + 1 for byte in range(256)}.items() <= vocabulary.items()
            assert b"the" in vocabulary and b" circle" in vocabulary
            for text in [*self.CORPUS[:3], "another text: \U0001f600"]:
                assert ids_of(learned, text) == longest_match(vocabulary, text.encode())
                assert learned.decode(ids_of(learned, text)) == text
            assert ids_of(learned, "<call>") == [299]
            assert (learned.eos_token_id, learned.image_token_id) == (0, 300 - 1 - 4)
        learned.save_pretrained(tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path).encode(self.CORPUS[0]) == learned.encode(self.CORPUS[0])

    def test_what_the_old_tokenizer_does_is_kept(self):
        old = RWKVWorldTokenizer.from_tokens([], add_bos_token=True, padding_side="right", chat_template="{{ 'x' }}")
        learned = old.train_new_from_iterator(self.CORPUS, 280)
        assert ids_of(learned, "a") == [0, ord("a") + 1]
        assert (learned.padding_side, learned.chat_template) == ("right", "{{ 'x' }}")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"vocab_size": 262}, "vocab_size is 262, but bytes and special strings are 263 tokens"),
            ({"vocab_size": 300, "special_tokens_map": {"<a>": "<b>"}}, "special_tokens_map was given"),
        ],
    )
    def test_what_cannot_be_learned_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            TOKENIZER.train_new_from_iterator(self.CORPUS, **options)

    def test_a_plain_text_has_a_word_id_for_every_token(self):
        encoded = TOKENIZER("The Eiffel tower, isn't it?\n")
        assert encoded.word_ids() == list(range(len(encoded["input_ids"])))

    def test_words_with_their_spaces_are_the_text(self):
        encoded = TOKENIZER(["The", " Eiffel", " tower"], is_split_into_words=True)
        assert TOKENIZER.decode(encoded["input_ids"]) == "The Eiffel tower"
        assert set(encoded.word_ids()) == {0, 1, 2}

    def test_words_given_are_what_word_ids_count(self):
        encoded = TOKENIZER(["Paris", "is", "beautiful-ish", "\U0001f600"], is_split_into_words=True)
        assert sorted(set(encoded.word_ids())) == [0, 1, 2, 3]
        assert encoded.word_ids() == sorted(encoded.word_ids())
        assert len(encoded.word_ids()) > 4

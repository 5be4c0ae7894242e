# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""Ways of generating beyond plain decoding: assisted, with processors, streamed, by the pipeline, stopped by text."""

import copy
import threading

import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

from helpers.text_models import VOCAB_SIZE, cache_tensors, random_ids, tiny_model
from rwkv7_world import RWKV7Cache, RWKV7ForCausalLM, RWKVWorldTokenizer
from rwkv7_world.modeling_rwkv7_world.cache_rwkv7 import MAX_TOKENS_READ_AGAIN
from rwkv7_world.processing.chat_templates import WORLD_CHAT_TEMPLATE


NEW_TOKENS = 30


@pytest.fixture(scope="module")
def model() -> RWKV7ForCausalLM:
    return tiny_model(seed=1)  # its greedy continuations do not repeat one token


@pytest.fixture(scope="module")
def tokenizer() -> RWKVWorldTokenizer:
    return RWKVWorldTokenizer.from_tokens([b" the", b" fox", "狐".encode()])


@pytest.fixture(scope="module")
def talker(tokenizer) -> RWKV7ForCausalLM:
    """A model that writes what `tokenizer` can read: ASCII and the three words."""
    model = tiny_model(seed=4, vocab_size=len(tokenizer))
    model.generation_config.pad_token_id = 0
    model.generation_config.suppress_tokens = [0, *range(129, 257), *range(260, len(tokenizer))]
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return random_ids(1, 9)


def greedy(model, ids, **kwargs):
    return model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, **kwargs)


def assistant_of(model, error: float) -> RWKV7ForCausalLM:
    """A model that mostly agrees, the less the larger the error."""
    assistant, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = assistant.lm_head.weight
        weight += error * torch.randn(weight.shape, generator=generator)
    assistant.generation_config.num_assistant_tokens = 5
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0.0
    return assistant


class TestAssisted:
    @pytest.mark.parametrize("error", [0.0, 0.05, 100.0], ids=["always right", "sometimes right", "never right"])
    def test_result_is_that_of_plain_greedy_decoding(self, model, ids, error):
        outputs = greedy(model, ids, assistant_model=assistant_of(model, error), return_dict_in_generate=True)
        assert torch.equal(outputs.sequences, greedy(model, ids))

    @pytest.mark.parametrize(("error", "fewest", "most"), [(0.0, 5, 5), (0.05, 7, 25), (100.0, 30, 35)])
    def test_right_guesses_save_forward_passes_and_wrong_ones_cost_little(self, model, ids, error, fewest, most):
        lengths = []
        assistant = assistant_of(model, error)
        hook = model.model.layers[0].register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))
        greedy(model, ids, assistant_model=assistant)
        hook.remove()
        assert lengths[0] == 8, "the prompt is read once, before any candidate"
        assert fewest <= len(lengths) - 1 <= most
        assert max(lengths[1:]) < MAX_TOKENS_READ_AGAIN + 6

    def test_returned_state_is_that_of_plain_decoding_and_can_be_continued(self, model, ids):
        assisted = greedy(model, ids, assistant_model=assistant_of(model, 0.05), return_dict_in_generate=True)
        assert not assisted.past_key_values.is_recording and not assisted.past_key_values.snapshots
        turn = torch.cat([assisted.sequences, random_ids(1, 3, seed=1)], dim=1)
        expected = greedy(model, turn)
        assert torch.equal(greedy(model, turn, past_key_values=assisted.past_key_values), expected)

    def test_continues_from_a_given_cache(self, model, ids):
        with torch.no_grad():
            cache = model(ids[:, :6], use_cache=True).past_key_values
        assisted = greedy(model, ids, past_key_values=cache, assistant_model=assistant_of(model, 0.05))
        assert torch.equal(assisted, greedy(model, ids))

    def test_left_padding_changes_nothing(self, model, ids):
        padded, mask = torch.cat([random_ids(1, 3, seed=5), ids], dim=1), torch.ones(1, 12, dtype=torch.long)
        mask[:, :3] = 0
        for error in (0.05, 100.0):
            assisted = greedy(model, padded, attention_mask=mask, assistant_model=assistant_of(model, error))
            assert torch.equal(assisted[:, 3:], greedy(model, ids))

    @torch.no_grad()
    @pytest.mark.parametrize("seen", [0, 6])
    @pytest.mark.parametrize("error", [0.05, 100.0, None], ids=["assistant", "wrong assistant", "prompt lookup"])
    def test_hidden_states_are_those_of_plain_decoding(self, model, ids, error, seen):
        def state() -> dict:
            return {"cache": model(ids[:, :seen], use_cache=True).cache} if seen else {}

        asked = {"return_dict_in_generate": True, "output_hidden_states": True}
        expected = greedy(model, ids, **asked, **state())
        how = {"prompt_lookup_num_tokens": 3} if error is None else {"assistant_model": assistant_of(model, error)}
        actual = greedy(model, ids, **asked, **how, **state())
        assert torch.equal(actual.sequences, expected.sequences)
        assert len(actual.hidden_states) == len(expected.hidden_states)
        for token, other in zip(actual.hidden_states, expected.hidden_states, strict=True):
            for layer, other_layer in zip(token, other, strict=True):
                torch.testing.assert_close(layer, other_layer, atol=1e-4, rtol=1e-4)
        assert actual.cache.get_seq_length() == expected.cache.get_seq_length()

    def test_prompt_in_chunks_changes_nothing(self, model, ids):
        assisted = greedy(model, ids, prefill_chunk_size=3, assistant_model=assistant_of(model, 0.05))
        assert torch.equal(assisted, greedy(model, ids))

    def test_prompt_of_one_token(self, model, ids):
        assert torch.equal(
            greedy(model, ids[:, :1], assistant_model=assistant_of(model, 0.05)), greedy(model, ids[:, :1])
        )

    def test_prompt_lookup(self, model):
        ids = greedy(model, random_ids(1, 9))  # so that the prompt repeats what follows
        assert torch.equal(greedy(model, ids, prompt_lookup_num_tokens=4), greedy(model, ids))

    @pytest.mark.parametrize("sampled", [{}, {"do_sample": True}, {"prompt_lookup_num_tokens": 3}])
    def test_early_exit_is_refused_and_changes_nothing(self, model, ids, sampled):
        layers, expected = model.config.num_hidden_layers, greedy(model, ids)
        with pytest.raises(ValueError, match=r"assistant_early_exit=1: .* prompt_lookup_num_tokens"):
            model.generate(ids, max_new_tokens=5, assistant_early_exit=1, **sampled)
        assert model.config.num_hidden_layers == model.model.config.num_hidden_layers == layers
        assert torch.equal(greedy(model, ids), expected)

    def test_assistant_of_another_family(self, model, ids):
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        assistant = LlamaForCausalLM(config).eval()
        assert torch.equal(greedy(model, ids, assistant_model=assistant), greedy(model, ids))

    def test_we_assist_another_family(self, model, ids):
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        torch.manual_seed(0)
        llama = LlamaForCausalLM(config).eval()
        assert torch.equal(greedy(llama, ids, assistant_model=assistant_of(model, 0.0)), greedy(llama, ids))

    def test_speculative_sampling_draws_from_the_logits_of_plain_decoding(self, model, ids):
        torch.manual_seed(0)
        outputs = model.generate(
            ids,
            do_sample=True,
            max_new_tokens=NEW_TOKENS,
            assistant_model=assistant_of(model, 0.05),
            return_dict_in_generate=True,
            output_logits=True,
        )
        expected = model(outputs.sequences[:, :-1]).logits[:, 8:]
        torch.testing.assert_close(torch.stack(outputs.logits, dim=1), expected, atol=1e-5, rtol=1e-4)


class TestCrop:
    @torch.no_grad()
    def test_goes_back_to_before_the_forward_pass_that_read_the_tokens(self, model, ids):
        cache = RWKV7Cache(model.config)
        model(ids[:, :4], past_key_values=cache)
        cache.activate_past_recording()
        after = []
        for piece in (ids[:, 4:7], ids[:, 7:8], ids[:, 8:]):
            after.append((cache.get_seq_length(), cache_tensors(cache)))
            model(piece, past_key_values=cache)
        cache.crop(-3)  # one of them in the middle of the first piece
        seen, expected = after[0]
        assert cache.get_seq_length() == seen == 4
        assert all(torch.equal(tensor, expected[name]) for name, tensor in cache_tensors(cache).items())
        logits = model(ids[:, 4:], past_key_values=cache).logits
        torch.testing.assert_close(logits, model(ids).logits[:, 4:], atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_what_was_not_recorded_is_gone(self, model, ids):
        cache = model(ids, use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="The state after 8 tokens is gone"):
            cache.crop(-1)
        with pytest.raises(ValueError, match="minus the number of tokens to remove, got 8"):
            cache.crop(8)
        cache.crop(0)
        assert cache.get_seq_length() == 9

    @torch.no_grad()
    def test_crop_of_nothing_forgets_the_way_back(self, model, ids):
        cache = RWKV7Cache(model.config)
        cache.activate_past_recording()
        model(ids, past_key_values=cache)
        cache.crop(0)
        with pytest.raises(RuntimeError, match="is gone"):
            cache.crop(-1)


class TestOrdinaryWays:
    @pytest.mark.parametrize(
        "options",
        [
            {"repetition_penalty": 1.5},
            {"no_repeat_ngram_size": 2},
            {"bad_words_ids": [[3], [4, 5]]},
            {"min_new_tokens": 5, "eos_token_id": 7, "pad_token_id": 0},
            {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
            {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 3},
            {"num_beams": 2, "do_sample": True},
        ],
        ids=lambda options: ", ".join(options),
    )
    def test_processors_see_the_same_scores_with_and_without_cache(self, model, options):
        ids, found = random_ids(2, 9), []
        for use_cache in (True, False):
            torch.manual_seed(0)
            found.append(model.generate(ids, max_new_tokens=NEW_TOKENS, use_cache=use_cache, **options))
        assert torch.equal(*found)

    def test_returned_sequences_are_distinct_samples_of_each_row(self, model):
        torch.manual_seed(0)
        ids = random_ids(2, 9)
        samples = model.generate(ids, do_sample=True, num_return_sequences=3, max_new_tokens=10)
        assert torch.equal(samples[:, :9], ids.repeat_interleave(3, dim=0))
        assert len({tuple(sample.tolist()) for sample in samples}) == 6

    def test_given_cache_is_forked_for_many_samples(self, model, ids):
        with torch.no_grad():
            cache = model(ids[:, :6], use_cache=True).past_key_values
        cache.batch_repeat_interleave(3)
        forked = greedy(model, ids.repeat(3, 1), past_key_values=cache)
        assert torch.equal(forked, greedy(model, ids).repeat(3, 1))

    @pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
    def test_nothing_to_read_is_refused(self, model, given):
        nothing = torch.zeros(1, 0, dtype=torch.long)
        nothing = nothing if given == "input_ids" else model.get_input_embeddings()(nothing)
        with pytest.raises(ValueError, match=r"The input has no tokens: its shape is \(1, 0\)"):
            model(**{given: nothing})
        if given == "input_ids":
            with pytest.raises(ValueError, match="The input has no tokens"):
                model.generate(nothing, max_new_tokens=1)


PROMPT = "Once the fox"


def answer(talker, tokenizer, **kwargs) -> str:
    """What the model writes after the prompt, sampled with one seed."""
    inputs = tokenizer(PROMPT, return_tensors="pt")
    torch.manual_seed(0)
    output = talker.generate(
        **inputs, max_new_tokens=NEW_TOKENS, do_sample=True, top_k=0, tokenizer=tokenizer, **kwargs
    )
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


class TestText:
    def test_streamed_text_is_the_text(self, talker, tokenizer, capsys):
        expected = answer(talker, tokenizer)
        assert answer(talker, tokenizer, streamer=TextStreamer(tokenizer, skip_prompt=True)) == expected
        assert capsys.readouterr().out == expected + "\n"

    def test_iterated_text_is_the_text(self, talker, tokenizer):
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
        thread = threading.Thread(target=answer, args=(talker, tokenizer), kwargs={"streamer": streamer})
        thread.start()
        pieces = list(streamer)
        thread.join()
        assert "".join(pieces) == answer(talker, tokenizer)

    def test_stop_string_ends_the_text(self, talker, tokenizer):
        expected = answer(talker, tokenizer)
        stop = next(expected[i : i + 2] for i in range(3, len(expected)) if expected[i : i + 2].isascii())
        stopped = answer(talker, tokenizer, stop_strings=[stop])
        assert stopped == expected[: expected.index(stop) + len(stop)]

    def test_pipeline_writes_the_same_text(self, talker, tokenizer):
        generator = pipeline("text-generation", model=talker, tokenizer=tokenizer)
        torch.manual_seed(0)
        options = {"max_new_tokens": NEW_TOKENS, "return_full_text": False}
        text = generator(PROMPT, do_sample=True, temperature=1.0, top_k=0, **options)[0]["generated_text"]
        assert text == answer(talker, tokenizer)

    def test_pipeline_pads_a_batch(self, talker, tokenizer):
        generator = pipeline("text-generation", model=talker, tokenizer=tokenizer)
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        batch = generator([PROMPT, "fox"], batch_size=2, **options)
        assert batch == [generator(PROMPT, **options), generator("fox", **options)]

    def test_pipeline_answers_a_chat(self, talker, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = WORLD_CHAT_TEMPLATE
        generator = pipeline("text-generation", model=talker, tokenizer=tokenizer)
        chat = [{"role": "user", "content": "the fox?"}]
        answer = generator(chat, max_new_tokens=5, do_sample=False)[0]["generated_text"]
        assert answer[:1] == chat and answer[1]["role"] == "assistant" and answer[1]["content"]


def test_empty_cache_of_attention_models_becomes_ours_also_in_assisted_decoding(model, ids):
    outputs = greedy(
        model,
        ids,
        past_key_values=DynamicCache(config=model.config),
        assistant_model=assistant_of(model, 0.05),
        return_dict_in_generate=True,
        logits_processor=LogitsProcessorList(),
    )
    assert type(outputs.past_key_values) is RWKV7Cache
    assert torch.equal(outputs.sequences, greedy(model, ids))

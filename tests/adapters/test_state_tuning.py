# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""State tuning: sequences start from what was learned, however they are batched, and nothing else changes."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from helpers.adapters import cached_logits, logits_of, randomize_adapter, train, trained
from helpers.composites import random_image, tiny_composite, tiny_processor
from helpers.text_models import cache_tensors, random_ids, tiny_model
from rwkv7_world import RWKV7Cache, RWKV7ForCausalLM
from rwkv7_world.adapters import StateTuningConfig, language_model_targets
from rwkv7_world.modeling_rwkv7_world import modeling_rwkv7, whole_model


TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
IDS = random_ids(2, 9)
EPSILON = 1e-5  # of finite differences in float64


def state_tuned(seed: int = 0, model: RWKV7ForCausalLM | None = None, **kwargs) -> PeftModel:
    """A tiny model with random initial states, of the token shifts too."""
    config = StateTuningConfig(**{"tune_tokens": True, **kwargs})
    return randomize_adapter(get_peft_model(model or tiny_model(), config), seed)


@pytest.fixture(scope="module")
def tuned() -> PeftModel:
    return state_tuned()


def given_state(tuned: PeftModel, rows: int) -> RWKV7Cache:
    """The learned states of the adapter as a cache of the base model."""
    cache = RWKV7Cache(tuned.config)
    for index, layer in enumerate(tuned.get_base_model().model.layers):
        starts = [part.learned["default"].weight for part in (layer.attn.initial_token, layer.attn.initial_state)]
        starts.append(layer.ffn.initial_token.learned["default"].weight)
        token, state, channel_token = (start.detach().repeat(rows, *[1] * start.dim()) for start in starts)
        cache.update_shift_state(token, index, 0)
        cache.update_recurrent_state(state, index)
        cache.update_shift_state(channel_token, index, 1)
    return cache


class TestStart:
    def test_new_adapter_changes_nothing(self):
        fresh = get_peft_model(tiny_model(), StateTuningConfig(tune_tokens=True)).eval()
        assert torch.equal(logits_of(fresh, IDS), logits_of(tiny_model(), IDS))

    def test_it_is_the_state_before_the_first_token(self, tuned):
        expected = logits_of(tiny_model(), IDS, past_key_values=given_state(tuned, 2))
        torch.testing.assert_close(logits_of(tuned, IDS), expected, **TOLERANCE)
        assert not torch.allclose(expected, logits_of(tiny_model(), IDS), atol=0.1)

    def test_a_state_that_is_given_comes_first(self, tuned):
        with torch.no_grad():
            outputs = tiny_model()(random_ids(2, 4, seed=1), use_cache=True)
        state = copy.deepcopy(outputs.past_key_values)
        expected = logits_of(tiny_model(), IDS, past_key_values=outputs.past_key_values)
        torch.testing.assert_close(logits_of(tuned, IDS, past_key_values=state), expected, **TOLERANCE)

    def test_a_cache_that_was_reset_starts_there_again(self, tuned):
        with torch.no_grad():
            first = tuned(input_ids=IDS, use_cache=True)
            first.past_key_values.reset()
            again = tuned(input_ids=IDS, past_key_values=first.past_key_values)
        assert torch.equal(again.logits, first.logits)


class TestBatches:
    @pytest.mark.parametrize(
        "pads", [(slice(0, 4), slice(0, 0)), (slice(3, 6), slice(7, 9)), (slice(5, 9), slice(0, 2))]
    )
    def test_padding_does_not_let_the_state_fade(self, tuned, pads):
        mask = torch.ones_like(IDS)
        for row, pad in enumerate(pads):
            mask[row, pad] = 0
        with torch.no_grad():
            outputs = tuned(input_ids=IDS, attention_mask=mask, use_cache=True)
            for row in range(2):
                alone = tuned(input_ids=IDS[row : row + 1, mask[row].bool()], use_cache=True)
                torch.testing.assert_close(outputs.logits[row, mask[row].bool()], alone.logits[0], **TOLERANCE)
                expected = cache_tensors(alone.past_key_values, 0)
                for name, tensor in cache_tensors(outputs.past_key_values, row).items():
                    torch.testing.assert_close(tensor, expected[name], **TOLERANCE)

    def test_every_packed_sequence_starts_there(self, tuned):
        """In the first row after padding, and with an end that the cache carries on."""
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
        positions = torch.tensor([[0, 0, 0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 0, 1, 2]])
        with torch.no_grad():
            packed = tuned(input_ids=IDS, attention_mask=mask, position_ids=positions, use_cache=True)
            for row, start, end in ((0, 2, 5), (0, 5, 9), (1, 0, 2), (1, 2, 6), (1, 6, 9)):
                alone = tuned(input_ids=IDS[row : row + 1, start:end], use_cache=True)
                torch.testing.assert_close(packed.logits[row, start:end], alone.logits[0], **TOLERANCE)
                if end == 9:
                    expected = cache_tensors(alone.past_key_values, 0)
                    for name, tensor in cache_tensors(packed.past_key_values, row).items():
                        torch.testing.assert_close(tensor, expected[name], **TOLERANCE)

    def test_a_packed_row_that_goes_on_keeps_its_own_state(self, tuned):
        ids, positions = random_ids(1, 6, seed=2), torch.tensor([[1, 2, 0, 1, 2, 3]])
        with torch.no_grad():
            state = tuned(input_ids=IDS[:1], use_cache=True).past_key_values
            packed = tuned(input_ids=ids, position_ids=positions, past_key_values=state).logits
        whole = logits_of(tuned, torch.cat([IDS[:1], ids[:, :2]], dim=1))[:, 9:]
        torch.testing.assert_close(packed[:, :2], whole, **TOLERANCE)
        torch.testing.assert_close(packed[:, 2:], logits_of(tuned, ids[:, 2:]), **TOLERANCE)


class TestGeneration:
    def test_cached_is_uncached(self, tuned):
        torch.testing.assert_close(cached_logits(tuned, IDS, prompt=3), logits_of(tuned, IDS), **TOLERANCE)
        cached = tuned.generate(input_ids=IDS, max_new_tokens=6, do_sample=False)
        assert torch.equal(cached, tuned.generate(input_ids=IDS, max_new_tokens=6, do_sample=False, use_cache=False))

    def test_padded_batches_and_beams_answer_as_each_row_alone(self, tuned):
        mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9])
        for beams in (1, 3):
            kwargs = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
            answers = tuned.generate(input_ids=IDS, attention_mask=mask, **kwargs)[:, 9:]
            for row in range(2):
                alone = tuned.generate(input_ids=IDS[row : row + 1, mask[row].bool()], **kwargs)
                assert torch.equal(answers[row], alone[0, -5:])

    @pytest.mark.skipif(whole_model.decode.why_not_built() is not None, reason="no C++ library")
    def test_it_costs_nothing(self, tuned, monkeypatch):
        """The kernels for all layers run as without an adapter."""
        taken = []

        def record(*args):
            output = whole_model.run_whole_model(*args)
            taken.append(output is not None)
            return output

        monkeypatch.setattr(modeling_rwkv7, "run_whole_model", record)
        tuned.generate(input_ids=IDS, max_new_tokens=4, do_sample=False)
        assert taken == [True, True, True, True]


class TestTraining:
    def test_only_the_states_change(self):
        tuned = get_peft_model(tiny_model(), StateTuningConfig())
        before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
        losses = train(tuned, IDS)
        assert losses[-1] < losses[0] - 0.1
        changed = {name for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, before[name])}
        layers = "base_model.model.model.layers"
        assert changed == {f"{layers}.{i}.attn.initial_state.learned.default.weight" for i in range(2)}

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_are_those_of_finite_differences(self, checkpointing):
        tuned = state_tuned(model=tiny_model(dtype=torch.float64)).double()
        if checkpointing:
            tuned.gradient_checkpointing_enable()
            tuned.train()
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
        positions = torch.tensor([[0, 0, 0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1, 2, 3]])

        def loss() -> torch.Tensor:  # transformers' own is float32
            logits = tuned(input_ids=IDS, attention_mask=mask, position_ids=positions).logits
            return torch.nn.functional.cross_entropy(logits[mask.bool()], IDS[mask.bool()])

        loss().backward()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in trained(tuned).items():
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            losses = []
            with torch.no_grad():
                for step in (EPSILON, -2 * EPSILON):
                    parameter += step * direction
                    losses.append(loss())
                parameter += EPSILON * direction
            slope = (losses[0] - losses[1]) / (2 * EPSILON)
            torch.testing.assert_close((parameter.grad * direction).sum(), slope, atol=1e-8, rtol=1e-5, msg=name)

    def test_the_state_of_a_bfloat16_model_stays_float32(self, tmp_path):
        tuned = get_peft_model(tiny_model(dtype=torch.bfloat16), StateTuningConfig(tune_tokens=True))
        train(tuned.bfloat16(), IDS)
        assert {parameter.dtype for parameter in trained(tuned).values()} == {torch.float32}
        tuned.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_model(dtype=torch.bfloat16), tmp_path)
        assert torch.equal(logits_of(loaded, IDS), logits_of(tuned, IDS))


class TestSeveral:
    @pytest.fixture
    def both(self) -> PeftModel:
        """Two states, and LoRA on top."""
        model = state_tuned(seed=1)
        for name, config in (
            ("other", StateTuningConfig()),
            ("task", StateTuningConfig(tune_state=False, target_modules=["attn.k_proj"], init_lora_weights=False)),
        ):
            model.add_adapter(name, config)
            model.set_adapter(name)
            if name == "other":
                randomize_adapter(model, seed=2)
        return model.eval()

    def test_they_can_be_switched_and_switched_off(self, both):
        both.set_adapter("default")
        torch.testing.assert_close(logits_of(both, IDS), logits_of(state_tuned(seed=1), IDS))
        assert {name.split(".")[-2] for name in trained(both)} == {"default"}
        both.set_adapter("other")
        torch.testing.assert_close(logits_of(both, IDS), logits_of(state_tuned(seed=2, tune_tokens=False), IDS))
        with both.disable_adapter():
            # Hidden states keep the layers from running all at once, as an adapter does that is switched off
            assert torch.equal(logits_of(both, IDS), logits_of(tiny_model(), IDS, output_hidden_states=True))

    def test_a_state_and_lora_trained_apart_work_together(self, both, tmp_path):
        both.save_pretrained(tmp_path)
        both.base_model.set_adapter(["default", "task"])
        expected = logits_of(both, IDS)
        for alone in ("default", "task"):
            both.set_adapter(alone)
            assert not torch.allclose(logits_of(both, IDS), expected, atol=1e-2)
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        loaded.load_adapter(tmp_path / "task", "task")
        loaded.base_model.set_adapter(["default", "task"])
        assert torch.equal(logits_of(loaded, IDS), expected)
        torch.testing.assert_close(logits_of(loaded.merge_and_unload(), IDS), expected, **TOLERANCE)

    def test_a_merged_state_takes_any_adapter(self):
        start = state_tuned().merge_and_unload()
        targets = language_model_targets(start)
        lora = get_peft_model(start, LoraConfig(target_modules=targets, init_lora_weights=False)).eval()
        with lora.disable_adapter():
            torch.testing.assert_close(logits_of(lora, IDS), logits_of(state_tuned(), IDS), **TOLERANCE)
        again = state_tuned(seed=3, model=lora.unload())
        assert not torch.allclose(logits_of(again, IDS), logits_of(state_tuned(seed=3), IDS), atol=1e-2)

    def test_rows_of_a_batch_cannot_have_different_states(self, both):
        with pytest.raises(ValueError, match="rows of one batch cannot have different adapters"):
            both(input_ids=IDS, adapter_names=["default", "other"])

    def test_a_deleted_adapter_is_gone(self, both):
        both.set_adapter("other")
        both.delete_adapter("default")
        assert not any("default" in name for name in both.state_dict())


class TestMerging:
    def test_merged_model_starts_there_and_is_saved_as_any_other(self, tuned, tmp_path):
        expected = logits_of(tuned, IDS)
        merged = state_tuned().merge_and_unload()
        assert type(merged) is RWKV7ForCausalLM
        assert torch.equal(logits_of(merged, IDS), expected)
        merged.save_pretrained(tmp_path)
        loaded, report = RWKV7ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values())
        assert torch.equal(logits_of(loaded, IDS), expected)
        half = RWKV7ForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert half.model.layers[1].attn.initial_state.weight.dtype == torch.float32

    def test_merging_can_be_taken_back(self, tuned):
        expected = logits_of(tuned, IDS)
        tuned.merge_adapter()
        assert torch.equal(logits_of(tuned, IDS), expected)
        tuned.unmerge_adapter()
        assert torch.equal(logits_of(tuned, IDS), expected)
        assert not tuned.config.learned_initial_state

    def test_numbers_that_are_not_finite_are_not_merged(self):
        tuned = state_tuned()
        with torch.no_grad():
            next(iter(trained(tuned).values())).fill_(torch.nan)
        with pytest.raises(ValueError, match="hold numbers that are not finite"):
            tuned.merge_and_unload(safe_merge=True)

    def test_unloading_leaves_the_base_model(self):
        unloaded = state_tuned().unload()
        assert unloaded.state_dict().keys() == tiny_model().state_dict().keys()
        assert not unloaded.config.learned_initial_state


def test_composite_starts_there_too(tmp_path):
    """Before the picture; saved and merged as in a text model."""
    processor = tiny_processor("siglip")
    tuned = state_tuned(model=tiny_composite("siglip"))
    inputs = processor(images=[random_image()], text=f"{processor.image_token}what", return_tensors="pt")
    with torch.no_grad():
        expected = tuned(**inputs).logits
        assert not torch.allclose(expected, tiny_composite("siglip")(**inputs).logits, atol=1e-2)
        tuned.merge_and_unload().save_pretrained(tmp_path)
        loaded = type(tuned.get_base_model()).from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(**inputs).logits, expected)

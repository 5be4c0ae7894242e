# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""`rwkv7_world.state`: states survive a file, forks, mixtures and the exchange with the `rwkv` package."""

import copy

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from helpers.blinkdl import Sizes, config_of, fla_state_dict, load_in_rwkv_package, random_checkpoint
from helpers.composites import tiny_composite
from helpers.file_modes import modes, umask
from helpers.text_models import cache_tensors, random_ids, tiny_model
from rwkv7_world import RWKV7Cache, RWKV7ForCausalLM
from rwkv7_world.state.states import (
    as_initial_state,
    fingerprint,
    fork_state,
    interpolate_states,
    is_same_model,
    load_state,
    load_trained_state,
    save_state,
    select_rows,
    stack_states,
    state_from_blinkdl,
    state_size,
    state_to_blinkdl,
)


pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # what the package is written in


@pytest.fixture(scope="module")
def model() -> RWKV7ForCausalLM:
    return tiny_model(seed=1)


@torch.no_grad()
def read(model, ids) -> RWKV7Cache:
    """The state after these tokens."""
    return model(ids, use_cache=True).past_key_values


@torch.no_grad()
def next_logits(model, state, ids):
    """Logits of tokens after a state, which stays as it is."""
    return model(ids, past_key_values=copy.deepcopy(state)).logits


def assert_same_state(actual: RWKV7Cache, expected: RWKV7Cache) -> None:
    assert actual.get_seq_length() == expected.get_seq_length()
    tensors = cache_tensors(actual)
    for name, tensor in cache_tensors(expected).items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


class TestFiles:
    def test_loaded_state_is_the_saved_one(self, model, tmp_path):
        state = read(model, random_ids(2, 9))
        save_state(state, tmp_path / "state.safetensors", model)
        loaded = load_state(tmp_path / "state.safetensors", model)
        assert_same_state(loaded, state)
        ids = random_ids(2, 4, seed=1)
        assert torch.equal(next_logits(model, loaded, ids), next_logits(model, state, ids))

    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_files_have_the_mode_that_the_umask_says(self, model, mask, tmp_path):
        with umask(mask):
            save_state(read(model, random_ids(1, 3)), tmp_path / "state.safetensors", model)
        assert list(modes(tmp_path).values()) == [0o666 & ~mask]

    def test_state_of_another_model_is_refused(self, model, tmp_path):
        path = tmp_path / "state.safetensors"
        save_state(read(model, random_ids(1, 3)), path, model)
        other = tiny_model(seed=2)
        with pytest.raises(ValueError) as error:
            load_state(path, other)
        prints = f"fingerprint {fingerprint(model)}, this model has {fingerprint(other)}"
        assert str(error.value) == f"{path}: the state of another model ({prints})"

    def test_file_that_is_no_state_is_refused(self, model, tmp_path):
        path = tmp_path / "file.safetensors"
        with pytest.raises(FileNotFoundError):
            load_state(path, model)
        path.write_text("no state")
        with pytest.raises(ValueError, match="not a safetensors file"):
            load_state(path, model)
        save_file({"a": torch.zeros(1)}, path)
        with pytest.raises(ValueError, match="not a state that rwkv7_world.state.save_state wrote"):
            load_state(path, model)

    @pytest.mark.parametrize("name", ["layers.1.wkv", "layers.0.time_mix"])
    def test_damaged_state_is_refused(self, model, tmp_path, name):
        path = tmp_path / "state.safetensors"
        save_state(read(model, random_ids(1, 3)), path, model)
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors | {name: torch.zeros(1, 5)}, path, metadata)
        with pytest.raises(ValueError, match=r"has the shape \(5,\), expected"):
            load_state(path, model)
        del tensors[name]
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=f"the tensor {name} is missing"):
            load_state(path, model)

    def test_state_moves_between_dtypes_of_the_same_model(self, model, tmp_path):
        rounded = copy.deepcopy(model).bfloat16()
        wide = copy.deepcopy(rounded).float()
        save_state(read(wide, random_ids(1, 3)), tmp_path / "state.safetensors", wide)
        state = load_state(tmp_path / "state.safetensors", rounded)
        assert state.get_conv_state(0).dtype == torch.bfloat16
        assert state.get_recurrent_state(0).dtype == torch.float32
        assert next_logits(rounded, state, random_ids(1, 3)).isfinite().all()


class TestFingerprint:
    @pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
    def test_dtypes_of_one_checkpoint_are_the_same_model(self, model, stored):
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.model.layers[0].ffn.key.weight.mul_(1e-6)  # which float16 rounds to zeros and subnormal numbers
        model.to(stored).float()
        dtypes = (torch.float32, torch.bfloat16, torch.float16)
        wide, brain, half = (fingerprint(copy.deepcopy(model).to(x)) for x in dtypes)
        assert is_same_model(wide, brain) and is_same_model(half, wide)
        assert is_same_model(half, brain) or stored is torch.float32
        with torch.no_grad():
            model.model.norm.weight.mul_(1.1)
        assert not is_same_model(wide, fingerprint(model)) and not is_same_model(half, fingerprint(model.half()))

    def test_any_changed_parameter_changes_it(self, model):
        before = fingerprint(model)
        assert before == fingerprint(copy.deepcopy(model)) == fingerprint(model.model)
        changed = copy.deepcopy(model)
        for name, parameter in changed.model.named_parameters():
            numbers = parameter.detach().clone()
            parameter.data += 1
            assert fingerprint(changed) != before, name
            parameter.data = numbers
        assert fingerprint(changed) == before

    def test_composite_has_that_of_its_text_model(self):
        composite = tiny_composite("siglip")
        assert fingerprint(composite) == fingerprint(composite.model.language_model)

    def test_model_without_rwkv_7_is_refused(self):
        with pytest.raises(ValueError, match="Linear has no RWKV-7 text model in it"):
            fingerprint(torch.nn.Linear(1, 1))


class TestBatches:
    def test_forked_rows_continue_as_the_row_they_come_from(self, model):
        prefix, ids = random_ids(2, 5), random_ids(6, 4, seed=1)
        state = read(model, prefix)
        before = cache_tensors(state)
        logits = next_logits(model, fork_state(state, 3), ids)
        expected = next_logits(model, RWKV7Cache(model.config), torch.cat([prefix.repeat_interleave(3, 0), ids], 1))
        torch.testing.assert_close(logits, expected[:, 5:], atol=1e-5, rtol=1e-5)
        assert all(torch.equal(tensor, before[name]) for name, tensor in cache_tensors(state).items())

    def test_rows_can_be_picked_and_stacked_again(self, model):
        state = read(model, random_ids(3, 5))
        assert state.batch_size == 3
        picked = cache_tensors(select_rows(state, 2))
        for name, tensor in cache_tensors(state, slice(2, 3)).items():
            assert torch.equal(picked[name], tensor), name
        rows = [select_rows(state, row) for row in range(3)]
        assert_same_state(stack_states(rows), state)
        assert_same_state(select_rows(state, [2, 0]), stack_states([rows[2], rows[0]]))

    def test_states_of_different_lengths_stack_to_an_initial_state(self, model):
        states = [read(model, random_ids(1, length, seed=length)) for length in (3, 5)]
        stacked = stack_states(states)
        assert stacked.get_seq_length() == 0
        ids = random_ids(1, 4)
        for row, state in enumerate(states):
            logits = next_logits(model, stacked, ids.expand(2, -1))[row]
            torch.testing.assert_close(logits, next_logits(model, state, ids)[0], atol=1e-5, rtol=1e-5)

    def test_what_cannot_be_is_refused(self, model):
        state = read(model, random_ids(2, 3))
        with pytest.raises(ValueError, match="no row 2: the state has rows 0 to 1"):
            select_rows(state, [0, 2])
        with pytest.raises(ValueError, match="copies is 0"):
            fork_state(state, 0)
        with pytest.raises(ValueError, match="no states to stack"):
            stack_states([])
        other = read(tiny_model(head_dim=8), random_ids(1, 3))
        with pytest.raises(ValueError, match="models of different sizes"):
            stack_states([state, other])
        for function in (state_size, state_to_blinkdl, lambda empty: fork_state(empty, 2)):
            with pytest.raises(ValueError, match="The state is empty"):
                function(RWKV7Cache(model.config))


class TestInterpolation:
    def test_ends_are_the_states_and_the_middle_is_their_mean(self, model):
        first, second = read(model, random_ids(1, 4)), read(model, random_ids(1, 6, seed=1))
        assert_same_state(interpolate_states(first, second, 0.0), as_initial_state(first))
        assert_same_state(interpolate_states(first, second, 1.0), as_initial_state(second))
        middle = cache_tensors(interpolate_states(first, second, 0.5))
        for name, tensor in cache_tensors(first).items():
            torch.testing.assert_close(middle[name], (tensor + cache_tensors(second)[name]) / 2)

    def test_different_batches_are_refused(self, model):
        with pytest.raises(ValueError, match="2 and 1 rows"):
            interpolate_states(read(model, random_ids(2, 4)), read(model, random_ids(1, 4)), 0.5)


def test_size_is_that_of_the_formula_for_any_number_of_tokens(model):
    config = model.config
    numbers = config.num_hidden_layers * config.hidden_size * (2 + config.head_dim)
    for tokens in (1, 50):
        assert state_size(read(model, random_ids(3, tokens))) == 3 * 4 * numbers
    rounded = copy.deepcopy(model).bfloat16()
    shifts = config.num_hidden_layers * config.hidden_size * 2
    assert state_size(read(rounded, random_ids(1, 5))) == 4 * numbers - 2 * shifts, "the matrix state stays float32"


class TestInitialStates:
    def test_one_prefix_answers_a_padded_batch_of_questions(self, model):
        """Prefill once, ask many, giving only the questions."""
        prefix, questions = random_ids(1, 7), random_ids(2, 5, seed=1)
        mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
        state = fork_state(as_initial_state(read(model, prefix)), 2)
        answers = model.generate(questions, attention_mask=mask, past_key_values=state, max_new_tokens=8)[:, 5:]
        for row in range(2):
            whole = torch.cat([prefix, questions[row : row + 1, mask[row].bool()]], dim=1)
            assert torch.equal(answers[row], model.generate(whole, max_new_tokens=8)[0, whole.shape[1] :])

    def test_state_given_is_left_alone(self, model):
        state = read(model, random_ids(1, 7))
        before = cache_tensors(state)
        assert as_initial_state(state).get_seq_length() == 0 and state.get_seq_length() == 7
        next_logits(model, as_initial_state(state), random_ids(1, 3))
        assert all(torch.equal(tensor, before[name]) for name, tensor in cache_tensors(state).items())


class TestTrainedStates:
    @pytest.fixture
    def trained(self, model) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        return {f"blocks.{i}.att.time_state": torch.randn(2, 16, 16, generator=generator) for i in range(2)}

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_it_is_the_matrix_state_before_the_first_token(self, model, trained, tmp_path, suffix):
        path = tmp_path / f"trained.{suffix}"
        save_file(trained, path) if suffix == "safetensors" else torch.save(trained, path)
        state = load_trained_state(path, model, batch_size=2)
        assert (state.get_seq_length(), state.batch_size) == (0, 2)
        for layer, tensor in enumerate(trained.values()):
            assert torch.equal(state.get_recurrent_state(layer), tensor.expand(2, -1, -1, -1))
            assert not state.get_conv_state(layer, 0).any() and not state.get_conv_state(layer, 1).any()

    def test_state_of_a_prompt_as_trained_state_continues_but_for_the_token_shift(self, model, tmp_path):
        """So the layout is (heads, value, key): with its shift states put back, it is the prompt's own state."""
        prompt, ids = random_ids(1, 8), random_ids(1, 5, seed=1)
        expected = read(model, prompt)
        tensors = {f"blocks.{i}.att.time_state": expected.get_recurrent_state(i)[0].clone() for i in range(2)}
        torch.save(tensors, tmp_path / "trained.pth")
        state = load_trained_state(tmp_path / "trained.pth", model)
        for layer in range(2):
            for shift in range(2):
                state.update_shift_state(expected.get_conv_state(layer, shift)[..., 0], layer, shift)
        assert torch.equal(next_logits(model, state, ids), next_logits(model, expected, ids))

    def test_bad_files_are_refused(self, model, trained, tmp_path):
        path = tmp_path / "trained.pth"
        with pytest.raises(FileNotFoundError, match="no such file"):
            load_trained_state(path, model)
        torch.save(dict(list(trained.items())[:1]), path)
        with pytest.raises(ValueError, match="the tensor blocks.1.att.time_state is missing"):
            load_trained_state(path, model)
        torch.save({name: tensor[:1] for name, tensor in trained.items()}, path)
        with pytest.raises(
            ValueError, match=r"the wkv of layer 0 has the shape \(1, 16, 16\), expected \(2, 16, 16\)"
        ):
            load_trained_state(path, model)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The same weights in our model and in the `rwkv` package."""
    checkpoint = random_checkpoint(Sizes(layers=3))
    path = tmp_path_factory.mktemp("state") / "model.pth"
    torch.save(checkpoint, path)
    model = RWKV7ForCausalLM(config_of(checkpoint)).eval()
    model.load_state_dict(fla_state_dict(checkpoint))
    return model, load_in_rwkv_package(path)


class TestBlinkDL:
    def test_the_package_continues_from_our_state(self, twins):
        model, package = twins
        state = read(model, random_ids(2, 20, vocab_size=90))
        ids = random_ids(1, 10, seed=1, vocab_size=90)
        logits, _ = package.forward(ids[0].tolist(), state_to_blinkdl(state, row=1), full_output=True)
        expected = next_logits(model, select_rows(state, 1), ids)[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    def test_we_continue_from_the_state_of_the_package(self, twins):
        model, package = twins
        prompt, ids = random_ids(1, 20, vocab_size=90), random_ids(1, 10, seed=1, vocab_size=90)
        _, state = package.forward(prompt[0].tolist(), None)
        ours = state_from_blinkdl(state, model)
        logits, _ = package.forward(ids[0].tolist(), state, full_output=True)  # overwrites its state
        torch.testing.assert_close(next_logits(model, ours, ids)[0], logits, atol=1e-4, rtol=0)

    def test_exported_state_is_a_copy_that_comes_back_the_same(self, twins):
        model, _ = twins
        state = read(model, random_ids(1, 5))
        exported = state_to_blinkdl(state)
        assert [tuple(tensor.shape) for tensor in exported[:3]] == [(128,), (2, 64, 64), (128,)]
        back = state_from_blinkdl(exported, model)
        exported[1].zero_()
        assert_same_state(back, as_initial_state(state))

    def test_the_order_of_axes_is_told_never_guessed(self, twins):
        model, package = twins
        ids = random_ids(1, 10, seed=1, vocab_size=90)
        _, state = package.forward(random_ids(1, 20, vocab_size=90)[0].tolist(), None)
        ours = state_from_blinkdl(state, model)
        turned = [tensor.mT for tensor in state[1::3]]
        turned = [part for three in zip(state[::3], turned, state[2::3], strict=True) for part in three]
        assert_same_state(state_from_blinkdl(turned, model, order="key_value"), ours)
        exported = state_to_blinkdl(ours, order="key_value")
        assert all(torch.equal(one, other) for one, other in zip(exported, turned, strict=True))
        assert not torch.equal(
            next_logits(model, state_from_blinkdl(turned, model), ids), next_logits(model, ours, ids)
        )
        with pytest.raises(ValueError, match="order is 'kv', expected 'value_key' or 'key_value'"):
            state_from_blinkdl(state, model, order="kv")

    def test_lists_that_do_not_fit_are_refused(self, twins):
        model, _ = twins
        exported = state_to_blinkdl(read(model, random_ids(1, 5)))
        with pytest.raises(ValueError, match="has 8 tensors, expected 9"):
            state_from_blinkdl(exported[:-1], model)
        with pytest.raises(
            ValueError, match=r"the time_mix of layer 0 has the shape \(2, 64, 64\), expected \(128,\)"
        ):
            state_from_blinkdl(exported[1:] + exported[:1], model)

# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds of `RWKV7ForCausalLM` on any input: pieces, padding, packing and caches change no number."""

import copy
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.padding import padding_masks
from helpers.text_models import VOCAB_SIZE, cache_tensors, random_ids, tiny_model
from rwkv7_world import RWKV7Cache


TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}  # relative to the largest number
MODELS = {dtype: tiny_model(dtype=dtype, num_hidden_layers=3) for dtype in TOLERANCES}

property_test = settings(max_examples=30, deadline=None, derandomize=True, database=None)
dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
seeds = st.integers(0, 10_000)


@pytest.fixture(params=["reference", "chunked"], autouse=True, scope="module")
def backend(request):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("RWKV7_BACKEND", request.param)
        yield


def assert_near(actual, expected, message=""):
    """Numbers equal up to the rounding of their dtype, relative to the largest."""
    scale = expected.abs().max().item() if expected.numel() else 0
    tolerance = TOLERANCES[expected.dtype] * max(scale, 1)
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0, msg=lambda m: f"{message}: {m}")


def assert_caches_near(actual: dict, expected: dict):
    assert actual.keys() == expected.keys()
    for name in expected:
        assert_near(actual[name], expected[name], name)


def run(model, ids, cache=None, **kwargs):
    """Logits, and the cache after the tokens (a new one unless given)."""
    cache = RWKV7Cache(model.config) if cache is None else cache
    with torch.no_grad():
        return model(ids, past_key_values=cache, **kwargs).logits, cache


def run_alone(model, *pieces):
    """One row of real tokens in pieces, without any mask: logits of each piece, and the states after all."""
    cache, logits = RWKV7Cache(model.config), []
    for piece in pieces:
        empty = torch.zeros(0, model.config.vocab_size, dtype=model.dtype)
        logits.append(run(model, piece[None], cache)[0][0] if len(piece) else empty)
    if cache.get_seq_length() > 0:
        return logits, cache_tensors(cache, row=0)
    _, after_a_token = run(model, torch.zeros(1, 1, dtype=torch.long))
    return logits, {name: torch.zeros_like(x) for name, x in cache_tensors(after_a_token, row=0).items()}


@st.composite
def masks_with_prefix(draw):
    """A mask of a batch, and one of the tokens that stand before it."""
    mask = draw(padding_masks())
    return draw(padding_masks(batch=len(mask), max_time=8)), mask


@dtypes
@property_test
@given(mask=padding_masks(), cuts=st.lists(st.integers(0, 24), max_size=6), whole_mask=st.booleans(), seed=seeds)
def test_any_split_into_cached_pieces_equals_the_whole(dtype, mask, cuts, whole_mask, seed):
    model, ids, time = MODELS[dtype], random_ids(*mask.shape, seed=seed), mask.shape[1]
    expected, expected_cache = run(model, ids, attention_mask=mask)
    cuts = sorted({min(cut, time) for cut in cuts} - {0, time})
    cache, pieces = RWKV7Cache(model.config), []
    for start, end in zip([0, *cuts], [*cuts, time], strict=True):
        piece_mask = mask[:, :end] if whole_mask else mask[:, start:end]
        pieces.append(run(model, ids[:, start:end], cache, attention_mask=piece_mask)[0])
        assert cache.get_seq_length() == end
    assert_near(torch.cat(pieces, dim=1)[mask], expected[mask])
    assert_caches_near(cache_tensors(cache), cache_tensors(expected_cache))


@dtypes
@property_test
@given(mask=padding_masks(max_time=10), seed=seeds)
def test_single_tokens_equal_the_whole(dtype, mask, seed):
    model, ids = MODELS[dtype], random_ids(*mask.shape, seed=seed)
    expected, expected_cache = run(model, ids, attention_mask=mask)
    cache = RWKV7Cache(model.config)
    tokens = [run(model, ids[:, t : t + 1], cache, attention_mask=mask[:, t : t + 1])[0] for t in range(mask.shape[1])]
    assert_near(torch.cat(tokens, dim=1)[mask], expected[mask])
    assert_caches_near(cache_tensors(cache), cache_tensors(expected_cache))


@dtypes
@property_test
@given(mask=padding_masks(), seed=seeds)
def test_padded_batch_equals_single_rows(dtype, mask, seed):
    model, ids = MODELS[dtype], random_ids(*mask.shape, seed=seed)
    logits, cache = run(model, ids, attention_mask=mask.long())
    for row, real in enumerate(mask):
        (expected,), expected_cache = run_alone(model, ids[row, real])
        assert_near(logits[row, real], expected, f"row {row}")
        assert_caches_near(cache_tensors(cache, row), expected_cache)


@dtypes
@property_test
@given(prefix_and_mask=masks_with_prefix(), whole_mask=st.booleans(), seed=seeds)
def test_padded_batch_continues_a_cache_as_single_rows_do(dtype, prefix_and_mask, whole_mask, seed):
    model, (prefix_mask, mask) = MODELS[dtype], prefix_and_mask
    prefix, ids = random_ids(*prefix_mask.shape, seed=seed), random_ids(*mask.shape, seed=seed + 1)
    _, cache = run(model, prefix, attention_mask=prefix_mask)
    passed_mask = torch.cat([prefix_mask, mask], dim=1) if whole_mask else mask
    logits, _ = run(model, ids, cache, attention_mask=passed_mask)
    for row, real in enumerate(mask):
        (_, expected), expected_cache = run_alone(model, prefix[row, prefix_mask[row]], ids[row, real])
        assert_near(logits[row, real], expected, f"row {row}")
        assert_caches_near(cache_tensors(cache, row), expected_cache)


@property_test
@given(mask=padding_masks(), seed=seeds)
def test_ids_in_padding_do_not_matter(mask, seed):
    model, ids = MODELS[torch.float32], random_ids(*mask.shape, seed=seed)
    other_ids = torch.where(mask, ids, (ids + 1) % VOCAB_SIZE)
    logits, cache = run(model, ids, attention_mask=mask)
    other_logits, other_cache = run(model, other_ids, attention_mask=mask)
    assert torch.equal(logits[mask], other_logits[mask])
    assert all(torch.equal(x, cache_tensors(other_cache)[name]) for name, x in cache_tensors(cache).items())


def summed_gradients(model, losses):
    model.zero_grad()
    sum(losses).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def projected(logits):
    """A loss in which every logit has another weight."""
    weights = torch.linspace(-1, 1, logits.shape[-1], dtype=logits.dtype)
    return (logits.log_softmax(-1) * weights).sum()


def test_gradients_of_every_parameter_equal_finite_differences():
    """In float64, which also shows that nothing on the way is rounded to float32."""
    torch.manual_seed(0)
    model, step = MODELS[torch.float64], 1e-6
    ids, mask = random_ids(2, 7), torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 1]], dtype=torch.bool)

    def loss():
        return projected(model(ids, attention_mask=mask, use_cache=False).logits[mask])

    gradients = summed_gradients(model, [loss()])
    for name, parameter in model.named_parameters():
        before, direction = parameter.detach().clone(), torch.randn_like(parameter).sign()
        with torch.no_grad():
            parameter.copy_(before + step * direction)
            up = loss()
            parameter.copy_(before - step * direction)
            down = loss()
            parameter.copy_(before)
        actual, expected = (up - down) / (2 * step), (gradients[name] * direction).sum()
        assert abs(actual - expected) <= 1e-6 * (1 + abs(expected)), name


def test_padded_batch_has_the_gradients_of_single_rows():
    model = MODELS[torch.float64]
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    ids = random_ids(*mask.shape)
    actual = summed_gradients(model, [projected(model(ids, attention_mask=mask).logits[mask])])
    expected = summed_gradients(model, [projected(model(ids[row, mask[row]][None]).logits) for row in range(3)])
    for name in expected:
        assert expected[name].abs().max() > 0
        assert_near(actual[name], expected[name], name)


class Packed(NamedTuple):
    """A batch of rows in which sequences stand one after the other, with padding around and inside them.

    `sequence` numbers the sequences of a row from 0; padding is -1.
    """

    mask: torch.Tensor
    sequence: torch.Tensor
    position_ids: torch.Tensor


@st.composite
def packed_batches(draw, padding=True):
    batch, time = draw(st.integers(1, 3)), draw(st.integers(2, 24))
    real = st.sampled_from([True, True, True, False]) if padding else st.just(True)
    sequences, positions = [], []
    for _ in range(batch):
        sequence, position, row = 0, 0, []
        for _ in range(time):
            if not draw(real):
                row.append((-1, draw(st.integers(0, 3))))  # position ids of padding mean nothing
                continue
            if position > 0 and draw(st.integers(0, 4)) == 0:
                sequence, position = sequence + 1, 0
            row.append((sequence, position))
            position += 1
        sequences.append([s for s, _ in row])
        positions.append([p for _, p in row])
    sequence = torch.tensor(sequences)
    return Packed(sequence >= 0, sequence, torch.tensor(positions))


def check_packed(model, packed, ids, logits, cache, prefix=None):
    """Every sequence as it is alone; the first of a row continues the prefix, the last leaves its state."""
    for row, sequence in enumerate(packed.sequence):
        before = ids[row, :0] if prefix is None else prefix[row]
        for number in range(max(int(sequence.max()), 0) + 1):
            start = before if number == 0 else ids[row, :0]
            (_, expected), state = run_alone(model, start, ids[row, sequence == number])
            assert_near(logits[row, sequence == number], expected, f"row {row}, sequence {number}")
        assert_caches_near(cache_tensors(cache, row), state)


@dtypes
@property_test
@given(packed=packed_batches(padding=False), seed=seeds)
def test_packed_sequences_equal_separate_ones(dtype, packed, seed):
    model, ids = MODELS[dtype], random_ids(*packed.mask.shape, seed=seed)
    logits, cache = run(model, ids, position_ids=packed.position_ids)
    check_packed(model, packed, ids, logits, cache)


@dtypes
@property_test
@given(packed=packed_batches(), seed=seeds)
def test_packed_sequences_with_padding_equal_separate_ones(dtype, packed, seed):
    model, ids = MODELS[dtype], random_ids(*packed.mask.shape, seed=seed)
    logits, cache = run(model, ids, position_ids=packed.position_ids, attention_mask=packed.mask)
    check_packed(model, packed, ids, logits, cache)


@dtypes
@property_test
@given(packed=packed_batches(), prefix_tokens=st.integers(1, 4), seed=seeds)
def test_first_packed_sequence_continues_the_cache_and_the_last_leaves_it(dtype, packed, prefix_tokens, seed):
    model, ids = MODELS[dtype], random_ids(*packed.mask.shape, seed=seed)
    prefix = random_ids(len(ids), prefix_tokens, seed=seed + 1)
    _, cache = run(model, prefix)
    logits, _ = run(model, ids, cache, position_ids=packed.position_ids, attention_mask=packed.mask)
    check_packed(model, packed, ids, logits, cache, prefix)


def test_packed_sequences_have_the_gradients_of_separate_ones():
    model, ids = MODELS[torch.float64], random_ids(1, 12)
    lengths = [5, 1, 6]
    position_ids = torch.cat([torch.arange(length) for length in lengths])[None]
    actual = summed_gradients(model, [projected(model(ids, position_ids=position_ids, use_cache=False).logits)])
    expected = summed_gradients(model, [projected(model(piece).logits) for piece in ids.split(lengths, dim=1)])
    for name in expected:
        assert_near(actual[name], expected[name], name)


def test_position_ids_of_one_row_hold_for_the_whole_batch():
    model, ids = MODELS[torch.float64], random_ids(2, 7)
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    assert_near(run(model, ids, position_ids=position_ids)[0][:, 3:], run(model, ids[:, 3:])[0])


def test_counting_positions_reset_nothing():
    model, ids = MODELS[torch.float32], random_ids(2, 9)
    for first in (0, 5):
        position_ids = torch.arange(first, first + 9).expand(2, 9)
        assert torch.equal(run(model, ids, position_ids=position_ids)[0], run(model, ids)[0])


def test_all_padding_leaves_the_state_bit_for_bit():
    model = MODELS[torch.float32]
    for dirty in (False, True):
        cache = run(model, random_ids(2, 6))[1] if dirty else RWKV7Cache(model.config)
        before = cache_tensors(cache) if dirty else None
        _, cache = run(model, random_ids(2, 5), cache, attention_mask=torch.zeros(2, 5, dtype=torch.long))
        for name, tensor in cache_tensors(cache).items():
            assert torch.equal(tensor, before[name] if dirty else torch.zeros_like(tensor)), name


@dtypes
def test_later_tokens_do_not_change_earlier_logits(dtype):
    model, ids = MODELS[dtype], random_ids(1, 40)
    changed = torch.cat([ids[:, :20], (ids[:, 20:] + 1) % VOCAB_SIZE], dim=1)
    logits, changed_logits = run(model, ids)[0], run(model, changed)[0]
    assert_near(changed_logits[:, :20], logits[:, :20])
    assert (changed_logits[:, 20:] - logits[:, 20:]).abs().amax(dim=-1).min() > 1e-3


@dtypes
def test_first_token_reaches_the_last_logits(dtype):
    model, ids = MODELS[dtype], random_ids(1, 40)
    changed = torch.cat([(ids[:, :1] + 1) % VOCAB_SIZE, ids[:, 1:]], dim=1)
    assert (run(model, ids)[0][:, -1] - run(model, changed)[0][:, -1]).abs().max() > 1e-4


def test_copied_cache_is_a_fork():
    model, ids = MODELS[torch.float32], random_ids(1, 6)
    _, cache = run(model, ids)
    fork, untouched = copy.deepcopy(cache), cache_tensors(cache)
    left, right = random_ids(1, 5, seed=1), random_ids(1, 5, seed=2)
    left_logits = run(model, left, fork)[0]
    assert all(torch.equal(x, untouched[name]) for name, x in cache_tensors(cache).items())
    assert (cache.get_seq_length(), fork.get_seq_length()) == (6, 11)
    right_logits = run(model, right, cache)[0]
    assert_near(left_logits, run(model, torch.cat([ids, left], dim=1))[0][:, 6:])
    assert_near(right_logits, run(model, torch.cat([ids, right], dim=1))[0][:, 6:])


def test_cache_size_does_not_depend_on_the_number_of_tokens():
    model = MODELS[torch.float32]
    config = model.config
    numbers = config.num_hidden_layers * config.hidden_size * (2 + config.head_dim)
    for tokens in (1, 7, 100):
        _, cache = run(model, random_ids(2, tokens))
        run(model, random_ids(2, 3), cache)
        assert sum(x.numel() for x in cache_tensors(cache).values()) == 2 * numbers


def test_gradients_flow_through_the_cache_from_piece_to_piece():
    model, ids = MODELS[torch.float64], random_ids(2, 14)
    cache, losses = RWKV7Cache(model.config), []
    for piece in ids.split([3, 1, 1, 9], dim=1):
        losses.append(projected(model(piece, past_key_values=cache).logits))
    actual = summed_gradients(model, losses)
    expected = summed_gradients(model, [projected(model(ids).logits)])
    for name in expected:
        assert_near(actual[name], expected[name], name)


def test_a_cache_made_without_gradients_can_be_trained_on():
    model, ids = MODELS[torch.float64], random_ids(2, 8)
    _, cache = run(model, ids[:, :3])
    gradients = summed_gradients(model, [projected(model(ids[:, 3:], past_key_values=cache).logits)])
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_state_is_float32_unless_the_model_is_float64(dtype):
    model, ids = copy.deepcopy(MODELS[torch.float32]).to(dtype), random_ids(2, 9)
    logits, cache = run(model, ids)
    assert logits.dtype == dtype and logits.isfinite().all()
    for name, tensor in cache_tensors(cache).items():
        state_dtype = torch.promote_types(dtype, torch.float32)
        assert tensor.dtype == (state_dtype if "recurrent" in name else dtype), name
    step, _ = run(model, ids[:, :1], cache)
    assert step.dtype == dtype and step.isfinite().all()


def test_float64_model_generates():
    model, ids = MODELS[torch.float64], random_ids(1, 5)
    generated = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert torch.equal(generated[0, 5:], run(model, generated[:, :-1])[0][0, 4:].argmax(dim=-1))


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 5), (2, 1, 5, 5)])
def test_mask_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match="attention_mask has shape"):
        run(MODELS[torch.float32], random_ids(2, 5), attention_mask=torch.ones(shape))

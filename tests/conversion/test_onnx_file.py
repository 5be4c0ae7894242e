# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""ONNX files of text models, run by ONNX Runtime with numpy alone, beside PyTorch."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import composites
from helpers.text_models import random_ids, tiny_model
from rwkv7_world import RWKV7ForCausalLM, RWKVQuantizationConfig, RWKVWorldForConditionalGeneration
from rwkv7_world.conversion import onnx_file
from rwkv7_world.conversion.onnx_file import StateAsTensors, compare_with_pytorch, export_onnx


onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TOLERANCE = 1e-5
ROOT = Path(__file__).resolve().parents[2]
States = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> RWKV7ForCausalLM:
    return tiny_model(seed=47)  # few others have greedy tokens that do not soon repeat


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def session(file) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file)


@pytest.fixture(scope="module")
def masked(model, tmp_path_factory) -> onnxruntime.InferenceSession:
    path = tmp_path_factory.mktemp("masked") / "model.onnx"
    export_onnx(model, path, attention_mask=True)
    return onnxruntime.InferenceSession(path)


def zeros(session: onnxruntime.InferenceSession, batch: int) -> States:
    inputs = [value for value in session.get_inputs() if value.name.startswith("state.")]
    return {value.name: np.zeros((batch, *value.shape[1:]), np.float32) for value in inputs}


def run(session, ids, states: States, mask=None) -> tuple[np.ndarray, States]:
    """Logits and the new states by the names of the old ones."""
    padding = {} if mask is None else {"attention_mask": np.asarray(mask)}
    logits, *new = session.run(None, {"input_ids": np.asarray(ids), **padding, **states})
    names = [value.name.removeprefix("new_") for value in session.get_outputs()[1:]]
    return logits, dict(zip(names, new, strict=True))


def states_of(cache) -> States:
    layers = zip(*[iter(cache.state_tensors())] * 3, strict=True)
    names = ("time_mix", "channel_mix", "recurrent")
    states = {f"state.{n}.{name}": x for n, layer in enumerate(layers) for name, x in zip(names, layer, strict=True)}
    return {name: (x if x.dim() == 4 else x.squeeze(-1)).numpy() for name, x in states.items()}


def assert_same(actual: tuple[np.ndarray, States], logits, states: States) -> None:
    assert actual[1].keys() == states.keys()
    for ours, expected in [(actual[0], logits), *((actual[1][name], states[name]) for name in states)]:
        np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (4, 1), (1, 2), (3, 17), (2, 64), (1, 300)])
@torch.no_grad()
def test_any_length_and_any_batch(model, session, batch, time):
    ids = random_ids(batch, time, seed=time)
    expected = model(ids, use_cache=True)
    assert_same(run(session, ids, zeros(session, batch)), expected.logits.numpy(), states_of(expected.cache))


@torch.no_grad()
def test_tokens_may_be_split_anywhere(model, session):
    ids = random_ids(2, 9)
    expected = model(ids, use_cache=True)
    for split in range(1, 9):
        first, states = run(session, ids[:, :split], zeros(session, 2))
        second, states = run(session, ids[:, split:], states)
        logits = np.concatenate([first, second], axis=1)
        assert_same((logits, states), expected.logits.numpy(), states_of(expected.cache))


@torch.no_grad()
def test_float32_is_all_that_differs(model, session):
    """PyTorch in float32 is as far from the same in float64."""
    ids = random_ids(4, 200)
    exact = copy.deepcopy(model).double()(ids).logits.numpy()
    ours, theirs = run(session, ids, zeros(session, 4))[0], model(ids).logits.numpy()
    assert np.abs(ours - exact).max() <= 2 * np.abs(theirs - exact).max()


@torch.no_grad()
def test_greedy_tokens_are_those_of_generate(model, session):
    prompt = random_ids(2, 7)
    ids, states, tokens = prompt.numpy(), zeros(session, 2), []
    for _ in range(20):
        logits, states = run(session, ids, states)
        ids = logits[:, -1:].argmax(-1)
        tokens.append(ids)
    expected = model.generate(prompt, max_new_tokens=20, do_sample=False)[:, 7:]
    assert np.array_equal(np.concatenate(tokens, axis=1), expected)
    assert len(np.unique(expected)) > 5


@pytest.mark.parametrize(
    "mask", [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]
)
@torch.no_grad()
def test_padding_anywhere_is_as_if_it_were_not_there(model, masked, mask):
    mask, before = torch.tensor([mask, [1] * 6]), random_ids(2, 3, seed=1)
    ids = random_ids(2, 6)
    _, states = run(masked, before, zeros(masked, 2), torch.ones(2, 3, dtype=torch.long))
    logits, states = run(masked, ids, states, mask)
    for row in range(2):
        real = mask[row].bool()
        alone = model(torch.cat([before[row], ids[row, real]])[None], use_cache=True)
        actual = logits[row][real], {name: x[row] for name, x in states.items()}
        assert_same(actual, alone.logits[0, 3:].numpy(), {name: x[0] for name, x in states_of(alone.cache).items()})


@torch.no_grad()
def test_a_row_of_padding_leaves_its_state_as_it_was(masked):
    before = run(masked, random_ids(2, 4), zeros(masked, 2), torch.ones(2, 4, dtype=torch.long))[1]
    _, after = run(masked, random_ids(2, 5), before, torch.tensor([[0] * 5, [1] * 5]))
    for name, x in before.items():
        assert np.array_equal(after[name][0], x[0]) and not np.array_equal(after[name][1], x[1])


@torch.no_grad()
def test_learned_states_weights_apart_and_last_logits(tmp_path):
    model = tiny_model(learned_initial_state=True, learned_initial_tokens=True)
    (tmp_path / "written").mkdir()
    done = export_onnx(model, tmp_path / "written" / "model.onnx", last_logits=True, external_data=True)
    assert [path.name for path in done.files] == ["model.onnx", "model.onnx.data", "model.start.npz"]
    assert done.size == sum(path.stat().st_size for path in (tmp_path / "written").iterdir())
    moved = shutil.move(tmp_path / "written", tmp_path / "moved")
    session = onnxruntime.InferenceSession(moved / "model.onnx")
    start = np.load(moved / "model.start.npz")
    states = {name: np.repeat(start[name], 2, axis=0) for name in zeros(session, 1)}
    assert all(x.any() for x in states.values())
    expected = model(random_ids(2, 9), use_cache=True)
    assert_same(run(session, random_ids(2, 9), states), expected.logits[:, -1:].numpy(), states_of(expected.cache))


def test_names_of_the_sizes_and_nothing_of_this_machine(file, session, masked):
    assert session.get_inputs()[0].shape == masked.get_inputs()[0].shape == ["batch", "time"]
    shapes = {value.name: value.shape for value in session.get_outputs()}
    assert shapes["logits"] == ["batch", "time", 37] and shapes["new_state.1.recurrent"] == ["batch", 2, 16, 16]
    assert masked.get_inputs()[-1].name == "attention_mask"
    assert str(ROOT).encode() not in file.read_bytes()
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]


def test_another_result_than_pytorchs_is_refused(model, file):
    exported = StateAsTensors(copy.deepcopy(model))
    assert compare_with_pytorch(exported, file, False) < TOLERANCE
    with torch.no_grad():
        exported.model.model.layers[1].ffn.x_k.add_(0.1)
    with pytest.raises(ValueError, match="ONNX Runtime's result is not PyTorch's"):
        compare_with_pytorch(exported, file, False)


def test_nothing_is_left_of_a_file_that_is_refused(model, file, tmp_path, monkeypatch):
    class Program:
        def save(self, path, external_data):
            shutil.copy(file, path)
            path.with_name(f"{path.name}.data").touch()

    monkeypatch.setattr(onnx_file, "_trace", lambda *args: Program())
    monkeypatch.setattr(onnx_file, "MAX_DIFFERENCE", 0)
    with pytest.raises(ValueError, match="is not PyTorch's"):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def with_nan() -> RWKV7ForCausalLM:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    return model


def quantised() -> RWKV7ForCausalLM:
    config = RWKVQuantizationConfig(bits=8)
    model = tiny_model()
    return RWKV7ForCausalLM.from_pretrained(
        None, config=model.config, state_dict=model.state_dict(), quantization_config=config
    )


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: tiny_model(dtype=torch.bfloat16), "model.embeddings.weight is torch.bfloat16 on cpu"),
        (lambda: RWKVWorldForConditionalGeneration(composites.tiny_config()), "only a text model"),
        (with_nan, "lm_head.weight: holds numbers that are not finite"),
        (quantised, "a quantised model"),
    ],
)
def test_models_that_cannot_be_exported(tmp_path, make, complaint):
    with pytest.raises(ValueError, match=complaint):
        export_onnx(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "model.start.npz"])
def test_no_file_is_overwritten(model, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}: exists already"):
        export_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_the_name_ends_as_onnx_files_do(model, tmp_path):
    with pytest.raises(ValueError, match="model.pt: the name of an ONNX file ends in .onnx"):
        export_onnx(model, tmp_path / "model.pt")
